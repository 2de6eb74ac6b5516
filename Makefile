# `make demo` and `make test` are all a newcomer needs; each sets up what it uses.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: help demo test test-pure test-all interop bench bench-venv bench-etf bench-nodes bench-scale bench-wan fuzz sanitize dist docs lint setup erlang compose clean

help:
	@echo "make demo     a Python node and a real Erlang node talk over QUIC"
	@echo "make test     every test"
	@echo "make test-pure every test, on the codec in pure Python"
	@echo "make test-all every test that needs no Erlang, on every Python that can be had"
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
	@sh scripts/need-erlang

compose:
	@sh scripts/need-compose

demo: setup
	@$(BIN)/quicdist demo

test: setup compose
	$(BIN)/python -m pytest $(ARGS)

test-pure: setup
	QUICDIST_PURE_PYTHON=1 $(BIN)/python -m pytest $(ARGS)

test-all: erlang
	@sh scripts/test-all "$(VENV)" $(ARGS)

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

clean:
	rm -rf $(VENV) .venv-bench .venv-fuzz build quicdist/etf/_compiled.*.so docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
