PYTHON ?= python3
BIN := .venv/bin

.PHONY: install quickstart quickstart-video test fuzz test-cluster lint package docs screenshots clean

install: .venv/installed  ## create .venv and install bsssl with everything it needs (about 6 GB: torch brings CUDA)

.venv/installed: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "bsssl needs Python 3.10 or newer; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable '.[dev]'
	@touch $@

quickstart: install  ## the whole recipe on handwritten digits, without a download; seeds=5 for mean and spread
	$(BIN)/python tools/run_recipe.py --config projects/image/quickstart.yaml $(if $(seeds),seeds=$(seeds))

quickstart-video: install  ## the same on moving digits, as H.264 videos; seeds=1 for a quick look
	$(BIN)/python tools/run_recipe.py --config projects/video/quickstart.yaml $(if $(seeds),seeds=$(seeds))

test: install  ## the whole test suite, but for what needs a cluster: its tests take turns on one, see test-cluster
	env -u SLURM_CONF $(BIN)/python -m pytest --numprocesses auto

minutes ?= 10
fuzz: install  ## damaged input of every kind for `minutes`; inputs that are not answered in a clear line go to outputs/fuzz
	$(BIN)/python -m tests.fuzz.run --minutes $(minutes)

test-cluster: install  ## what needs a Slurm cluster, on one of two nodes on this machine (as root, with apt)
	tests/cluster/cluster.sh start
	. $${BSSSL_CLUSTER:-/tmp/bsssl-cluster}/env.sh && $(BIN)/python -m pytest tests/cluster; status=$$?; \
		tests/cluster/cluster.sh stop; exit $$status

lint: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

package: install  ## the wheel and the source distribution, in dist/, checked
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

docs: PYTHON := $(or $(wildcard $(BIN)/python),$(PYTHON))
docs:  ## what is drawn and written from the code: the picture in docs/architecture.md, and docs/settings.md
	$(PYTHON) docs/draw_architecture.py
	$(PYTHON) -m docs.write_settings

screenshots: install  ## those of reports in README.md, of both quickstarts in outputs/, with Chromium
	$(BIN)/python -m docs.take_screenshots

clean:
	rm -rf .venv outputs build *.egg-info
