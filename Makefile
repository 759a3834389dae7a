# `make help` lists what there is. Every target works as the first one after a clone.
.DEFAULT_GOAL := help
.PHONY: help setup broker demo test unit integration check format bench docs clean

PYTHON ?= $(or $(shell sh -c 'command -v python3.11'),python3)
BIN := .venv/bin
BROKER := $(PYTHON) scripts/broker.py
# Tests spend most of their time waiting: two at a time, each file by one process, with a RabbitMQ of its own.
PARALLEL ?= --numprocesses 2 --dist loadfile

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

setup: .venv/installed  ## .venv with everything that development needs

.venv/installed: pyproject.toml scripts/venv.sh
	sh scripts/venv.sh $(PYTHON)
	touch $@

broker:
	@$(BROKER) ensure

demo: .venv/installed  ## a real job on real input, by two worker groups
	$(BROKER) run -- $(BIN)/python examples/stdlib_report/run.py

test: unit integration  ## everything

unit: .venv/installed  ## the tests that need no broker
	$(BIN)/python -m pytest $(PARALLEL) tests

integration: .venv/installed broker  ## against a RabbitMQ of its own, which is killed, and real Celery
	$(BIN)/python -m pytest $(PARALLEL) integration

check: .venv/installed  ## format, lint, types, architecture
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/mypy typing/api.py
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: .venv/installed  ## rewrite what the formatter and the linter can
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

bench: .venv/installed  ## this, Celery and Dramatiq on the same RabbitMQ
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BROKER) run --private -- $(BIN)/python benchmarks/run.py

docs: .venv/installed  ## the documentation, into docs/_build
	$(BIN)/pip install --quiet --editable '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build
	@echo docs/_build/index.html

clean:  ## all that can be made again
	-$(BROKER) stop
	rm -rf .venv .broker build docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
