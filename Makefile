# Everything sets itself up: a virtual environment in $(VENV), a real Triton in a cache folder.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# An Open Inference Protocol server that runs already, host:port; empty: start one here.
TRITON_URL ?=

.PHONY: help demo test lint generate types unit adversity signals interrupts live programs interop gpu matrix fuzz bench clean
help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# What an editable install does not take from the tree as it is: it is made again where one of these is newer.
BUILT_FROM = pyproject.toml setup.py $(wildcard src/tritonhttp/*/*.[ch])
$(VENV)/.installed: $(BUILT_FROM) | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.developed: $(BUILT_FROM) | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed ## classify handwritten digits on a real Triton (TRITON_URL=host:port: on yours)
	@$(BIN)/python -m tritonhttp.cli.demo $(TRITON_URL)

# The tests against servers that misbehave mostly wait: all but the tests against a real Triton run beside them, one after
# the other. Those have the machine for themselves.
BESIDE = $(if $(filter output-sync,$(.FEATURES)),--jobs=3 --output-sync=target)
# Where there is a compiler the C extensions must be there: without them their tests would be skipped, and all be green.
test: export TRITONHTTP_IMPL ?= $(shell command -v cc >/dev/null && echo c)
test: $(VENV)/.developed ## all that must hold: lint, types, and every test below
	$(MAKE) --no-print-directory $(BESIDE) adversity signals lint types unit programs
	$(MAKE) --no-print-directory live

lint: $(VENV)/.developed ## ruff, and whether the generated files are up to date
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python tools/async_to_sync.py --check

generate: $(VENV)/.developed ## write the blocking client's files that are generated from the asyncio client's
	$(BIN)/python tools/async_to_sync.py

types: $(VENV)/.developed ## mypy --strict and pyright
	$(BIN)/mypy src tests/typing
	$(BIN)/basedpyright

# What runs again without the C extensions: the tests of those who use them.
unit: IN_PYTHON = $(patsubst %,tests/unit/test_%.py,base bytes_tensor clients inference transport)
unit: $(VENV)/.developed ## the tests that need no server
	$(BIN)/pytest tests/unit
	TRITONHTTP_IMPL=python $(BIN)/pytest $(IN_PYTHON)

SIGNALS = $(addprefix tests/adversity/test_,signals.py order.py interrupts.py interrupted_starts.py)
adversity: $(VENV)/.developed ## the tests against servers that misbehave
	TRITON_URL=$(TRITON_URL) $(BIN)/pytest tests/adversity $(addprefix --ignore=,$(SIGNALS))
	TRITONHTTP_IMPL=python $(BIN)/pytest tests/adversity/test_faults.py -k 'blocking and not behind_equal'

signals: $(VENV)/.developed ## the tests of order, and of calls that signals and other exceptions interrupt
	$(BIN)/pytest $(SIGNALS)

interrupts: $(VENV)/.developed ## an exception at every instruction of a call; make test takes a sample of them
	EVERY_PLACE=1 $(BIN)/pytest tests/adversity/test_interrupts.py tests/unit/test_regions.py tests/unit/test_dispatch.py

live: $(VENV)/.developed ## the tests against a real Triton (TRITON_URL=host:port: on yours)
	TRITON_URL=$(TRITON_URL) $(BIN)/pytest tests/live

# The real tritonclient, in an environment of its own: it brings gevent and aiohttp, which ours must not need.
TRITONCLIENT = .venv-tritonclient
$(TRITONCLIENT)/.installed: tests/programs/requirements.txt
	$(PYTHON) -m venv $(TRITONCLIENT)
	$(TRITONCLIENT)/bin/pip install --quiet --requirement tests/programs/requirements.txt
	@touch $@

programs: $(VENV)/.developed $(TRITONCLIENT)/.installed ## programs written for tritonclient, run with it and with ours
	TRITON_URL=$(TRITON_URL) TRITONCLIENT_PYTHON=$(TRITONCLIENT)/bin/python $(BIN)/pytest tests/programs

gpu: $(VENV)/.developed $(TRITONCLIENT)/.installed ## the tests on a GPU of this machine; not part of the tests above
	TRITONCLIENT_PYTHON=$(TRITONCLIENT)/bin/python $(BIN)/pytest tests/gpu || [ $$? -eq 5 ] # 5: all skipped

# MLServer and KServe, each in an environment of its own: what is pinned has releases for Python 3.11 and 3.12.
INTEROP_PYTHON ?= $(PYTHON)
INTEROP = .venv-mlserver/.installed .venv-kserve/.installed
$(INTEROP): .venv-%/.installed: tests/interop/requirements/%.txt
	$(INTEROP_PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --requirement $<
	@touch $@

interop: $(VENV)/.developed $(INTEROP) ## the tests against MLServer and KServe (INTEROP_PYTHON=python3.12); not part of the tests above
	MLSERVER_PYTHON=.venv-mlserver/bin/python KSERVE_PYTHON=.venv-kserve/bin/python $(BIN)/pytest tests/interop

# Each interpreter with the newest numpy, and with 1.26 where that has wheels.
MATRIX = 3.10 3.11 3.12 3.13 3.10-1.26 3.11-1.26 3.12-1.26
matrix: ## unit and adversity tests on Python 3.10 to 3.13, with numpy 2 and 1.26, as far as they are installed
	@for entry in $(MATRIX); do \
	  version=$${entry%%-*}; numpy=$${entry#$$version}; environment=.venv-$$entry; \
	  python$$version -c '' 2>/dev/null || { echo "python$$version: not installed, left out"; continue; }; \
	  echo "== python$$version numpy$${numpy:--2}"; \
	  [ -e $$environment ] || python$$version -m venv $$environment; \
	  $$environment/bin/pip install --quiet --editable '.[test,fast-gzip]' trustme hypothesis ml_dtypes cuda-bindings opentelemetry-sdk \
	    "numpy$${numpy:+~=$${numpy#-}.0}" && \
	  $$environment/bin/pytest -q tests/unit tests/adversity || exit 1; \
	done

fuzz: $(VENV)/.developed ## long runs of random input, not part of the tests
	$(BIN)/python -m tests.fuzz.fuzz_bytes_tensor
	$(BIN)/python -m tests.fuzz.fuzz_repeater

bench: ## ours, its peers and a bare socket side by side (ONLY=small: one case); writes benchmarks/RESULTS.md
	$(PYTHON) benchmarks/run.py $(if $(ONLY),--only $(ONLY))

clean: ## remove the environment and what builds left
	rm -rf $(VENV) .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
