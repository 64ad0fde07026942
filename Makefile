PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test lint bench soak requirements

help: ## say what each target does
	@grep -hE '^[a-z.]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z.]+):.*## /  make \1\t/' | expand -t 24

.venv: requirements.txt pyproject.toml ## make the virtual environment from the pinned requirements
	@echo "Installing into .venv (pinned by hash) ..."
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@if command -v uv >/dev/null; then uv pip install -q --python .venv/bin/python --require-hashes -r requirements.txt; \
	else $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.txt; fi
	@if command -v uv >/dev/null; then uv pip install -q --python .venv/bin/python --no-deps -e .; \
	else $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .; fi
	@touch .venv

demo: .venv ## the whole of Headwater on a year of flights (ONCE=1: end by itself)
	@$(BIN)/headwater demo $(if $(ONCE),--once)

test: .venv lint ## lint, types and every test
	$(BIN)/python -m pytest

lint: .venv ## ruff, mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv ## the benchmarks, side by side on this machine (QUICK=1: minutes)
	@set -e; for f in tests/benchmarks/bench_*.py; do \
	  $(BIN)/python $$f $(if $(QUICK),--quick); done
	@echo "The tables and their numbers are in bench/."

soak: .venv ## long fault and load runs
	$(BIN)/python -m pytest tests/soak -p no:cacheprovider

requirements: ## resolve and pin the dependencies again
	uv pip compile -q --generate-hashes --all-extras --universal --python-version 3.11 \
	  --no-emit-index-url --no-header pyproject.toml -o requirements.txt
