# The things a newcomer does. Each prepares .venv by itself; nothing else is needed first.
#
#   make demo    real tiny.en weights in, a compiled artifact out, a sample clip transcribed
#   make test    everything needed to pass the tests
#   make check   formatting, lint, types, tests
#   make bench   speed and memory beside other engines (needs a speech corpus, minutes)
#   make clean   forget .venv and what was built

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench clean

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.with-%: pyproject.toml | $(BIN)/python
	@echo "installing mwc[$*] into $(VENV) (the first time this downloads MAX: a few hundred MB)"
	$(PIP) install --editable '.[$*]'
	@touch $@

demo: $(VENV)/.with-demo
	$(BIN)/mwc demo

test: $(VENV)/.with-test
	MWC_TEST_COMPILE_AHEAD=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.with-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(VENV)/.with-bench
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

format: $(VENV)/.with-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .bench build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
