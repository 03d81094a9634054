# `make demo` and `make test` do all their own set-up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check soak clean

demo: $(VENV)/.installed
	$(BIN)/pclauto demo

# Two files of tests at a time, each on one core: trainings this small gain nothing from more.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Kills a plan, a training and a prediction at every third sync and renaming, and a training at 50 random moments.
soak: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/support/kills.py --kills 50 --stride 3

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
