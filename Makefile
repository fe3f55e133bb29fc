PYTHON ?= python3
BIN := .venv/bin

.PHONY: install quickstart test lint clean

install: .venv/installed  ## create .venv and install bsssl with everything it needs

.venv/installed: setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

quickstart: install  ## the whole recipe on handwritten digits, without a download
	$(BIN)/python tools/run_recipe.py --config projects/image/quickstart.yaml

test: install  ## the whole test suite
	$(BIN)/python -m pytest

lint: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv outputs build *.egg-info
