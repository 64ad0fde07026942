PYTHON ?= python3
BIN := .venv/bin
# uv where it is, since it is quick; else pip, with the same files.
INSTALL = $(if $(shell command -v uv),uv pip install -q --python $(BIN)/python,$(BIN)/python -m pip install -q --disable-pip-version-check)
PIN = uv pip compile -q --generate-hashes --universal --python-version 3.11 --no-emit-index-url \
	--no-header pyproject.toml

.PHONY: help monitoring demo test lint docs bench soak requirements

help: ## say what each target does
	@grep -hE '^[a-z.]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z.]+):.*## /  make \1\t/' | expand -t 24

.venv: requirements.txt pyproject.toml ## make the virtual environment from the pinned requirements
	@echo "Installing into .venv (pinned by hash) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(INSTALL) --require-hashes -r requirements.txt
	@$(INSTALL) --no-deps -e .
	@touch .venv

.venv/dev: .venv requirements-dev.txt # what tests and benchmarks need besides
	@echo "Installing what the tests need ..."
	@$(INSTALL) --require-hashes -r requirements-dev.txt
	@touch .venv/dev

demo: .venv ## the whole of Headwater on a year of flights (ONCE=1: end by itself)
	@$(BIN)/headwater demo $(if $(ONCE),--once)

test: .venv/dev lint ## lint, types and every test, a file to a core
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

lint: .venv/dev docs ## ruff, mypy, import-linter, and the documentation's links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/dev ## the documentation as a site in build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q

bench: .venv/dev ## the benchmarks, side by side on this machine (QUICK=1: minutes)
	@set -e; for f in tests/benchmarks/bench_*.py; do \
	  $(BIN)/python $$f $(if $(QUICK),--quick); done
	@echo "The tables and their numbers are in bench/."

soak: .venv/dev ## long fault and load runs
	$(BIN)/python -m pytest tests/soak -p no:cacheprovider

monitoring: .venv ## write monitoring/ anew, as compose.yaml uses it
	$(BIN)/headwater monitoring --service dns:service:6566 --worker dns:ingest:9465 \
	  --alertmanager alertmanager:9093 --remote-write http://victoria-metrics:8428/api/v1/write

requirements: ## resolve and pin the dependencies again: all, then of these what running takes
	$(PIN) --all-extras -o requirements-dev.txt
	$(PIN) --extra fast --extra grpc --extra monitoring --extra postgres --extra demo -c requirements-dev.txt -o requirements.txt
