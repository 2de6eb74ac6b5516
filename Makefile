# `make demo` and `make test` are all a newcomer needs; each sets up what it uses.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: help demo check test test-pure test-all test-uvloop test-eager test-erlangs interop bench bench-venv bench-etf bench-nodes bench-scale bench-wan fuzz sanitize dist docs lint setup erlang tools clean

help:
	@echo "make demo     a Python node and a real Erlang node talk over QUIC"
	@echo "make check    lint, types, and every test without sockets, processes or sleeps; a minute"
	@echo "make test     every test, in WORKERS processes"
	@echo "make test-pure the tests of what the codec carries, on the one in pure Python"
	@echo "make test-all every test that needs no Erlang, on every Python that can be had"
	@echo "make test-uvloop, make test-eager  the tests of nodes, on uvloop and with eager tasks"
	@echo "make test-erlangs  the tests with a real Erlang, with each erl of QUICDIST_ERLS=erl:erl"
	@echo "make interop  one list of scenarios with every kind of peer, see interop/README.md"
	@echo "make bench    how fast it is, next to others"
	@echo "make bench-wan the same on emulated wide-area paths (root), beside Erlang over TCP and TLS"
	@echo "make faults   bad networks and machines, tried for real; some ten minutes, prints a table"
	@echo "make soak     nodes under random traffic, kills and moves, SOAK_SECONDS long"
	@echo "make fuzz     hostile bytes for every parser, FUZZ_SECONDS long, see fuzz/README.md"
	@echo "make sanitize the codec's tests with a core built to find faults of memory"
	@echo "make dist     the sdist and a wheel for each of PYTHONS, and a test of both"
	@echo "make docs     the guides and the API reference as HTML, in docs/_build/html"
	@echo "make lint     ruff and mypy --strict"
	@echo "make clean    removes what the others made"

setup: $(BIN)/.installed erlang

$(BIN)/.installed: pyproject.toml setup.py $(wildcard quicdist/etf/_core/*)
	@sh scripts/make-venv "$(PYTHON)" "$(VENV)"
	@touch $@

erlang:
	@sh scripts/need erlang

demo: setup
	@$(BIN)/quicdist demo

# Tests wait more than they compute: three workers for two cores. A worker takes the next test of
# its file, so that what a module starts is started once, and steals from another when it is done.
WORKERS ?= $(shell echo $$(( ($$(getconf _NPROCESSORS_ONLN) * 3 + 1) / 2 )))
PYTEST   = -m pytest -n $(WORKERS) --dist worksteal

check: lint
	$(BIN)/python $(PYTEST) -q -m "not io and not slow" $(ARGS)

test: tools $(BIN)/.installed
	$(BIN)/python $(PYTEST) $(ARGS)

# Before the virtual environment: the codec's core is compiled when that is made.
tools:
	@sh scripts/need all

# What reads or writes terms, and nodes that exchange them; the rest never sees which codec it is.
PURE_TESTS = tests/etf tests/protocol tests/typed tests/otp tests/node/test_two_nodes.py \
	tests/node/test_erlang.py tests/gateway/test_policy_erlang.py
test-pure: tools $(BIN)/.installed
	QUICDIST_PURE_PYTHON=1 $(BIN)/python $(PYTEST) $(or $(ARGS),$(PURE_TESTS))

test-all: $(BIN)/.installed
	@WORKERS=$(WORKERS) sh scripts/test-all "$(VENV)" $(ARGS)

# What runs on an event loop of this process: not the command, nor what has no loop.
LOOP_TESTS = tests/carriers tests/node tests/gateway tests/otp tests/doctor tests/metrics \
	tests/typed/test_handlers.py tests/test_blocking.py -m "not erlang"
test-uvloop: $(BIN)/.installed
	QUICDIST_TEST_LOOP=uvloop $(BIN)/python $(PYTEST) $(or $(ARGS),$(LOOP_TESTS))

test-eager:
	@QUICDIST_TEST_LOOP=eager WORKERS=$(WORKERS) sh scripts/test-on "$(VENV)" 3.12 $(or $(ARGS),$(LOOP_TESTS))

test-erlangs: $(BIN)/.installed
	@WORKERS=$(WORKERS) sh scripts/test-erlangs "$(VENV)" $(ARGS)

interop: setup
	@$(BIN)/python -m interop $(ARGS)

bench: bench-etf bench-nodes bench-scale

bench-venv: setup
	@sh scripts/make-bench-venv "$(BIN)/python" .venv-bench

bench-etf: bench-venv
	@.venv-bench/bin/python -m benchmarks.etf_compare $(ARGS)

bench-scale: bench-venv
	@.venv-bench/bin/python -m benchmarks.scale $(ARGS)

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

sanitize: $(BIN)/.installed
	@sh fuzz/suite $(BIN)/python $(ARGS)

PYTHONS ?= $(PYTHON)
dist:
	@sh scripts/make-dist $(PYTHONS)

docs: $(BIN)/.docs
	$(BIN)/python -m sphinx -q -W --keep-going -E -b html docs docs/_build/html
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
	rm -rf $(VENV) .venv-bench .venv-fuzz build quicdist/etf/_compiled.*.so docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
