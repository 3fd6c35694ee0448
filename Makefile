# Everything a newcomer or CI needs; `make help` lists it. Each target makes the environment if it is missing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Containers often forbid to keep bytecode; every process here would then compile all of rsl once more.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run report test lint types docs bench reproduce clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make the environment in .venv

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $(READY)

run: $(READY) ## carry lifts of a two-layer network along the flow on the packaged digits, as far as the verdict needs, then report
	$(BIN)/rsl run experiment=digits_flow until=verdict budget=10m

report: $(READY) ## report on the latest study again
	$(BIN)/rsl report

test: $(READY) ## the whole test suite
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

lint: $(READY) ## style, import order, docstrings, format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## static types
	$(BIN)/pyright

docs: $(READY) ## the manual, in docs/_build; warnings are errors
	$(BIN)/python -m sphinx -b html -q -W --keep-going docs docs/_build

bench: $(READY) ## layers, steps, sweeps, memory and the flow against their rivals; writes the manual's tables
	$(BIN)/python scripts/bench_layer.py
	$(BIN)/python scripts/bench_layer.py --dtype float64
	$(BIN)/python scripts/bench_layer.py --n 16384 --in-degree 16 --repeats 21
	$(BIN)/python scripts/bench_order.py
	$(BIN)/python scripts/bench_network.py
	$(BIN)/python scripts/bench_step.py
	$(BIN)/python scripts/bench_sweep.py
	$(BIN)/python scripts/bench_memory.py
	$(BIN)/python scripts/bench_integrators.py
	$(BIN)/python scripts/bench_report.py
	$(BIN)/python scripts/bench_flow.py

reproduce: $(READY) ## the gallery's studies again, their verdicts held against those committed; STUDY=name: one of them
	$(BIN)/python scripts/reproduce.py $(STUDY)

clean: ## remove the environment and caches; results stay
	rm -rf $(VENV) build dist docs/_build docs/_generated *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
