PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test lab lint
.DEFAULT_GOAL := demo

# Set up once, and again only when what is to be installed has changed.
.venv/installed: requirements.lock pyproject.toml
	@echo "Setting up .venv (the first time only; one to three minutes)"
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" || { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --progress-bar on -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --quiet -e .
	@touch $@

demo: .venv/installed
	$(BIN)/mangalib run 01_streaming_walkthrough --html

test: .venv/installed
	$(BIN)/python -m pytest

lab: .venv/installed
	$(BIN)/jupyter lab --notebook-dir=notebooks

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
