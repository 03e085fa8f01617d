# Each target makes .venv itself. PYTHON chooses the interpreter that the environment is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SLURM_PACKAGES := slurm-wlm munge iproute2 util-linux
# How many tests run side by side; many start several processes of their own.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL_PYTEST := $(PYTEST) -n $(WORKERS) --dist loadfile

.PHONY: help install demo test test-all test-slurm bench check format

help:
	@echo "make demo      convert, train three stages, evaluate, report: minutes on two cores"
	@echo "make test      the tests of every change"
	@echo "make test-all  the full product of layouts too"
	@echo "make test-slurm  jobs, faults and kills on a Slurm of its own; needs root on Debian or Ubuntu"
	@echo "make bench     every benchmark, into docs/benchmarks.md; 2 h 15, wants an idle machine"
	@echo "make check     ruff, mypy, import-linter, shellcheck, hadolint"
	@echo "make format    ruff's formatting"

install: $(STAMP)

# torch first: with it there, no other package can ask for a build with CUDA.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $$(grep -E '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/genrecal demo --overwrite

test: $(STAMP)
	$(PARALLEL_PYTEST) -m "not slow and not slurm and not faults"

test-all: $(STAMP)
	$(PARALLEL_PYTEST) -m "not slurm and not faults"

# Without root or the packages the tests on a cluster are skipped, and say why.
test-slurm: $(STAMP)
	@if [ "$$(id -u)" = 0 ] && ! command -v slurmctld >/dev/null && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq -y --no-install-recommends $(SLURM_PACKAGES) || true; fi
	$(PYTEST) -m "slurm or faults" -rs

# Liger's own requirements would bring a build of torch with CUDA.
bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt liger-kernel psutil
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck -x examples/*.sh
	$(BIN)/hadolint Dockerfile

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
