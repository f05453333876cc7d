# Everything happens in .venv: `make demo` and `make test` are the only commands a fresh clone needs.
# Variables: PYTHON (an interpreter, 3.11 to 3.13), WORKERS (test processes), ARGS (more arguments for pytest).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE # without bytecode every process compiles torch again (14 s instead of 5 s)

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	if $$python -c '$(SUPPORTED)' 2>/dev/null; then echo $$python; break; fi; done)
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/installed
# Half installed, moved, or its Python gone: then .venv is made anew
INTACT := $(shell { "$$(sed -n '1s/^\#!//p' $(BIN)/build-pseudo)" -c '' && $(BIN)/uv --version >&2 && echo yes; } 2>/dev/null)

.PHONY: help setup demo test check faults lint format constraints bench screenshot clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf 'make %-12s %s\n' "$$name" "$$what"; done

setup: $(STAMP) ## install into .venv (two minutes; nothing to do the second time)

demo: setup ## the whole method in small, on handwritten digits: teacher, pseudo-labels, student (8 minutes on 2 cores)
	$(BIN)/python examples/digits/demo.py

# One thread a process: the workers already fill the cores
test: export OMP_NUM_THREADS = 1
test: setup ## run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: lint test ## lint, types, import contracts, tests

# Variables: FAULTS (categories of faults, all if not given), ARGS (more arguments, such as --share 0.1)
faults: export OMP_NUM_THREADS = 1
faults: setup ## inject faults of every kind into real commands and print what became of them (an hour on 2 cores)
	$(BIN)/python -m tests.faults $(FAULTS) $(ARGS)

lint: setup ## ruff, mypy and import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## format the code and sort its imports
	$(BIN)/ruff check --select I --fix
	$(BIN)/ruff format

constraints: $(BIN)/uv ## pin the newest versions that work together, for review and a test run
	$(BIN)/uv pip compile --quiet --upgrade --python-version 3.11 --all-extras --group dev --no-header --no-annotate \
		--no-emit-index-url pyproject.toml --output-file constraints.txt

# Variables: ROWS (names of rows, all if not given), ARGS (more arguments, such as --rounds 1)
bench: setup ## measure speed beside peers and write docs/benchmarks.md (hours; a row alone with ROWS=NAME)
	$(BIN)/python benchmarks $(ROWS) $(ARGS)

screenshot: setup ## make docs/images/app.png anew: a version of real images in FiftyOne's App (needs chromium)
	$(BIN)/python docs/make_screenshot.py

clean: ## remove caches and the demo's output; keeps .venv, store and runs
	rm -rf demo dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt $(BIN)/uv
	UV_COMPILE_BYTECODE=1 $(BIN)/uv pip install --python .venv --constraint constraints.txt \
		--editable '.[coco,torch,onnx,transformers,fiftyone,hub,demo,s3,ray]' --group dev
	@touch $@

ifneq ($(INTACT),yes)
.PHONY: $(BIN)/uv
endif
$(BIN)/uv:
	@[ -n "$(PYTHON)" ] && "$(PYTHON)" -c '$(SUPPORTED)' || { \
		echo "error: no Python 3.11 to 3.13 at '$(PYTHON)': install one, or name it with make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@if "$(PYTHON)" -c 'import ensurepip' 2>/dev/null; then \
		"$(PYTHON)" -m venv --clear .venv && $(BIN)/python -m pip install --quiet 'uv>=0.8'; \
	else \
		"$(PYTHON)" -m venv --clear --without-pip .venv && \
			"$(PYTHON)" -m pip --python .venv install --quiet 'uv>=0.8'; \
	fi || { echo "error: cannot make .venv with $(PYTHON): apt install python3-venv, then say make again" >&2; exit 1; }
