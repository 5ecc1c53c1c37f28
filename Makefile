# Everything that people and CI do with this repository. A fresh machine needs git, make and Python with venv; the rest
# is installed into .venv from the locks. `make` alone lists the targets. Options for the program behind a target go
# into ARGS: make run ARGS="--port 9000", make test ARGS="-k tenant".

PYTHON ?= python3
ARGS ?=

VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCKED := $(PIP) install --require-hashes
UV := uv>=0.9,<1

# Stamps: newer than the locks and pyproject.toml when the environment fits them.
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
BUILD_INPUTS := pyproject.toml requirements.txt requirements-build.txt

# The editable package, built by the locked build backend: no download without a hash, here either.
INSTALL_PACKAGE = $(LOCKED) -r requirements-build.txt && $(PIP) install --no-deps --no-build-isolation --editable .

.DEFAULT_GOAL := help
.PHONY: help install run test check format lint types rules demo docs frameworks bench bench-peers lock clean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*##/\1@/p' $(MAKEFILE_LIST) | while IFS=@ read -r name text; do \
		printf '  make %-12s%s\n' "$$name" "$$text"; done

install: $(RUNTIME)  ## make .venv with what memproxy needs to run

run: $(RUNTIME)  ## serve on 127.0.0.1:8080, with config/memproxy.toml unless MEMPROXY_CONFIG names another file
	@exec env MEMPROXY_CONFIG="$${MEMPROXY_CONFIG:-config/memproxy.toml}" $(BIN)/memproxy serve $(ARGS)

test: check  ## the same as check

check: $(DEV)  ## format, lint, types, rules, tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet -p no:randomly tests/rules
	$(BIN)/python -m pytest $(ARGS)

format: $(DEV)  ## format the code and put imports in order
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

lint: $(DEV)  ## look for mistakes without running anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(DEV)  ## check the types
	$(BIN)/mypy

rules: $(DEV)  ## check the architecture alone
	$(BIN)/python -m pytest --quiet -p no:randomly tests/rules

demo: $(RUNTIME)  ## show what memory does, with a scripted model: no key, nothing left behind
	@exec $(BIN)/memproxy demo $(ARGS)

docs: $(DEV)  ## write what is made of docs/: the settings, the table of frameworks
	$(BIN)/python -m tests.docs.configuration
	$(BIN)/python -m tests.docs.frameworks
	$(BIN)/python -m tests.docs.observability

frameworks: $(DEV)  ## install agent frameworks into .frameworks and try their pages; ARGS="-k langchain" tries one
	$(BIN)/python -m tests.compat.install_frameworks
	$(BIN)/python -m pytest tests/compat/test_frameworks.py $(ARGS)

bench: $(DEV)  ## measure everything and render docs/performance.md; ARGS="relay" one part, ARGS=--quick just tries
	@exec $(BIN)/python -m bench $(ARGS)

bench-peers: $(PEERS)/.installed  ## make .venv-peers with LiteLLM's proxy, to be measured beside memproxy

lock:  ## resolve the dependencies anew into the locks; ARGS=--upgrade takes newer releases
	$(call require_python)
	set -e; tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	$(PYTHON) -m venv "$$tools" && "$$tools/bin/pip" --disable-pip-version-check --quiet install '$(UV)'; \
	lock() { "$$tools/bin/uv" pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 \
		--generate-hashes --custom-compile-command 'make lock' --no-emit-index-url --no-emit-find-links $(ARGS) "$$@"; }; \
	lock pyproject.toml --extra embedded --extra otel --output-file requirements.txt; \
	lock pyproject.toml --extra embedded --extra otel --extra bench --extra dev --constraint requirements.txt \
		--output-file requirements-dev.txt; \
	lock bench/requirements-peers.in --output-file bench/requirements-peers.txt; \
	lock --group build --constraint requirements-dev.txt --output-file requirements-build.txt

clean:  ## remove the environment and everything that can be made again
	rm -rf $(VENV) $(PEERS) .frameworks build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): $(BUILD_INPUTS) | $(BIN)/python
	$(LOCKED) -r requirements.txt
	$(INSTALL_PACKAGE)
	touch $@

$(DEV): $(BUILD_INPUTS) requirements-dev.txt | $(BIN)/python
	$(LOCKED) -r requirements-dev.txt
	$(INSTALL_PACKAGE)
	touch $(RUNTIME) $@

$(PEERS)/.installed: bench/requirements-peers.txt
	$(call require_python)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r $<
	touch $@

$(BIN)/python:
	$(call require_python)
	$(PYTHON) -m venv $(VENV)

define require_python
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "memproxy needs Python 3.11 or newer, but $(PYTHON) is: $$($(PYTHON) --version 2>&1). \
	Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
endef
