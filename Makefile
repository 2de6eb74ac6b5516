# `make demo` and `make test` are all a newcomer needs; each sets up what it uses.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: help demo test interop lint setup erlang compose clean

help:
	@echo "make demo     a Python node and a real Erlang node talk over QUIC"
	@echo "make test     every test"
	@echo "make interop  one list of scenarios with every kind of peer, see interop/README.md"
	@echo "make lint     ruff and mypy --strict"
	@echo "make clean    removes what the others made"

setup: $(BIN)/.installed erlang

$(BIN)/.installed: pyproject.toml
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

interop: setup
	@$(BIN)/python -m interop $(ARGS)

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
