SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup demo test verify lint bench gallery clean

PYTHON ?=
export PYTHON
# The digits are small: one thread is as fast as two, and far faster where something else runs.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS
ARGS ?=
WORKERS ?= 2

VENV := .venv
STAMP := $(VENV)/.setup-done
RUN := $(VENV)/bin/python -m
LATENTMIX := $(VENV)/bin/latentmix
ROOMS := models guides inference experiments

help:
	@echo 'make setup    make .venv from the first Python >= 3.12 and install LatentMix and its tools there'
	@echo 'make demo     train on the digits, fit both mixtures, write a report'
	@echo 'make test     run the tests                                  (ARGS="tests/models -x")'
	@echo 'make verify   run the long proofs that are not up to date    (ARGS="NAME --force")'
	@echo 'make lint     ruff and mypy'
	@echo 'make bench    measure the speed of SVI and of EM             (ARGS="--networks mlp,conv16 --json FILE")'
	@echo 'make gallery  draw every picture at full length into one page, and those of the README anew'
	@echo 'make clean    remove build products and caches; .venv and runs/ stay'

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@if ! $(VENV)/bin/python -c 'import pip, sys; assert sys.version_info >= (3, 12)' 2>/dev/null; then \
	    python="$$(.ci/find-python)"; \
	    echo "Making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv $(VENV); \
	fi
	@echo 'Installing LatentMix and its tools (a few minutes the first time)'
	@$(RUN) pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Both runs at once, a thread each; the one for the 2-D pictures speaks when it is done.
demo: setup
	@logs="$$(mktemp -d)"; trap 'rm -rf "$$logs"' EXIT; \
	$(LATENTMIX) run digits_mlp2 --epochs 60 --mixture.draws 3 >"$$logs/plane" 2>&1 & plane=$$!; \
	$(LATENTMIX) run digits | tee "$$logs/digits"; \
	wait $$plane || { cat "$$logs/plane"; exit 1; }; \
	echo "a 2-dimensional latent beside it: $$(tail -n 1 "$$logs/plane")"; \
	tail -n 1 "$$logs/digits"

test: setup
	@$(RUN) pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

verify: setup
	@$(RUN) tests.verify $(ARGS)

lint: setup
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@mkdir -p .typing/latentmix
	@for room in $(ROOMS); do ln -sfn "../../$$room" ".typing/latentmix/$$room"; done
	@$(RUN) mypy .typing/latentmix tests/verify

gallery: setup
	@$(LATENTMIX) gallery --full --presets digits,digits_mlp2,gmm3d --n-jobs $(WORKERS) --out runs/gallery-full
	@cp runs/gallery-full/gmm3d-mixture-prior/figures/points_pairwise.png experiments/gallery/points.png
	@cp runs/gallery-full/digits/figures/em_against_svi.png experiments/gallery/em_against_svi.png
	@cp runs/gallery-full/digits_mlp2/figures/latents_none.png experiments/gallery/latents.png

bench: setup
	@$(LATENTMIX) bench all $(ARGS)

clean:
	@rm -rf build dist *.egg-info .typing .mypy_cache .ruff_cache .pytest_cache
	@find $(ROOMS) tests -name __pycache__ -type d -prune -exec rm -rf {} +
