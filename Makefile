# The suite's commands. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help env reproduce paper test lint lock benchmark gpu-check wheels

PYTHON ?=
CORES ?= all
TARGETS ?= all
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SMK := Snakefile $(wildcard */rules.smk)

help:
	@echo "make reproduce   make the environment if need be, then train, evaluate and report (CORES=all TARGETS=all)"
	@echo "make paper       tables, figures and report of the measured results in results/ledger, without training"
	@echo "make test        the tests"
	@echo "make lint        ruff, snakefmt, import-linter, mypy and snakemake --lint"
	@echo "make benchmark   time of training steps and rollouts, and their memory, as JSON in results/benchmarks"
	@echo "make gpu-check   a GPU in under 9 minutes: kernels and FLUX.1-dev's iterations, as JSON in results/benchmarks (without a GPU: tiny)"
	@echo "make wheels      what gpu-check needs beside torch on a machine without network, into WHEELS=folder (FOR=3.12: its Python)"
	@echo "make env         only make the environment, $(VENV) (PYTHON=... to choose the Python)"
	@echo "make lock        resolve the dependencies of pyproject.toml anew into requirements.lock"

env: $(READY)

$(READY): requirements.lock pyproject.toml
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	    if $$python -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
	    then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "error: no usable Python among: $(or $(PYTHON),python3 python3.13 python3.12 python3.11)." >&2; \
	    echo "Python 3.11, 3.12 or 3.13 with venv is needed; install one, or name it: make env PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	fi; \
	echo "Making $(VENV) with $$($$found --version): about 3 minutes and 8 GB, once."; \
	$$found -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	@touch $@

reproduce: $(READY)
	$(BIN)/snakemake --cores $(CORES) $(TARGETS)

paper: $(READY)
	$(BIN)/snakemake --cores $(CORES) paper

test: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check $(SMK)
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/snakemake --lint

benchmark: $(READY)
	$(BIN)/python -m benchmarks.step --out results/benchmarks/step.json
	$(BIN)/python -m benchmarks.rollout --out results/benchmarks/rollout.json
	$(BIN)/python -m benchmarks.memory --out results/benchmarks/memory.json

# WHEELS=folder: on a GPU machine without network, run its own Python with these wheels beside its packages.
gpu-check: $(if $(WHEELS),,$(READY))
	$(if $(WHEELS),$(or $(PYTHON),python3) -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target build/site $(WHEELS)/*.whl)
	$(if $(WHEELS),PYTHONPATH=build/site $(or $(PYTHON),python3),$(BIN)/python) -m benchmarks.gpu_check --out results/benchmarks/gpu_check.json

# Not those that must fit the machine's torch and transformers; benchmarks/README.md names what it must have itself.
CARRIED := absl-py annotated-types diffusers ftfy jaxtyping markdown-it-py mdurl open-clip-torch protobuf pydantic \
    pydantic-core pygments rich tensorboard timm typing-extensions typing-inspection wadler-lindig wcwidth
FOR ?= 3.12

wheels: $(READY)
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --python-version $(FOR) --implementation cp \
	    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest $(WHEELS) \
	    $$(grep -oE "^($$(echo $(CARRIED) | tr ' ' '|'))==[^ ;]+" requirements.lock)

lock: $(READY)
	$(BIN)/uv pip compile pyproject.toml --extra dev --group parity --universal --python-version 3.11 --fork-strategy fewest \
	    --upgrade --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
	    --quiet --output-file requirements.lock
