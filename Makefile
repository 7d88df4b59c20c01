# `make study` installs and runs the default study; `make test` installs and runs the checks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
READY := $(VENV)/.installed

.PHONY: study test test-all test-slurm test-slow lint docs bench simulate clean

study: $(READY)
	@$(BIN)/snakemake --cores $(CORES) --scheduler greedy --quiet rules
	@$(BIN)/diffusability show

# what every change must pass, in minutes: the smoke study to its report, invalidation, resuming
test: lint
	$(BIN)/pytest tests/unit tests/workflow --numprocesses auto --dist worksteal

# what else a release must pass: the default study, every command of the README, clusters
test-all: $(READY)
	$(BIN)/pytest tests/full --ignore tests/full/slurm
	@$(MAKE) --no-print-directory test-slurm

# a cluster of one node, started in a scratch folder and stopped again, where it can be installed
test-slurm: $(READY)
	@tests/full/slurm/packages.sh
	$(BIN)/pytest tests/full/slurm -rs

test-slow: $(READY)
	$(BIN)/pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

# the documentation site in site/, built without a network; a broken link or name is an error
docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet

bench: $(READY)
	$(BIN)/python -m benchmarks.study
	$(BIN)/python -m benchmarks.image_folder
	$(BIN)/python -m benchmarks.shapes

# every job of the paper's study with stand-ins for its scripts, 2 % of which fail
simulate: $(READY)
	$(BIN)/python -m benchmarks.simulation

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make study PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) .snakemake
