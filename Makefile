# Two commands do all the set-up on a machine with Python >= 3.11, git and make: `make map` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: map test soak train-smoke check pictures clean

map: $(VENV)/.installed  ## the main job on simulated scenes: needs no network once installed
	$(BIN)/geomap demo
	@echo; echo "The command is $(BIN)/geomap; or type: . $(BIN)/activate, and then geomap."
	@echo "To look at the maps in a browser: $(BIN)/geomap view geomap-demo/maps"

test: $(VENV)/.installed-dev  ## the test suite, in two processes
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: $(VENV)/.installed-dev  ## the long reliability tests: kills, clusters, memory, in minutes
	$(BIN)/pytest -m soak --timeout 3600 --hypothesis-profile fuzz

train-smoke: $(VENV)/.installed-dev  ## train, evaluate and map on a tiny simulated set, in minutes: a check, no weights to use
	$(BIN)/python -m tests.train.smoke_train

check: $(VENV)/.installed-dev  ## what CI runs: linter, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

pictures: $(VENV)/.installed-dev  ## the pictures of the page in README and docs/, from the demonstration; needs Chromium
	rm -rf geomap-demo
	$(BIN)/geomap demo
	$(BIN)/python -m tests.support.screenshots geomap-demo/maps/index.html docs

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "geomap needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing geomap into $(VENV): several GB, some minutes, once"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing geomap and what its tests need into $(VENV): several GB, some minutes, once"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed

clean:  ## remove the environment and the demonstration
	rm -rf $(VENV) geomap-demo
