# Every target sets up what it needs. `make help` lists them.
#
# VENV, PYTHON and INSTALL let another caller (.ci/run) use an environment of its own. SEQUENT_DATABASE_URL points test and demo at
# another server; without it they start the embedded PostgreSQL 18.

VENV ?= .venv
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3,$(if $(shell command -v $(name)),$(name))))
INSTALL ?= --editable '.[dev]'
PYTEST_ARGUMENTS ?= -n logical
BENCH_VENV ?= .bench-venv
# Of tests that search for as long as they are told to: others are ended when they have hung for ten minutes (pyproject.toml).
AS_LONG_AS_IT_TAKES := -o faulthandler_timeout=0

BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Debian keeps ensurepip in a package of its own (python3-venv); python3-pip does as well.
WITHOUT_ENSUREPIP = { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install -qq pip; }

.DEFAULT_GOAL := help
.PHONY: help venv check format test test-all model crash-matrix state-machine demo bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(READY) ## create the virtual environment in $(VENV)

$(READY): pyproject.toml hatch_build.py sequent_py/_native.c $(wildcard sequent_py/c/*.h)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed, and there is no python3 on the path."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; $(PYTHON) is older. Name another: make PYTHON=…"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) 2>/dev/null || $(WITHOUT_ENSUREPIP) || \
		{ echo "$(PYTHON) can create no virtual environment; on Debian: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	@echo "Installing into $(VENV) …"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(INSTALL)
	@touch $(READY)

check: $(READY) ## format, lint, types, names that tests use, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/lint-imports

format: $(READY) ## let ruff write what check asks for
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(READY) ## the tests, in parallel and in random order
	$(BIN)/pytest $(PYTEST_ARGUMENTS) -m "not slow"

test-all: $(READY) ## the slow tests, too; the whole crash matrix is a target of its own
	DECLARED_EXAMPLES=$${DECLARED_EXAMPLES:-1000} $(BIN)/pytest $(PYTEST_ARGUMENTS) -m "not matrix"

model: $(READY) ## the protocol as a model: every order of its steps, and every guard taken away
	$(BIN)/pytest -q -p no:randomly -s $(AS_LONG_AS_IT_TAKES) tests/model

crash-matrix: $(READY) ## kill every command at every step, four ways each; prints step, kill and outcome
	$(BIN)/pytest -q -n 2 -p no:randomly tests/crash

state-machine: $(READY) ## lives of a view schema at random, many; STATE_MACHINE_SEED=… for others
	STATE_MACHINE_EXAMPLES=$${STATE_MACHINE_EXAMPLES:-40} $(BIN)/pytest -q -n 2 -p no:randomly $(AS_LONG_AS_IT_TAKES) tests/stateful

demo: $(READY) ## a view migration of 200 000 events under a writer, and its proof
	$(BIN)/sequent demo

bench: ## rebuilds, windows and appends beside plain SQL and two packages of PyPI; BENCH_ARGUMENTS="--rounds 1"
	@$(MAKE) --no-print-directory VENV=$(BENCH_VENV) INSTALL="--editable '.[bench]'" venv
	$(BENCH_VENV)/bin/python -m bench --docs docs $(BENCH_ARGUMENTS)

docs: $(READY) ## write the pages that are derived from the code
	$(BIN)/python -m sequent_py.view_schema.state_diagram > docs/state-diagram.md.new
	mv docs/state-diagram.md.new docs/state-diagram.md

clean: ## remove everything that these targets made, the embedded server's data included
	rm -rf sequent_py/_native.*.so .venv .ci-venv .bench-venv .sequent dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
