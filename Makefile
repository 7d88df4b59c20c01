# `make study` installs and runs the default study; `make test` installs more and runs the checks;
# `make install` only installs what a study needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
# without compiling all 12,000 modules, of which a study imports a few thousand
PIP := $(BIN)/python -m pip install --quiet --no-compile
# containers often forbid to keep bytecode: then every process compiles what it imports, and
# Snakemake takes three times as long to start
unexport PYTHONDONTWRITEBYTECODE
# marker files of installations: for studies, and additionally for the checks
READY := $(VENV)/.installed
CHECKS := $(VENV)/.installed-dev

.PHONY: install study test test-all test-full test-slurm test-slow test-faults lint docs bench simulate clean

install: $(READY)

study: $(READY)
	@$(BIN)/snakemake --cores $(CORES) --scheduler greedy --quiet rules host
	@$(BIN)/diffusability show

# required for every change, in minutes: the smoke study with its report, invalidation, resuming
test: lint
	$(BIN)/pytest tests/unit tests/workflow --numprocesses auto --dist worksteal

# also required for a release: the default study, every README command, the documentation, clusters;
# jobs on a real Slurm mostly wait for it, so the other tests run beside them
test-all: $(CHECKS)
	$(BIN)/pytest tests/unit tests/workflow -m release --numprocesses auto --dist worksteal
	@$(MAKE) --no-print-directory --jobs 2 test-slurm test-full docs

# the make of a test is none of this one's
test-full: $(CHECKS)
	env -u MAKEFLAGS -u MAKELEVEL $(BIN)/pytest tests/full --ignore tests/full/slurm

# a cluster of one node, started in a scratch folder and stopped again, if it can be installed
test-slurm: $(CHECKS)
	@tests/full/slurm/packages.sh
	$(BIN)/pytest tests/full/slurm -rs

test-slow: $(CHECKS)
	$(BIN)/pytest -m slow

# kill every stage at every change of a file, fill the disk at every write; half an hour
test-faults: $(CHECKS)
	$(BIN)/python -m tests.faults

lint: $(CHECKS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

# the documentation site in site/, built without a network; a broken link or name is an error
docs: $(CHECKS)
	$(BIN)/mkdocs build --strict --quiet

# what a person waits for, as ratios to a fixed piece of work, then the library; an hour and a half
bench: $(CHECKS)
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m benchmarks.waiting
	$(BIN)/python -m benchmarks.study
	$(BIN)/python -m benchmarks.image_folder
	$(BIN)/python -m benchmarks.archives
	$(BIN)/python -m benchmarks.shapes

# every job of the paper's study with stubs for its scripts, of which 2 % fail
simulate: $(CHECKS)
	$(BIN)/python -m benchmarks.simulation

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make study PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --requirement requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(CHECKS): $(READY) requirements-dev.lock
	$(PIP) --requirement requirements-dev.lock
	@touch $@

clean:
	rm -rf $(VENV) .snakemake
