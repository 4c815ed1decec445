# The two commands are `make demo` and `make test`; `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
DATAPATH ?= nfqueue
TIME ?= 60
TARGET ?=
# Test processes at once. Most tests wait more than they compute. As root each has a network of its own, so they never meet.
JOBS ?= $(if $(filter 0,$(shell id -u)),$(shell expr 2 \* $$(nproc)),0)
ARGS ?=
# What failed beside others (status 1) has to pass alone: several clusters on two processors may be late for each other.
ALONE = { [ $$? = 1 ] && [ $(JOBS) != 0 ] && $(BIN)/python -m pytest --last-failed --last-failed-no-failures none $(ARGS); }
# A kernel that a test loads the XDP program into. It needs root, as that test does.
KERNEL := $(if $(filter 0,$(shell id -u)),build/kernels/.fetched-6.1)
# A bare Debian that tests install kdht's package into.
TREE := $(if $(filter 0,$(shell id -u)),build/debian/tree.tar)
export PREFIX ?= /usr/local
export DESTDIR ?=
export PIP_ARGS ?=

BIN := $(VENV)/bin
SETUP := pyproject.toml setup.py scripts/bootstrap
SOURCES := $(shell find kdht -name "*.p[yx][xd]") $(wildcard include/*.h bpf/*)
NEEDS := $(if $(filter socket,$(DATAPATH)),socket,packets)
# A demonstration of nfqueue waits for no compiler of XDP programs.
DEMO_NEEDS := $(if $(filter socket nfqueue,$(DATAPATH)),$(DATAPATH),packets)

.DEFAULT_GOAL := help
.PHONY: demo faces test check lint format bench histories kernels fuzz screenshots build wheel wheels deb man install uninstall clean help

demo: $(VENV)/.built-$(DEMO_NEEDS) ## 8 nodes, real packets, a real data set. DATAPATH=socket: without root. ARGS=--help: options
	$(BIN)/python -m demo --datapath $(DATAPATH) $(ARGS)

faces: $(VENV)/.built-socket ## a cluster on loopback with DNS, HTTP and a tracker, and what to try. Ctrl-C ends it. ARGS=--help: options
	$(BIN)/python -m demo.faces $(ARGS)

test: $(VENV)/.built-all $(KERNEL) $(TREE) ## all tests; those marked root need root. ARGS="-k wire": some of them; JOBS=0: one after the other
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --durations 20 $(ARGS) || $(ALONE)

check: lint ## lint, types and the tests that need neither root nor daemons: while you edit
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not root and not browser and not cluster and not slow" $(ARGS)

# The tests' processes have a network of their own, without a way to Debian's archive. Without one here the test is skipped.
build/kernels/.fetched-%:
	scripts/kernels fetch $* && touch $@ || true

build/debian/tree.tar: scripts/debian-tree
	scripts/debian-tree $@ || true

lint: $(VENV)/.built-all ## ruff, mypy and cython-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p kdht -p demo -p bench.sim -p bench.peers -p bench.daemons -p histories
	PATH=$(abspath $(BIN)):$$PATH cython-lint kdht

format: $(VENV)/.built-all ## put the Python sources in their form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.built-all $(VENV)/.installed-bench ## measure core, datapaths, storage, simulated clusters. ARGS=nfqueue: one of them. ARGS=--json: for scripts
	$(BIN)/python -m bench $(ARGS)

histories: $(VENV)/.built-all ## clients, faults and checkers on real daemons: are the promises kept? ARGS="--seed 7 --datapath ebpf"; ARGS=--help
	$(BIN)/python -m histories $(ARGS)

kernels: $(VENV)/.built-all ## the XDP program on Debian's kernels, each in a machine of qemu's without KVM
	scripts/kernels all

fuzz: $(VENV)/.built-all ## look for inputs that break a parser, TIME=60 seconds for each TARGET (all); fuzz/README.md
	$(BIN)/python -m fuzz --time $(TIME) $(addprefix --target ,$(TARGET)) $(ARGS)

screenshots: $(VENV)/.built-all ## make the pictures in docs/screenshots anew, of a cluster under load
	PYTHONPATH=tests/helpers $(BIN)/python scripts/screenshots.py

build: $(VENV)/.built-$(NEEDS) ## what all others stand on: packages, virtual environment, extensions

$(VENV)/.installed-all: $(SETUP)
	PYTHON=$(PYTHON) scripts/bootstrap $(VENV) all
	touch $(VENV)/.installed-socket $(VENV)/.installed-nfqueue $(VENV)/.installed-packets $@

$(VENV)/.installed-packets: $(SETUP)
	PYTHON=$(PYTHON) scripts/bootstrap $(VENV) packets
	touch $(VENV)/.installed-socket $(VENV)/.installed-nfqueue $@

$(VENV)/.installed-nfqueue: $(SETUP)
	PYTHON=$(PYTHON) scripts/bootstrap $(VENV) nfqueue
	touch $(VENV)/.installed-socket $@

$(VENV)/.installed-socket: $(SETUP)
	PYTHON=$(PYTHON) scripts/bootstrap $(VENV) socket
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-all
	$(BIN)/python -m pip --disable-pip-version-check install -q --group bench
	touch $@

$(VENV)/.built-%: $(VENV)/.installed-% $(SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

wheel: ## a wheel in dist/; without clang and libbpf it has no eBPF datapath, without libsodium no signatures
	$(PYTHON) -m pip --disable-pip-version-check wheel $(PIP_ARGS) --no-deps --wheel-dir dist .

wheels: ## wheels for other hosts, in dist/: for each Python that is here (3.11 to 3.13), with a manylinux tag
	scripts/wheels

deb: ## a Debian package in dist/, by dpkg-buildpackage; debian/control has what it needs. ARGS=-d: without that check
	dpkg-buildpackage --build=binary --no-sign --no-pre-clean $(ARGS) --changes-option=-udist \
		--buildinfo-option=-udist --buildinfo-file=dist/kdht.buildinfo --changes-file=dist/kdht.changes

man: $(VENV)/.built-$(NEEDS) ## the man pages, in build/man
	$(BIN)/python scripts/manpages.py build/man

install: ## programs, units, man pages, completions, to PREFIX=/usr/local, for packages under DESTDIR
	PYTHON=$(PYTHON) scripts/install

uninstall: ## remove what install put there; configuration and data stay
	scripts/uninstall

clean: ## remove what was built, the virtual environment too
	rm -rf $(VENV) build fuzz/build dist *.egg-info bench/results .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find kdht \( -name '*.so' -o -name '*.c' -o -name '*.bpf.o' \) -delete
	find . -name __pycache__ -prune -exec rm -rf {} +

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18
