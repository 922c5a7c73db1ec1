# make repro     make the environment if necessary, and run the pipeline on the embedded photos
# make record    run the pipeline to make the dvc.lock that is committed, and record the kind of machine
# make check     check style and types, and run the unit tests: after each edit
# make test      run what CI runs: check, the pipeline from clone to report, each way of running, each fault, the browser
# make test-all  run all tests: also each way of each fault
# make wheel     build a package that carries the champion: pip install dist/petseg-*.whl is all that a user needs
# make site      build the documentation as a site with search, in build/site
# make coverage  show which lines the tests of make test run
# make ui        show the models in MLflow
# make table     list the experiments, best test Dice first, with the params that differ and the scores
# make fuzz      give 10,000 odd inputs to each parser of files from others, and print a table; takes hours
# make faults    cause every fault that a training must survive (kills, full disks, damaged files), and print a table

VENV := .venv
PYTHON ?= python3
UV_VERSION := 0.13.9
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export OMP_NUM_THREADS ?= 2
PORT ?= 5000

PYTEST := OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: repro record style check test test-all wheel site coverage table faults fuzz env lock docs plots-page ui bench clean

repro: env
	dvc repro
	@python -m petseg.cli.summary

# Only this makes a dvc.lock to commit: it also records the kind of machine (recorded.json).
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

wheel: env
	rm -rf build dist
	python -m petseg runs export champion --model build/model
	PETSEG_MODEL=build/model python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls -l dist

site: env
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict
	@echo "python -m http.server --directory build/site shows it, with search, on http://localhost:8000"

coverage: env
	rm -f .coverage .coverage.*
	COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml $(PYTEST)
	coverage combine --quiet
	rm -f .coverage.*  # files of processes that were killed while they wrote them
	coverage report --include='petseg/*,stages/*'

# DVC's table has 46 scores, 45 params and 56 hashes, and its columns can't be configured, so most are dropped here.
table:
	@dvc exp show --only-changed --sort-by dice_per_image --sort-order desc --keep '(val_dice|dice_per_image)$$' \
		--drop '(?!(Experiment|State|val_dice|dice_per_image)$$|(data|split|model|train|augment|infer)\.)'

faults: env
	$(PYTEST) -m "slow or not slow" tests/faults

# A hang or a traceback leaves its input in .fuzz_cache/.
fuzz: env
	OMP_NUM_THREADS=1 python -m tests.support.fuzz --inputs 10000

env: $(VENV)/.made $(VENV)/.commands

# uv reads the same lock as pip and is ten times faster. If uv can't reach the registry that pip is configured for,
# pip does the same work.
$(VENV)/.made: requirements.lock
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet uv==$(UV_VERSION)
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python --require-hashes -r requirements.lock \
		|| $(VENV)/bin/python -m pip install --quiet --require-hashes -r requirements.lock
	touch $@

OWN_PYTHON_FIRST := import os, sys; own = os.path.join(sys.prefix, "bin"); path = os.environ.get("PATH", ""); \
	os.environ["PATH"] = path if path.startswith(own) else own + os.pathsep + path

# The command petseg, and a line that Python runs when it starts. Because of this line, every program of the
# environment (such as dvc) calls the environment's own python, even if the environment is not activated.
$(VENV)/.commands: $(VENV)/.made Makefile
	printf '#!/bin/sh\nPYTHONPATH="%s" exec "%s/bin/python" -m petseg "$$@"\n' \
		"$(CURDIR)" "$(CURDIR)/$(VENV)" > $(VENV)/bin/petseg
	chmod +x $(VENV)/bin/petseg
	printf '%s\n' '$(OWN_PYTHON_FIRST)' \
		> $$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/petseg_path.pth
	touch $@

# Lock every dependency with its version and hashes, for Linux and macOS and each supported Python.
lock:
	$(VENV)/bin/python -m pip install --quiet uv==$(UV_VERSION)
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--all-extras --group dev --custom-compile-command "make lock" \
		pyproject.toml -o requirements.lock

# Generate the pages that repeat facts of the code; docs/generate.py lists them.
docs: env
	python -m docs.generate

# Make the page of `dvc plots` from .dvc/plots/page.html and the scripts that DVC's own page loads from a CDN.
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
