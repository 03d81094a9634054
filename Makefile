# Every target does its own set-up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all soak coverage check clean

demo: $(VENV)/.installed
	$(BIN)/pclauto demo

# Two processes of tests, each on one core: trainings this small gain nothing from more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# Before every commit: lint, types, unit tests and one golden path.
test: check
	$(PYTEST) -m "not slow and not soak"

# Before every landing, and in CI: all but what takes an hour.
test-all: check
	$(PYTEST) -m "not soak" --durations 25

# As long as it takes: every documented command, the ten kinds of data, real data at length, and a plan, a training and
# a prediction killed at every third sync and renaming, the training at 50 random moments too.
soak: $(VENV)/.installed
	$(PYTEST) -m soak --durations 25
	OMP_NUM_THREADS=1 $(BIN)/python tests/support/kills.py --kills 50 --stride 3

# What the tests of test-all run of the package; twice their time.
coverage: $(VENV)/.installed
	$(PYTEST) -m "not soak" --cov --cov-report term --cov-report html

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
	rm -rf $(VENV) dist build htmlcov .coverage .pytest_cache .mypy_cache .ruff_cache
