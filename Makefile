# The two commands are `make demo` and `make test`; `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
DATAPATH ?= nfqueue
TIME ?= 60
TARGET ?=
ARGS ?=

BIN := $(VENV)/bin
SETUP := pyproject.toml setup.py scripts/bootstrap
SOURCES := $(wildcard kdht/*.pyx kdht/*.pxd kdht/*/*.pyx kdht/*/*.pxd include/*.h bpf/*)
NEEDS := $(if $(filter socket,$(DATAPATH)),socket,all)

.DEFAULT_GOAL := help
.PHONY: demo test lint format bench fuzz build clean help

demo: $(VENV)/.built-$(NEEDS) ## 8 nodes, real packets, a real data set. DATAPATH=socket: without root. ARGS=--help: options
	$(BIN)/python -m demo --datapath $(DATAPATH) $(ARGS)

test: $(VENV)/.built-all ## all tests; those marked root need root. ARGS="-k wire": some of them
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.built-all ## ruff, mypy and cython-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p kdht -p demo
	PATH=$(abspath $(BIN)):$$PATH cython-lint kdht

format: $(VENV)/.built-all ## put the Python sources in their form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.built-all ## measure; results with the machine's data go to bench/results
	$(BIN)/python -m bench $(ARGS)

fuzz: $(VENV)/.built-all ## look for inputs that break a parser, TIME=600 seconds for each TARGET (all); fuzz/README.md
	$(BIN)/python -m fuzz --time $(TIME) $(addprefix --target ,$(TARGET)) $(ARGS)

build: $(VENV)/.built-$(NEEDS) ## what all others stand on: packages, virtual environment, extensions

$(VENV)/.installed-all: $(SETUP)
	PYTHON=$(PYTHON) scripts/bootstrap $(VENV) all
	touch $(VENV)/.installed-socket $@

$(VENV)/.installed-socket: $(SETUP)
	PYTHON=$(PYTHON) scripts/bootstrap $(VENV) socket
	touch $@

$(VENV)/.built-%: $(VENV)/.installed-% $(SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

clean: ## remove what was built, the virtual environment too
	rm -rf $(VENV) build fuzz/build dist *.egg-info bench/results .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find kdht \( -name '*.so' -o -name '*.c' -o -name '*.bpf.o' \) -delete
	find . -name __pycache__ -prune -exec rm -rf {} +

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16
