# Needs make and Python 3.11, 3.12 or 3.13; everything else is fetched into .venv and .trendcast.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON := # a Python to use instead of the first fitting one: make setup PYTHON=/path/to/python3.12
DEBIAN_PACKAGES := redis-server docker-compose prometheus chromium

.PHONY: help setup demo test test-system lint

help:
	@echo "make setup                 the environment, in $(VENV); the other targets begin with it"
	@echo "make demo                  all of it on this machine, until Ctrl-C"
	@echo "make demo MINUTES=3        the same for three minutes, with a summary; DATA=FILE: real order lines; SPEED=N: times real time"
	@echo "make test                  the tests; no root, no Docker, no Java needed"
	@echo "make test-system           the tests that need Debian's packages ($(DEBIAN_PACKAGES)), which it installs"
	@echo "make lint                  ruff and mypy"
	@echo "make bench-NAME            benchmarks/NAME.py"

setup: $(READY)
	@:

$(READY): requirements.txt pyproject.toml
	@set -e; \
	fits() { "$$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }; \
	python=; for name in $(or $(strip $(PYTHON)),python3 python3.13 python3.12 python3.11); do \
	  if fits "$$name"; then python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "trendcast needs Python 3.11, 3.12 or 3.13; $(or $(strip $(PYTHON)),python3) is: $$($(or $(strip $(PYTHON)),python3) --version 2>&1 || true)" >&2; \
	  echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name one: make setup PYTHON=/path/to/python3.12" >&2; exit 1; fi; \
	if ! "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
	  echo "$$python cannot make virtual environments; Debian and Ubuntu keep that in a package of its own: apt-get install python3-venv" >&2; exit 1; fi; \
	if ! fits "$(BIN)/python"; then echo "1/3 virtual environment in $(VENV)"; "$$python" -m venv --clear "$(VENV)"; fi
	@echo "2/3 packages, checked against requirements.txt (3 GB on disk; some minutes the first time)"
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input --require-hashes -r requirements.txt || { \
	  echo "The packages could not be installed; the reason stands above. Check the connection and the disk space, then say make setup again." >&2; exit 1; }
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet --no-deps --no-build-isolation --editable .
	@echo "3/3 Kafka, Java and Redis"
	@$(BIN)/python -m simulator.embedded
	@touch $@

demo: setup
	@$(BIN)/trendcast demo $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SPEED),--speed $(SPEED)) $(if $(DATA),--data "$(DATA)")

# Each process starts servers of its own, and a file's tests stay together: they share them.
test: setup
	$(BIN)/python -m pytest -m "not system" --numprocesses logical --maxprocesses 4 --dist loadfile

test-system: setup
	@missing=; for package in $(DEBIAN_PACKAGES); do command -v $$package >/dev/null || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then \
	  if ! command -v apt-get >/dev/null; then echo "make test-system needs these programs:$$missing (on Debian it installs them)" >&2; exit 1; fi; \
	  if [ "$$(id -u)" = 0 ]; then as_root=; elif sudo -n true 2>/dev/null; then as_root="sudo -n"; else \
	    echo "make test-system needs root, or sudo without a password, to install:$$missing; or install them yourself" >&2; exit 1; fi; \
	  $$as_root apt-get update -q && \
	  $$as_root env RUNLEVEL=1 SYSTEMD_OFFLINE=1 DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; fi
	$(BIN)/python -m pytest -m system

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench-%: setup
	$(BIN)/python -m benchmarks.$*$(if $(DATA), --data "$(DATA)")
