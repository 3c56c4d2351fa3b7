# Everything sets itself up: a virtual environment in $(VENV), a real Triton in a cache folder.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# An Open Inference Protocol server that runs already, host:port; empty: start one here.
TRITON_URL ?=

.PHONY: help demo test lint types unit live clean
help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.developed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed ## classify handwritten digits on a real Triton (TRITON_URL=host:port: on yours)
	@$(BIN)/python -m tritonhttp.cli.demo $(TRITON_URL)

test: lint types unit live ## all that must hold: lint, types, unit tests, tests on a real Triton

lint: $(VENV)/.developed ## ruff
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.developed ## mypy --strict and pyright
	$(BIN)/mypy src tests/typing
	$(BIN)/basedpyright

unit: $(VENV)/.developed ## the tests that need no server
	$(BIN)/pytest tests/unit

live: $(VENV)/.developed ## the tests against a real Triton
	$(BIN)/pytest tests/live

clean: ## remove the environment and what builds left
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
