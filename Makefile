# Needs nothing but Python 3.11 or newer, git, make and bash: each target first makes what it uses.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory
# Targets share .venv and the engine, and their order matters: make -j changes nothing here.
.NOTPARALLEL:

BIN := .venv/bin
# The fast tests first: pytest keeps this order.
FOLDERS := tests/unit tests/contract tests/integration
TESTS = $(wildcard $(FOLDERS) tests/test_*.py)

##@ Use it
.PHONY: help
help: ## list these targets
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2} \
	  END {print ""}' $(MAKEFILE_LIST)

.PHONY: eval
eval: setup engine ## train, save, load and evaluate the digits example in its pinned image, and prove it
	@$(BIN)/python scripts/eval.py

##@ Work on it
.PHONY: test
test: lint types arch engine ## all checks, then all tests (with a real engine and real packages)
	@echo "test: $(TESTS)" >&2
	@$(BIN)/python -m pytest $(TESTS) $(PYTEST_ARGS)

.PHONY: test-unit
test-unit: setup-dev ## the fast tests: no engine, no network
	@echo "test: tests/unit" >&2
	@$(BIN)/python -m pytest tests/unit $(PYTEST_ARGS)

.PHONY: bench
bench: setup-dev engine ## measure side by side with docker build; writes docs/benchmarks.md
	@echo "bench: this takes minutes" >&2
	@$(BIN)/python bench/bench.py

.PHONY: lint
lint: setup-dev ## style: ruff check, ruff format --check
	@echo "lint: ruff" >&2
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

.PHONY: types
types: setup-dev ## types: mypy, strict
	@echo "types: mypy" >&2
	@$(BIN)/mypy

.PHONY: arch
arch: setup-dev ## architecture: which room may import which
	@echo "arch: lint-imports" >&2
	@$(BIN)/lint-imports

.PHONY: golden
golden: setup-dev engine ## rewrite tests/golden from what the code does now; review it as a diff
	@echo "golden: rewriting tests/golden" >&2
	@$(BIN)/python -m pytest tests --update-golden -q $(PYTEST_ARGS)

.PHONY: check
check: lint types arch test ## what CI runs: lint, types, arch, test

.PHONY: clean
clean: ## remove .venv, caches and the example's outputs; run records (.reprobox) stay
	@echo "clean: .venv, caches, build outputs, outputs of the examples" >&2
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name .git -prune -o -name .reprobox -prune -o -type d -name __pycache__ -exec rm -rf {} +
	@rm -f examples/*/model.keras examples/*/*.joblib examples/*/*metrics.json

.PHONY: setup setup-dev engine
setup:
	@scripts/setup.sh

setup-dev:
	@scripts/setup.sh dev

# Wants .venv: a target that needs an engine names setup or setup-dev (or one that does) before it.
engine:
	@scripts/ensure-engine.sh
