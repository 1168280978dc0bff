PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo chat check test test-unit test-serving test-integration test-system test-faults test-notebooks benchmark soak fuzz audit lab lint browser train
.DEFAULT_GOAL := demo

# Set up once, and again when the dependencies have changed.
.venv/installed: requirements.lock pyproject.toml
	@echo "Setting up .venv (the first time only; one to three minutes)"
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" || { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --progress-bar on -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --quiet -e .
	@touch $@

# Chromium and fonts for the browser tests, where the machine has no browser yet.
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)
browser:
	@for name in $(BROWSERS); do command -v $$name >/dev/null && exit 0; done; \
	  command -v apt-get >/dev/null || { echo "Install Chromium or Chrome, then try again"; exit 1; }; \
	  echo "Installing Chromium (once)"; \
	  $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-liberation fonts-vlgothic >/dev/null

demo: .venv/installed
	$(BIN)/mangalib run 01_streaming_walkthrough --html

chat: .venv/installed
	$(BIN)/mangalib chat

# After each change: lint and unit tests, side by side; under 90 s on two cores.
check: .venv/installed
	@$(MAKE) --no-print-directory -j2 lint test-unit

# Everything; a quarter of an hour on two cores, because many tests wait for most of their time.
test: .venv/installed browser
	@$(MAKE) --no-print-directory -j3 test-integration test-system test-faults test-notebooks test-serving test-unit

# No process, no network, no sleep. Every branch of the pure parts must be covered.
PURE := mangalib/serving/answer_protocol.py,mangalib/serving/frame_log.py,mangalib/serving/text_batcher.py,mangalib/serving/replay_store.py,mangalib/protocol/session.py,mangalib/protocol/cards.py,mangalib/aws/event_stream.py
test-unit: .venv/installed
	$(BIN)/python -m coverage run -m pytest -q tests/unit
	@echo "Unit tests cover $$($(BIN)/python -m coverage report --format=total) % of mangalib/, branches included"
	$(BIN)/python -m coverage report --include=$(PURE) --show-missing --fail-under=100
# On the local stack; the serving path has a stack and a process of its own.
SERVING := tests/integration/serving tests/integration/aws tests/integration/local tests/integration/chat
test-serving: .venv/installed
	$(BIN)/python -m pytest -q $(SERVING)
test-integration: .venv/installed
	$(BIN)/python -m pytest -q tests/integration $(SERVING:%=--ignore=%)
# Browsers (`make browser` first), notebooks as jobs, the commands of the documents; faults, soak and fuzz in a process of their own.
FAULTS := tests/system/faults tests/system/soak tests/system/fuzz
test-system: .venv/installed
	$(BIN)/python -m pytest -q tests/system $(FAULTS:%=--ignore=%)
test-faults: .venv/installed
	$(BIN)/python -m pytest -q $(FAULTS)
# Each notebook prints what is recorded in it.
test-notebooks: .venv/installed
	$(BIN)/python -m pytest -q notebooks

# Our speed compared with the alternatives, a table for each target. Nothing else should run meanwhile.
benchmark: .venv/installed
	$(BIN)/python -m benchmarks.speed

# The long ones: half an hour under load with faults, and a million inputs for each parser of untrusted bytes.
soak: .venv/installed
	$(BIN)/python -m tests.system.soak
fuzz: .venv/installed .venv-fuzz/installed
	$(BIN)/python -m tests.system.fuzz
	.venv-fuzz/bin/python -m tests.system.fuzz.guided eventstream

# Atheris beside the project's own libraries.
.venv-fuzz/installed: .venv/installed
	$(PYTHON) -m venv --clear .venv-fuzz
	.venv-fuzz/bin/python -m pip install --disable-pip-version-check --quiet atheris==3.0.0
	echo "$(CURDIR)/.venv/lib/python3.11/site-packages" >.venv-fuzz/lib/python3.11/site-packages/project.pth
	@touch $@

# Known vulnerabilities of the pinned versions, from a public database; in an environment of its own.
audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --disable-pip-version-check --quiet pip-audit==2.10.1
	.venv-audit/bin/pip-audit -r requirements.lock --no-deps --disable-pip

# The intent classifier of data/classifier.npz; to be trained again when data/query_templates.csv changes.
train: .venv/installed
	$(BIN)/python -m tools.train_classifier

lab: .venv/installed
	$(BIN)/jupyter lab --notebook-dir=notebooks

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
