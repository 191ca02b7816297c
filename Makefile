# Every target is self-sufficient: it builds .venv from nothing first, and again when the dependencies change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
K ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Two test workers share the cores with the processes they start: more threads each only makes them wait.
export OMP_NUM_THREADS ?= 1
# Where bytecode is not kept, each of the hundreds of processes of the tests compiles the packages.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test test-long lint bench docs clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]' -c constraints.txt
	touch $@

# The whole chain on real digits: under ten minutes on two cores. Results land in quickstart-out/.
quickstart: $(STAMP)
	env -u OMP_NUM_THREADS $(BIN)/python examples/quickstart.py

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# Slow suites by area, the folders of tests/long: make test-long K=chaos (or bench, bundles, curves,
# data, db, docs, evals, folder, fuzz, image, mcp, nodes, notebooks, parity, platforms, quickstart,
# remote, report, rtx, segmentation, sweep), and K=wide: the cases of the other tests that
# `make test` leaves out (tests/support/wide.py). Without K: all of them.
LONG := $(BIN)/python -m pytest -o addopts="-ra --strict-markers --strict-config --import-mode=importlib" --timeout 1800

test-long: $(STAMP)
ifneq ($(K),wide)
	$(LONG) $(if $(filter parity,$(K)),-n $(WORKERS)) tests/long$(if $(K),/$(K))
endif
ifneq ($(filter wide,$(or $(K),wide)),)
	$(LONG) -m wide --ignore=tests/long tests
endif

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mae skill generate --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Minutes each, but for quality.py (hours) and bundles.py (needs a folder of bundles): run these by themselves.
bench: $(STAMP)
	set -e; for file in automl data parity scale sdk segmentation training; do echo "== $$file"; $(BIN)/python benchmarks/$$file.py; done

# The API reference, into site/.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build dist site quickstart-out .pytest_cache .mypy_cache .ruff_cache
