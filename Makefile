# One command for each thing a developer does. `make` alone lists them.
# Settings: make test PYTHON=python3.12 JOBS=4 PYTEST_ARGS="-k softmax"

PYTHON ?= python3
VENV ?= .venv
# Worker processes of the tests. Each one also compiles kernels: more than cores do not help.
JOBS ?= 2
PYTEST_ARGS ?=
# Three minutes, and one more where nothing is compiled yet.
BENCH_ARGS ?= --suite overview
# Two commits; a dot stands for the files as they are.
BASE ?= main
HEAD ?= .
COMPARE_ARGS ?=
PART ?= tests,sanitizer,bench
GPU_CHECK_ARGS ?=
RESULTS ?= bench/results
SITE ?= build/site
PICTURE_VIEW ?= machine=Intel%28R%29+Xeon%28R%29+Processor%2C+2+threads&family=matmul&dtype=float32&dtype=bfloat16
DEMO_ARGS ?=
# --arch sm_90,gfx90a
STATIC_ARGS ?=

BIN := $(VENV)/bin
# A source distribution may lack some of these directories; a checkout has them all.
PYTHON_FILES := $(wildcard nnkernels tests bench examples)
CXX_FILES = $(shell find cuda_src hip_src tests -name '*.cuh' -o -name '*.cc')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format bench bench-compare gpu-check site site-picture static static-check table clean distclean

help:
	@echo "make demo     train a classifier of handwritten digits with nnkernels"
	@echo "make test     all tests, and the examples in docstrings"
	@echo "make lint     ruff, mypy and clang-format, changing nothing"
	@echo "make format   apply ruff's and clang-format's layout"
	@echo "make bench    time every family of operations against its peers (BENCH_ARGS=...)"
	@echo "make bench-compare BASE=main   time two commits in turn; what got slower (HEAD=... COMPARE_ARGS=...)"
	@echo "make gpu-check  tests, compute-sanitizer and bench on this machine's GPU; PART=tests,bench"
	@echo "make site     a page of all results in RESULTS, to open in a browser (in SITE=build/site)"
	@echo "make static   compile what changed of the static report, bench/static; static-check compares"
	@echo "make table    write the table of ops into README.md, from the registry"
	@echo "make clean    remove what building and testing leave; distclean removes $(VENV) too"

# ---- the environment -------------------------------------------------------------------
# One stamp for each set of extras, inside the environment so that it goes with it. A stamp is
# out of date when the metadata or the version changed. Build isolation is off: it would ask the network for
# setuptools even when everything is installed.
OLD_PYTHON = nnkernels needs Python 3.10 or newer, and $(PYTHON) is older: make PYTHON=python3.12, say

$(VENV)/.stamp-base:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "$(OLD_PYTHON)")'
	$(BIN)/python -m pip --version 2>/dev/null || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check "setuptools>=77.0.3"
	touch $@

$(VENV)/.stamp-%: $(VENV)/.stamp-base setup.cfg pyproject.toml nnkernels/_version.py
	$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation --editable ".[$*]"
	touch $@

# ---- what one does ---------------------------------------------------------------------
demo: $(VENV)/.stamp-demo
	$(BIN)/python examples/digits.py $(DEMO_ARGS)

# "ci" is Hypothesis's own profile: the same examples in every run, and no deadlines.
test: $(VENV)/.stamp-test,demo
	$(BIN)/python -m pytest -n $(JOBS) --hypothesis-profile=ci $(PYTEST_ARGS)

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

table: $(VENV)/.stamp-demo
	$(BIN)/python docs/make_table.py

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix-only $(PYTHON_FILES)
	$(BIN)/ruff format $(PYTHON_FILES)
	$(BIN)/clang-format -i $(CXX_FILES)

bench: $(VENV)/.stamp-bench
	$(BIN)/python bench/bench.py $(BENCH_ARGS)

# With the Python that has CuPy, and no environment made for it.
gpu-check:
	$(PYTHON) bench/gpu_check.py --part $(PART) $(GPU_CHECK_ARGS)

bench-compare: $(VENV)/.stamp-bench
	$(BIN)/python bench/compare.py $(BASE) $(HEAD) $(COMPARE_ARGS)

site: $(VENV)/.stamp-bench
	$(BIN)/python bench/site.py $(RESULTS) $(SITE)

# For docs/benchmarking.md. Needs Chromium and its driver.
site-picture: $(VENV)/.stamp-test,demo site
	$(BIN)/python bench/site_screenshot.py $(SITE)/index.html docs/images/speed-page.png \
	  --fragment "$(PICTURE_VIEW)" --height 1720

# No GPU is needed. The compilers decide what is in the table: those of the extra "test".
static: $(VENV)/.stamp-test,demo
	$(BIN)/python -m nnkernels inspect --all --update bench/static $(STATIC_ARGS)

static-check: $(VENV)/.stamp-test,demo
	$(BIN)/python -m nnkernels inspect --all --compare bench/static $(STATIC_ARGS)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
