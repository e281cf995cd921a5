# What can be done with this project: `make help`. Everything lands in the virtual environment and in $(OUT); nothing needs root.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV      ?= .venv
# The first Python on PATH that is new enough; where there is none, `make setup` says so.
PYTHON    ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; done; echo python3)
PIP_FLAGS ?=
JOBS      ?= auto
TESTS     ?= tests
SIM       ?= verilator
OUT       ?= out
DEMO_FLAGS ?=
BENCH     ?= array emulator
ROWS      ?= 8
COLS      ?= 8
MULTIPLIER ?= KVP
LEVEL     ?= words

BIN       := $(VENV)/bin
STAMP     := $(VENV)/.installed-dependencies

.PHONY: help setup demo test sim lint bench verilog clean
.PHONY: check-python check-compiler

help:  ## this list
	@echo "Targets (variables are given as NAME=value after the target):"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "  %-8s %s\n", $$1, $$2 }'

setup: $(STAMP)  ## make the virtual environment and install the pinned dependencies [PYTHON, VENV, PIP_FLAGS=options of pip install]

demo: check-compiler $(STAMP)  ## faulty images through the simulated array, EPSILON repairing; table and pictures [OUT, DEMO_FLAGS]
	@$(BIN)/epsilon demo --out $(OUT)/demo $(DEMO_FLAGS)

test: check-compiler $(STAMP)  ## the whole test suite [TESTS, JOBS, PYTEST_FLAGS; EPSILON_DATA=folder that holds MNIST]
	@$(BIN)/python -m pytest $(TESTS) -n $(JOBS) --dist worksteal $(PYTEST_FLAGS)

sim: check-compiler $(STAMP)  ## cocotb benches of the hardware [SIM=verilator or icarus, SIM_FLAGS=for example --bench pe --waves]
	@$(BIN)/python -m sim.benches --sim $(SIM) $(SIM_FLAGS)

lint: $(STAMP)  ## check style and format, and the generated Verilog by Verilator
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m sim.lint

bench: check-compiler $(STAMP)  ## speed of the Verilated array and of the emulator on this machine [BENCH=array emulator simulators, BENCH_FLAGS]
	@for each in $(BENCH); do $(BIN)/epsilon bench $$each $(BENCH_FLAGS) || exit; done

verilog: $(STAMP)  ## plain Verilog of an accelerator, to $(OUT)/accelerator.v [ROWS, COLS, MULTIPLIER, LEVEL=words or gates, OUT]
	@mkdir -p $(OUT)
	@$(BIN)/epsilon verilog --rows $(ROWS) --cols $(COLS) --multiplier $(MULTIPLIER) --level $(LEVEL) -o $(OUT)/accelerator.v

clean:  ## remove results and caches; the virtual environment too with ALL=1 [ALL]
	rm -rf $(OUT) build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find epsilon hdl sim tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
	$(if $(ALL),rm -rf $(VENV))

$(STAMP): pyproject.toml | check-python
	@echo "Installing into $(VENV) (once; torch alone is a few hundred megabytes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment: its venv module is incomplete (Debian and Ubuntu keep it in python3-venv)." >&2; exit 1; }
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on $(PIP_FLAGS) -e '.[dev]'
	@touch $@

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed, but '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo 'not there'); name one with make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.11." >&2; exit 1; }

check-compiler:
	@for c in "$$CXX" g++ clang++; do test -n "$$c" && $$c --version >/dev/null 2>&1 && exit; done; \
		echo "A C++ compiler is needed to build the simulated array, but there is none on PATH; install g++ or set CXX." >&2; exit 1
