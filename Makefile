# `make demo` and `make test` are the targets to start with; each target installs what it needs.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: help demo check test test-pure test-all test-uvloop test-eager test-engine test-erlangs engine interop bench bench-venv bench-etf bench-nodes bench-scale bench-wan fuzz fuzz-engine sanitize dist single-file bench-arrays docs lint setup erlang tools clean

help:
	@echo "make demo     run a Python node and a real Erlang node that exchange messages over QUIC"
	@echo "make check    lint, type check, and all tests without sockets, processes or sleeps; one minute"
	@echo "make test     run all tests in WORKERS processes"
	@echo "make test-pure  run the tests that depend on the codec with the pure Python codec"
	@echo "make test-all run the tests that need no Erlang on every other installed Python, with eager tasks and on uvloop"
	@echo "make test-uvloop, make test-eager  run the node tests on uvloop, or with eager tasks"
	@echo "make engine   build the native QUIC engine into the virtual environment (needs cargo)"
	@echo "make test-engine  run the tests of connections, nodes and gateways on the native engine"
	@echo "make test-erlangs  run Erlang tests with other releases of Erlang and Elixir"
	@echo "make interop  run the interop scenarios with every available kind of peer, see interop/README.md"
	@echo "make bench    run the benchmarks and compare with other libraries"
	@echo "make bench-arrays  send large arrays between Elixir and Python, beside ports and HTTP"
	@echo "make bench-wan  run the benchmark on emulated wide-area paths (root), beside Erlang over TCP and TLS"
	@echo "make faults   run the fault scenarios on real networks and print a table; about ten minutes"
	@echo "make soak     run nodes with random traffic, kills and address changes for SOAK_SECONDS"
	@echo "make fuzz     fuzz every parser for FUZZ_SECONDS, see fuzz/README.md"
	@echo "make fuzz-engine  fuzz the native QUIC engine for FUZZ_SECONDS (needs cargo-fuzz)"
	@echo "make sanitize run the tests of compiled modules built with AddressSanitizer and UBSan"
	@echo "make dist     build and test the sdist and a wheel for each of PYTHONS"
	@echo "make single-file  build the command as one file, for PYTHONS, and print its size and start time"
	@echo "make docs     build the guides and the API reference as HTML in docs/_build/html"
	@echo "make lint     run ruff and mypy --strict"
	@echo "make clean    remove the files that the other targets create"

setup: $(BIN)/.installed erlang

