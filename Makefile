# Every target does its own set-up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all soak coverage test-lowest check docs study table clean

demo: $(VENV)/.installed
	$(BIN)/pclauto demo
	@echo 'To use pclauto in this shell: . $(VENV)/bin/activate'

# Two processes of tests, each on one core: trainings this small gain nothing from more.
OPTIONS := -n 2 --dist worksteal
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(OPTIONS)
FAST := -m "not slow and not soak"

# Before every commit: lint, types, unit tests and one golden path.
test: check
	$(PYTEST) $(FAST)

# Before every landing, and in CI: all but the soak.
test-all: check
	$(PYTEST) -m "not soak" --durations 25

# As long as it takes: every documented command, the kinds of data that test-all leaves out, real data at length, and
# a plan and a prediction killed at every sync and renaming, a training at every third and at 50 random moments.
soak: $(VENV)/.installed
	$(PYTEST) -m soak --durations 25
	OMP_NUM_THREADS=1 $(BIN)/python tests/support/kills.py --kills 50 --stride 3

# What the tests of test-all run of the package; twice their time.
coverage: $(VENV)/.installed
	$(PYTEST) -m "not soak" --cov --cov-report term --cov-report html

# The fast tests with every direct dependency at its lower bound in pyproject.toml, on the oldest Python supported or,
# where that is not there, on python3.
LOWEST_PYTHON ?= $(shell python3.10 -c 'import sys; print(sys.executable)' 2>/dev/null || echo python3)
LOWEST := .venv-lowest
LOWEST_PIP := $(LOWEST)/bin/python -m pip --quiet --disable-pip-version-check

test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest $(OPTIONS) $(FAST)

# The next missing runs of benchmarks/study.toml, for so long; their rows go to benchmarks/results. See benchmarks/README.md.
TIME ?= 2h
study: $(VENV)/.installed
	$(BIN)/python benchmarks/study/study_run.py --time $(TIME) $(STUDY)

# Every table and figure of README and docs, from benchmarks/results alone.
table: $(VENV)/.installed
	$(BIN)/python benchmarks/study/study_table.py --write
	$(BIN)/python docs/make_recipes.py

# The documentation, as a folder of pages that load nothing from elsewhere: site/index.html.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

$(LOWEST)/.installed: pyproject.toml .ci/lowest.py
	$(LOWEST_PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST_PIP) install --upgrade pip 'tomli; python_version < "3.11"'
	$(LOWEST)/bin/python .ci/lowest.py test dicom > $(LOWEST)/constraints.txt
	$(LOWEST_PIP) install -c $(LOWEST)/constraints.txt --build-constraint $(LOWEST)/constraints.txt --editable '.[test,dicom]'
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) dist build site htmlcov .coverage .pytest_cache .mypy_cache .ruff_cache
