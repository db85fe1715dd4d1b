# Two commands are enough: `make demo` to see the library work, `make test` to check a change.
# Both set up an environment on first use, and again when setup.cfg, pyproject.toml or the version change: the virtual
# environment that is active, so that torch is not installed twice, or else .venv.

VENV ?= $(or $(VIRTUAL_ENV),.venv)
PYTHON ?= python3
OLDEST ?= python3.10
NEWEST ?= python3.13
IMAGES ?= demo/samples
PORT ?= 7860
PY := $(VENV)/bin/python
CORE := $(VENV)/.installed-core
TEST := $(VENV)/.installed-test
EXAMPLES := $(VENV)/.installed-examples
EXPLORER := $(VENV)/.installed-explorer
# One thread per process: the two test processes would otherwise fight for the cores.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo detector explorer test test-slow test-matrix test-oldest test-newest test-integrations test-explorer bench docs build release-check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(PY):
	@echo "Setting up $(VENV). This downloads torch: a few minutes and 6 GB, once. An active virtual environment would be used instead."
	$(PYTHON) -m venv $(VENV)

$(CORE): setup.cfg pyproject.toml cutswap_transforms/__init__.py | $(PY)
	$(PY) -m pip install --disable-pip-version-check --editable .
	@touch $@

# After the core, so that `make demo test` never runs two installations at once.
$(TEST): $(CORE)
	$(PY) -m pip install --disable-pip-version-check --editable '.[test]'
	@touch $@

$(EXAMPLES): $(CORE)
	$(PY) -m pip install --disable-pip-version-check --editable '.[examples]'
	@touch $@

$(EXPLORER): $(CORE)
	$(PY) -m pip install --disable-pip-version-check --editable '.[explorer]'
	@touch $@

demo: $(CORE)  ## make demo/contact_sheet.png from generated scenes, or from yours: make demo IMAGES=folder
ifeq ($(IMAGES),demo/samples)
	$(PY) examples/make_samples.py $(IMAGES) --count 1
endif
	$(PY) -m cutswap_transforms preview "$(IMAGES)" --out demo/contact_sheet.png

detector: $(EXAMPLES)  ## fit a detector on drawn flanges and score new ones: demo/detector.png
	rm -rf demo/scores
	$(PY) examples/detect.py fit toy --category flange --out demo/detector
	$(PY) examples/detect.py score demo/detector demo/toy/flange/test --out demo/scores --sort
	$(PY) examples/detect.py evaluate demo/detector toy --categories flange
	cp demo/scores/summary.png demo/detector.png
	@echo "The 16 highest scores: demo/detector.png. All of them: demo/scores. What it is worth: demo/detector/report.md"

explorer: $(EXPLORER)  ## see and tune negatives of your own images in the browser (another port: make explorer PORT=8000)
	PYTHONPATH=examples $(PY) -m explorer --port $(PORT)

test: $(TEST)  ## ruff, mypy, then pytest with doctests, without the slow tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PYTEST) -n 2 -m "not slow"

test-slow: $(TEST)  ## the slow tests alone
	$(PYTEST) -m slow

test-matrix: test-oldest test-newest  ## the fast tests with the oldest versions that setup.cfg allows, then with the newest

test-oldest:
	tests/matrix.sh $(OLDEST) tests/oldest.txt

test-newest:
	tests/matrix.sh $(NEWEST)

test-integrations:  ## beside anomalib, kornia, albumentations, Hugging Face, webdataset, Ray, in an environment that it removes
	tests/integrations/run.sh $(PYTHON)

test-explorer: $(TEST) $(EXPLORER)  ## the explorer in a real browser: the Chromium of the system, or the one that CHROMIUM names
	$(PY) -m pip install --disable-pip-version-check --quiet playwright
	$(PY) -m pytest -p no:cacheprovider -o "norecursedirs=.*" tests/explorer

bench: $(TEST)  ## benchmarks beside the peers: table, JSON, plots in benchmarks/results (under ten minutes)
	$(PY) benchmarks/run.py

docs: $(TEST)  ## the site, in site/
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build

build: $(TEST)  ## sdist and wheel in dist/, checked
	rm -rf dist
	$(PY) -m build
	$(PY) -m twine check --strict dist/*

release-check: build  ## sdist and wheel as a stranger gets them, with the oldest and the newest interpreter
	tests/release.sh $(OLDEST)
	tests/release.sh $(NEWEST)

clean:  ## remove what the targets made; the environment stays, delete .venv yourself
	rm -rf build dist demo site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
