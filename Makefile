# Tidegate. `make run` streams a completion on a fresh machine; `make test` is everything CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test check bench microbench soak chaos load docs fmt clean servers test-cog compare-cog bench-cog

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tidegate needs Python 3.11 or newer; '$(PYTHON)' is older. Try: make run PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group test
	@touch $@

run: $(VENV)/.run ## start a small model, the mock provider and the gateway, stream one completion, keep serving
	@$(BIN)/tidegate demo $(ARGS)

servers: ## install nginx and wrk where Debian's packages can be had (tests and bench skip what is missing)
	@scripts/install-servers

QUICK := kernel wire dialect dispatch contract admission ledger predict replay predictions testing
check: $(VENV)/.test ## lint, types, import rules, the quick tests: half a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -m 'not slow' -x $(QUICK:%=tests/%)

test: $(VENV)/.test servers ## everything CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest --cov --cov-report=term

bench: $(VENV)/.run servers ## measure against nginx in the same run; writes bench.json
	@$(BIN)/tidegate bench $(ARGS)

microbench: $(VENV)/.test ## micro-benchmarks of the hot functions, beside published figures
	$(BIN)/pytest tests/micro --benchmark-enable --benchmark-only -o addopts=-q

soak: $(VENV)/.test ## ten minutes of mixed streams with random faults; everything must come back to zero
	$(BIN)/python tests/soak.py $(ARGS)

chaos: $(VENV)/.test ## five minutes of providers that fail, stall, refuse and come back, and 300 clients
	$(BIN)/python tests/chaos.py $(ARGS)

test-cog: $(VENV)/.test ## the contract of Cog's HTTP API, asked of real coglet and of Tidegate, side by side
	scripts/cog-install
	$(BIN)/python scripts/cog-contract $(ARGS)

compare-cog: $(VENV)/.test ## twelve things that Cog does badly, done by both
	scripts/cog-install
	$(BIN)/python scripts/cog-compare $(ARGS)

bench-cog: $(VENV)/.test servers ## predictions a second and streams, beside coglet's
	scripts/cog-install
	$(BIN)/python scripts/cog-bench $(ARGS)

$(VENV)/.load: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group load
	@touch $@

load: $(VENV)/.load ## locust: 10 to 500 users in a minute, judged by service levels; ARGS="--profile spike"
	$(BIN)/python load/run.py $(ARGS)

docs: $(VENV)/.test ## write the generated pages (docs/verdicts.md) anew
	$(BIN)/python scripts/generate-docs

fmt: $(VENV)/.test ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what make made
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache .hypothesis
