# Everything a person does here. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/sh

# The first of these that is Python 3.11 or newer makes the virtual environment; override with PYTHON=...
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
NODE := $(BIN)/python -m deploy.local
PROTOS := $(shell find proto/solmu proto/buf proto/kms -name '*.proto')
SOURCES := services gateway deploy tests

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

$(VENV)/bin/python:
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Solmu needs Python 3.11 or newer: on the PATH, or named by make PYTHON=/path/to/python3." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making a virtual environment with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(VENV)

# What the node runs on, by hash, and the project itself without reaching for an index.
$(VENV)/.node: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing the node's dependencies (requirements.lock) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --no-index -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.node
	@echo "Installing what tests and lint need (requirements-dev.lock) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

.PHONY: setup
setup: $(VENV)/.dev ## Install all dependencies, development ones included, into .venv

.PHONY: up
up: $(VENV)/.node ## Start the node; returns when it is ready
	@$(NODE) up

.PHONY: down
down: $(VENV)/.node ## Stop the node; its state stays in .solmu
	@$(NODE) down

.PHONY: status
status: $(VENV)/.node ## Show the node's processes
	@$(NODE) status

.PHONY: backup restore
backup: $(VENV)/.node ## Save the node into FILE=...; it may run
	@$(BIN)/python -m deploy.local.backup save "$(FILE)"

restore: $(VENV)/.node ## Restore FILE=... where there is no node yet
	@$(BIN)/python -m deploy.local.backup restore "$(FILE)"

.PHONY: demo
demo: $(VENV)/.node ## Send a decision to a resident, on a node that is started if need be
	@$(BIN)/python -m deploy.local.demo

.PHONY: test
test: $(VENV)/.dev ## Run the tests, on real engines
	@$(BIN)/python -m pytest -q tests

.PHONY: lint
lint: $(VENV)/.dev ## Check style, types, contracts, import rules and generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH=$(BIN):$$PATH $(BIN)/lint-imports --no-logo
	$(BIN)/buf lint proto
	$(BIN)/buf format --diff --exit-code proto
	@$(MAKE) --no-print-directory proto-check

.PHONY: fmt
fmt: $(VENV)/.dev ## Format sources and contracts
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format -w proto

.PHONY: proto
proto: $(VENV)/.dev ## Generate code and documents from contracts and settings
	@PATH=$(BIN):$$PATH $(BIN)/python proto/generate.py proto
	@$(BIN)/python -m gateway.openapi
	@$(BIN)/python -m deploy.config reference > deploy/settings.md

.PHONY: proto-check
proto-check: $(VENV)/.dev
	@PATH=$(BIN):$$PATH $(BIN)/python proto/generate.py --check proto

.PHONY: bench
bench: $(VENV)/.dev ## Measure start, memory, throughput, and checks beside other engines; FLAGS="--help" says more
	@$(BIN)/python -m tests.bench $(FLAGS)

.PHONY: faults
faults: $(VENV)/.dev ## Long runs that kill processes at random while messages are sent
	@$(BIN)/python -m pytest -q tests/faults/test_dying.py tests/journeys/test_batch_of_letters.py -m long -s

.PHONY: upgrade
upgrade: $(VENV)/.dev ## Update a node under load and put it back: from the last release, or the commit FROM=...
	PATH=$(BIN):$$PATH $(BIN)/buf breaking proto --against \
		".git#ref=$(or $(FROM),$(shell git log --max-count=1 --format=%H -- deploy/migrations.txt)),subdir=proto"
	@FROM="$(FROM)" $(BIN)/python -m pytest -q tests/faults/test_upgrade.py -m long -s

# What goes into the image of the services; a mirror, a proxy's authority and its pip configuration can be named.
# NO_CACHE=yes builds all of it anew.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
comma := ,
IMAGE ?= solmu:$(VERSION)
IMAGE_FLAGS := $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
	$(if $(PIP_CONFIGURATION),--secret id=pip_configuration$(comma)src=$(PIP_CONFIGURATION)) \
	$(if $(AUTHORITIES),--secret id=authorities$(comma)src=$(AUTHORITIES)) \
	$(if $(NO_CACHE),--no-cache)

.PHONY: images
images: $(VENV)/.dev ## Build the image of the services and its parts list (needs Docker)
	DOCKER_BUILDKIT=1 docker build --tag $(IMAGE) --file deploy/images/Dockerfile $(IMAGE_FLAGS) .
	@mkdir -p dist
	$(BIN)/cyclonedx-py requirements deploy/images/requirements.lock --pyproject pyproject.toml --mc-type application \
		--spec-version 1.6 --output-reproducible --output-file dist/solmu-$(VERSION).cdx.json
	@docker image inspect --format 'The image $(IMAGE) has {{.Size}} bytes.' $(IMAGE)

.PHONY: test-containers
test-containers: $(VENV)/.dev ## Run tests of single services on engines in containers, and whole nodes in compose
	$(BIN)/python -m pytest -q tests/integration/messages tests/integration/runtime
	$(BIN)/python -m pytest -q -m long $(wildcard tests/journeys/test_compose*.py)

.PHONY: attack
attack: $(VENV)/.dev ## Attack a node's edge, and say what was tried and what was observed
	@$(BIN)/python -m pytest -q tests/attack -m 'long or not long' -s

.PHONY: locks
locks: ## Resolve the dependencies anew into requirements*.lock (needs uv)
	uv pip compile pyproject.toml --extra node --group build --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header -q -o requirements.lock
	uv pip compile pyproject.toml --extra node --group build --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header -q -o requirements-dev.lock
	uv pip compile pyproject.toml --extra pkcs11 --constraint requirements-dev.lock --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header -q -o deploy/images/requirements.lock

.PHONY: clean
clean: down ## Stop the node and delete its state and the virtual environment
	rm -rf .solmu $(VENV)
