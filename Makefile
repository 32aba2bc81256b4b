# make setup installs, make run serves, make test proves.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Processes that share out the tests. Most tests wait for servers, so two for each core, up to eight.
TEST_PROCESSES ?= $(shell getconf _NPROCESSORS_ONLN | awk '{ print ($$1 > 4 ? 8 : 2 * $$1) }')

# Tests start hundreds of Python processes: they keep what they compiled.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup run test lint bench chaos soak services clean

help:
	@echo "make setup     install the project and its pinned dependencies into $(VENV)"
	@echo "make run       answer questions on this machine (supportstream dev)"
	@echo "make test      all tests; installs Kafka, Redis, Chromium, kcat and kafkajs first if they are missing;"
	@echo "               TEST_PROCESSES=n shares them out to n processes"
	@echo "make lint      ruff, mypy, import rules"
	@echo "make bench     the product beside the hand-written floor, its store, lanes and replay"
	@echo "make chaos     every fault on three brokers; CHAOS_SEED=n repeats a run, CHAOS_REPORT=file keeps its table,"
	@echo "               CHAOS_ENCRYPTED=1 encrypts the topics"
	@echo "make soak      two random faults at a time for ten minutes (SOAK_MINUTES)"
	@echo "make services  only install what tests and benches run against"
	@echo "make clean     remove $(VENV) and caches"

setup: $(READY)

# The stamp is written last: an interrupted installation is repeated.
$(READY): requirements.lock pyproject.toml ops/make-venv
	@ops/make-venv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

services:
	@ops/install-services

run: setup
	$(BIN)/supportstream dev

test: setup services
	$(BIN)/pytest --numprocesses $(TEST_PROCESSES)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup services
	$(BIN)/supportstream bench turns
	$(BIN)/supportstream bench store
	$(BIN)/supportstream bench lanes
	$(BIN)/supportstream bench replay

chaos: setup services
	CHAOS_CLUSTER=1 $(BIN)/pytest tests/chaos -m "not soak"

soak: setup services
	$(BIN)/pytest tests/chaos/test_soak.py -m soak

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
