# All targets set up .venv inside the checkout. New users need only `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help demo test test-fast test-faults test-slurm lint format schema bench bench-models bench-noop bench-gee bench-manifests bench-outputs bench-compare bench-large bench-chunks bench-rates bench-threads clean

help:
	@echo "make demo    run an export of the sample scene, twice, and print what it wrote"
	@echo "make test    run all tests (make test-fast: without the heavy ones)"
	@echo "make test-faults    kills, full disks, lost folders, failing providers, clocks; writes its tables into docs/reliability.md (45 minutes)"
	@echo "make test-slurm  exports on a real SLURM, which it installs and starts (as root, on Debian)"
	@echo "make lint    ruff, mypy, snakefmt, snakemake --lint"
	@echo "make bench   measure, and write docs/benchmarks.md (make bench-models, bench-noop, bench-gee, bench-manifests, bench-outputs, bench-compare, bench-large, bench-chunks: other pages; bench-rates, bench-threads print)"

# The stamp depends on the requirements, so that a change of them installs again.
$(STAMP): pyproject.toml envs/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("rs_embed needs Python >= 3.11, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c envs/constraints.txt -e '.[test,lint]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python demo.py

test-fast: $(STAMP)
	$(BIN)/python -m pytest -q -n 2

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 -m "not slurm and not faults"

# The plugin is in a separate folder: with SLURM's clients installed and no SLURM running, it delays every start of Snakemake.
test-slurm: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c envs/constraints.txt --no-deps --upgrade --target $(VENV)/slurm \
		snakemake-executor-plugin-slurm snakemake-executor-plugin-slurm-jobstep throttler
	$(BIN)/python -m tests.slurm.cluster start
	$(BIN)/python -m pytest -q -n 3 -m slurm tests/slurm; status=$$?; $(BIN)/python -m tests.slurm.cluster stop; exit $$status

# A failure prints its seed: pytest -m "" tests/faults -k "kills and seed-7"
test-faults: $(STAMP)
	rm -f .faults.jsonl
	RS_EMBED_FAULT_LEDGER=.faults.jsonl $(BIN)/python -m pytest -q -m "" tests/faults
	$(BIN)/python -m tests.faults.report .faults.jsonl

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

schema: $(STAMP)
	$(BIN)/rs-embed schema > workflow/schemas/config.schema.yaml

bench: $(STAMP)
	$(BIN)/python benchmarks/scaling.py

bench-models: $(STAMP)
	$(BIN)/python benchmarks/models.py

bench-noop: $(STAMP)
	$(BIN)/python benchmarks/noop.py

bench-gee: $(STAMP)
	$(BIN)/python benchmarks/gee.py

bench-manifests: $(STAMP)
	$(BIN)/python benchmarks/manifests.py

bench-outputs: $(STAMP)
	$(BIN)/python benchmarks/outputs.py

# 80 minutes; creates a separate environment for the published library
bench-compare: $(STAMP)
	$(BIN)/python benchmarks/compare.py

bench-large: $(STAMP)
	$(BIN)/python benchmarks/large.py

bench-chunks: $(STAMP)
	$(BIN)/python benchmarks/chunks.py

bench-rates: $(STAMP)
	$(BIN)/python benchmarks/rates.py

bench-threads: $(STAMP)
	$(BIN)/python benchmarks/threads.py

clean:
	rm -rf $(VENV) exports .snakemake
