# make repro   make the environment if need be, and run the pipeline on the embedded photos
# make record  run the pipeline for the lock that is committed, and write down on what kind of machine
# make check   style, types and all unit tests: after each edit
# make test    what CI runs: check, the pipeline from clone to report, each way of running, each fault, the browser
# make test-all  everything: each way of each fault too
# make coverage  which lines the tests of make test run
# make ui      look at the models in MLflow
# make table   the experiments, best test Dice first: what differs in their params, and their scores
# make fuzz    feed each parser of what others write 10,000 odd inputs, in hours; a table
# make faults  do to a small training all that it must survive: kills, full disks, damaged files; a table

VENV := .venv
PYTHON ?= python3
UV_VERSION := 0.13.9
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export OMP_NUM_THREADS ?= 2
PORT ?= 5000

PYTEST := OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: repro record style check test test-all coverage table faults fuzz env lock docs plots-page ui bench clean

repro: env
	dvc repro
	@python -m petseg.cli.summary

# The only way to a new committed lock: it says too on which kind of machine it was made (recorded.json).
record: env
	dvc repro
	@python -m petseg.cli.record

style: env
	ruff check .
	ruff format --check .
	mypy

check: style
	$(PYTEST) -m "not whole and not slow" --ignore=tests/end_to_end --ignore=tests/faults

test: style
	$(PYTEST)

test-all: style
	$(PYTEST) -m "slow or not slow"

coverage: env
	rm -f .coverage .coverage.*
	COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml $(PYTEST)
	coverage combine --quiet
	rm -f .coverage.*  # of processes that were killed while they wrote
	coverage report --include='petseg/*,stages/*'

# DVC's table has 46 scores before its 45 params, 56 hashes after them, and no setting for its columns.
table:
	@dvc exp show --only-changed --sort-by dice_per_image --sort-order desc --keep '(val_dice|dice_per_image)$$' \
		--drop '(?!(Experiment|State|val_dice|dice_per_image)$$|(data|split|model|train|augment|infer)\.)'

faults: env
	$(PYTEST) -m "slow or not slow" tests/faults

# A hang or a traceback leaves its input in .fuzz_cache/.
fuzz: env
	OMP_NUM_THREADS=1 python -m tests.support.fuzz --inputs 10000

env: $(VENV)/.made $(VENV)/.commands

# uv reads the same lock as pip and is ten times faster; where it does not reach the registry as
# pip is set up to, pip does the same work.
$(VENV)/.made: requirements.lock
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet uv==$(UV_VERSION)
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python --require-hashes -r requirements.lock \
		|| $(VENV)/bin/python -m pip install --quiet --require-hashes -r requirements.lock
	touch $@

OWN_PYTHON_FIRST := import os, sys; own = os.path.join(sys.prefix, "bin"); path = os.environ.get("PATH", ""); \
	os.environ["PATH"] = path if path.startswith(own) else own + os.pathsep + path

# The command petseg; and a line that Python reads when it starts, by which every program of the environment
# (dvc, say) calls the environment's own python, whether it is activated or not.
$(VENV)/.commands: $(VENV)/.made Makefile
	printf '#!/bin/sh\nPYTHONPATH="%s" exec "%s/bin/python" -m petseg "$$@"\n' \
		"$(CURDIR)" "$(CURDIR)/$(VENV)" > $(VENV)/bin/petseg
	chmod +x $(VENV)/bin/petseg
	printf '%s\n' '$(OWN_PYTHON_FIRST)' \
		> $$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/petseg_path.pth
	touch $@

# Every dependency with its version and hashes, for Linux and macOS and each Python that is supported.
lock:
	$(VENV)/bin/python -m pip install --quiet uv==$(UV_VERSION)
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--group dev --custom-compile-command "make lock" \
		pyproject.toml -o requirements.lock

# The pages that are made of the code: docs/params.md and docs/command.md.
docs: env
	python -m docs.generate

# The page of `dvc plots`, from .dvc/plots/page.html and the scripts that DVC's own loads from a CDN.
plots-page: env
	sh .dvc/plots/offline.sh

ui: env
	@python -m petseg ui --port $(PORT)

bench: env
	python -m benchmarks
	python -m benchmarks.models
	python -m benchmarks.peer step
	python -m benchmarks.serving
	python -m benchmarks.predicting
	python -m benchmarks.tracking

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage*
