# Needs python >= 3.11 with venv, and the Python package index. `make` alone says what there is.
PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LAUNCH := $(BIN)/accelerate launch --config_file configs/accelerate/cpu.yaml
WEIGHTS := smollm2-135m mobilenetv2-imagenet efficientnet-lite0-imagenet
QUICK := $(RUNS)/quickstart
BASELINE := $(RUNS)/quickstart-baseline
QUESTION ?= What is the diagnosis?
# Idle threads sleep after a short spin: beside another process a long one costs much more than it saves.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 30000
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help $(VENV) weights quickstart quickstart-compare test test-slow check format clean

help:  ## this list
	@grep -hE '^[a-z][a-z-]*:.*##' $(firstword $(MAKEFILE_LIST)) | awk -F ':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

$(VENV): $(STAMP)

# Again only when pyproject.toml has changed. uv is tried first: it takes a fraction of pip's time, but does not read pip's
# configuration, so that pip has the last word.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $$($(PYTHON) --version) is too old, mdf needs 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 2; }
	@set -e; start=$$(date +%s); \
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	echo "installing mdf and what it needs into $(VENV)"; \
	{ $(BIN)/python -m pip install --quiet --disable-pip-version-check uv && \
	    $(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]'; } || { \
	  echo "uv did not get through to the package index; pip installs instead, which takes a few minutes"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; }; \
	touch $@; echo "installation: $$(($$(date +%s) - start)) s"

weights: $(STAMP)  ## fetch the bundled weights (120 MB) into the cache folder
	@set -e; start=$$(date +%s); \
	$(BIN)/python -c 'import sys; from mdf.models.weights import fetch; fetch(sys.argv[1:])' $(WEIGHTS); \
	echo "weights: $$(($$(date +%s) - start)) s"

quickstart: weights  ## train, calibrate, evaluate, chat and report on 2 CPU cores
	@set -e; start=$$(date +%s); lap=$$start; \
	took() { now=$$(date +%s); echo "== $$1: $$((now - lap)) s"; lap=$$now; }; \
	$(LAUNCH) scripts/train.py run.dir=$(RUNS) run.overwrite=true; took training; \
	$(BIN)/python scripts/evaluate.py calibrate --checkpoint $(QUICK)/best --data $(QUICK)/data.jsonl; took calibration; \
	$(BIN)/python scripts/evaluate.py --checkpoint $(QUICK)/best --data $(QUICK)/data.jsonl --split test --limit 100 \
	  --out $(QUICK)/evaluation; took evaluation; \
	image=$$($(BIN)/python -c 'import sys; from mdf.records import read_manifest; m = read_manifest(sys.argv[1]); \
	  print(m.path(m.split("test")[0].image))' $(QUICK)/data.jsonl); \
	$(BIN)/python scripts/chat.py --checkpoint $(QUICK)/best --image "$$image" --ask "$(QUESTION)"; took chat; \
	retina=$$($(BIN)/python -c 'import skimage, pathlib; \
	  print(pathlib.Path(skimage.__file__).parent / "data" / "retina.jpg")'); \
	$(BIN)/python scripts/report.py --checkpoint $(QUICK)/best "$$retina" --out $(QUICK)/report; took report; \
	echo "== quickstart without installation and weights: $$(($$(date +%s) - start)) s"

# The same stages but `segment`, which has nothing to give to a model without adapters, from the same start.
quickstart-compare: weights  ## the baseline MLLM on the same budget, and both tables
	@test -f $(QUICK)/evaluation/metrics.json || $(MAKE) --no-print-directory quickstart
	@set -e; start=$$(date +%s); \
	$(LAUNCH) scripts/train.py run.dir=$(RUNS) run.name=quickstart-baseline 'run.stages=[align,fuse]' 'fusion.depths=[]' fuse.losses.grounding=null \
	  run.overwrite=true; \
	$(BIN)/python scripts/evaluate.py --checkpoint $(BASELINE)/best --data $(BASELINE)/data.jsonl --split test --limit 100 \
	  --out $(BASELINE)/evaluation; \
	$(BIN)/python scripts/evaluate.py compare $(QUICK)/evaluation $(BASELINE)/evaluation; \
	echo "== quickstart-compare: $$(($$(date +%s) - start)) s"

test: $(STAMP)  ## the fast tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

test-slow: $(STAMP)  ## all tests, the main job included
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP)  ## linter, formatting, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP)  ## put the code into its form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## everything that was made here, except runs/
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find mdf scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