$(BIN)/.installed: pyproject.toml setup.py $(wildcard quicdist/etf/_core/* quicdist/carriers/*/_fast/*)
	@sh scripts/make-venv "$(PYTHON)" "$(VENV)"
	@touch $@

erlang:
	@sh scripts/need erlang

demo: setup
	@$(BIN)/quicdist demo

# Tests wait more than they compute, hence three workers for two cores. A worker takes the tests of
# one file in turn, so that module fixtures start once, and then takes tests from other workers.
WORKERS ?= $(shell echo $$(( ($$(getconf _NPROCESSORS_ONLN) * 3 + 1) / 2 )))
PYTEST   = -m pytest -n $(WORKERS) --dist worksteal

check: $(BIN)/.installed
	@sh scripts/check $(BIN) $(shell getconf _NPROCESSORS_ONLN) $(ARGS)

test: tools $(BIN)/.installed
	$(BIN)/python $(PYTEST) $(ARGS)

# Runs before the virtual environment is created, because that step compiles the codec.
tools:
	@sh scripts/need all

# For tests that `make test` runs with more examples of hypothesis.
FEW_EXAMPLES = HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-quick}

# The tests that read or write terms. The other tests do not depend on the choice of codec. `make test`
# compares both codecs with more examples.
PURE_TESTS = tests/etf tests/protocol tests/typed tests/otp tests/node/test_two_nodes.py \
	tests/node/test_erlang.py tests/gateway/test_policy_erlang.py -m "not slow"
test-pure: tools $(BIN)/.installed
	$(FEW_EXAMPLES) QUICDIST_PURE_PYTHON=1 $(BIN)/python $(PYTEST) $(or $(ARGS),$(PURE_TESTS))

test-all: $(BIN)/.installed
	@WORKERS=$(WORKERS) sh scripts/test-all "$(VENV)" $(ARGS)

# The tests that run an event loop in the pytest process. Others would not use the chosen loop.
LOOP_TESTS = tests/carriers tests/node tests/gateway tests/otp tests/doctor tests/metrics \
	tests/typed/test_handlers.py tests/test_blocking.py -m "not erlang and not slow"
test-uvloop: $(BIN)/.installed
	$(FEW_EXAMPLES) QUICDIST_TEST_LOOP=uvloop $(BIN)/python $(PYTEST) $(or $(ARGS),$(LOOP_TESTS))

test-eager:
	@$(FEW_EXAMPLES) QUICDIST_TEST_LOOP=eager WORKERS=$(WORKERS) sh scripts/test-on "$(VENV)" 3.12 $(or $(ARGS),$(LOOP_TESTS))

engine: $(BIN)/.installed
	@sh scripts/make-engine "$(VENV)"

# The tests that use QUIC, except those of the controllers in Python, which the native engine does not
# use. Without cargo there is no native engine, and nothing to test.
ENGINE_TESTS = tests/carriers tests/node tests/gateway tests/doctor \
	--ignore=tests/carriers/quic/congestion
test-engine: tools $(BIN)/.installed
	@sh scripts/make-engine "$(VENV)"
	@sh scripts/test-engine "$(VENV)" $(WORKERS) $(or $(ARGS),$(ENGINE_TESTS))

# QUICDIST_ERLS=/opt/otp27/bin/erl:/opt/otp29/bin/erl runs all of them with each `erl` of the list.
test-erlangs: $(BIN)/.installed
	@WORKERS=$(WORKERS) sh scripts/test-erlangs "$(VENV)" $(ARGS)

interop: setup
	@$(BIN)/python -m interop $(ARGS)

bench: bench-etf bench-nodes bench-scale

bench-venv: setup
	@sh scripts/make-bench-venv "$(BIN)/python" .venv-bench
	@sh scripts/make-engine .venv-bench

bench-etf: bench-venv
	@.venv-bench/bin/python -m benchmarks.etf_compare $(ARGS)

bench-scale: bench-venv
	@.venv-bench/bin/python -m benchmarks.scale $(ARGS)

bench-arrays: bench-venv
	@.venv-bench/bin/python -m benchmarks.arrays $(ARGS)

bench-wan: setup
	@$(BIN)/python -m benchmarks.wan $(ARGS)

bench-nodes: bench-venv
	@.venv-bench/bin/python -m benchmarks.nodes $(or $(ARGS),--picture benchmarks/nodes.svg)

faults: setup
	@$(BIN)/python -m faults $(ARGS)

SOAK_SECONDS ?= 600
soak: setup
	@$(BIN)/python -m soak --seconds $(SOAK_SECONDS) $(ARGS)

FUZZ_SECONDS ?= 1800
fuzz: $(BIN)/.installed
	@sh fuzz/run $(BIN)/python $(FUZZ_SECONDS) $(ARGS)

fuzz-engine: $(BIN)/.installed
	@sh scripts/fuzz-engine "$(VENV)" $(FUZZ_SECONDS) $(ARGS)

sanitize: $(BIN)/.installed
	@sh fuzz/suite $(BIN)/python $(ARGS)

PYTHONS ?= $(PYTHON)
dist:
	@sh scripts/make-dist $(PYTHONS)

single-file:
	@sh scripts/make-single-file $(PYTHONS)

docs: $(BIN)/.docs
	$(BIN)/python -m sphinx -q -W --keep-going -E -b html docs docs/_build/html
	$(BIN)/python -m pytest -q tests/docs/test_site.py
	@echo "docs/_build/html/index.html"

$(BIN)/.docs: $(BIN)/.installed
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_gate.py

clean:
	rm -rf $(VENV) .venv-bench .venv-fuzz build quicdist/etf/_compiled.*.so docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis engine/target engine/fuzz/target
