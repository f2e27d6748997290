# Two commands do everything on a fresh machine:  make demo   make test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
.PHONY: help setup demo annotate test lint format docs clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/.runtime: requirements.txt
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-annotate.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

setup: $(VENV)/.runtime  ## make .venv with what running needs

flag = $(if $($(1)),$(2) '$(subst ','\'',$($(1)))')
DEMO_FLAGS = $(call flag,CLIP,--clip) $(call flag,MIRROR,--mirror) $(call flag,VIDEO,--video) $(call flag,MASK,--mask)

demo: setup  ## segment a generated clip, or CLIP=chair (downloaded), or VIDEO=clip.mp4 MASK=first.png; writes output/demo
	$(BIN)/python scripts/demo.py $(DEMO_FLAGS)

$(VENV)/.annotate: requirements-annotate.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-annotate.txt
	@touch $@

EXAMPLE := output/annotate/clip
ANNOTATE_FLAGS = $(call flag,VIDEO,--video) $(call flag,ROOT,--root) $(if $(VIDEO)$(ROOT),,--root $(EXAMPLE))
SYNTHETIC_FLAGS := --layout generic --num_videos 1 --num_frames 28 --late 1 --seed 1

annotate: $(VENV)/.annotate  ## annotate a generated clip in the browser, or VIDEO=clip.mp4, or a video of ROOT=folder
	$(if $(VIDEO)$(ROOT),,$(BIN)/python scripts/make_synthetic.py --output $(EXAMPLE) $(SYNTHETIC_FLAGS))
	$(BIN)/python annotate.py $(ANNOTATE_FLAGS)

test: $(VENV)/.dev lint  ## lint, then every test; make test ISA=avx2 runs them as on a processor without AVX-512
	$(if $(ISA),VOS_TEST_ISA=$(ISA)) $(BIN)/python -m pytest

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy .

format: $(VENV)/.dev  ## let ruff mend what it can
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

$(VENV)/.docs: requirements-docs.txt
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@touch $@

docs: $(VENV)/.docs  ## the documentation as a site in output/site; fails for a broken link or a docstring without shapes
	$(BIN)/python scripts/check_docstrings.py
	$(BIN)/python -m mkdocs build --strict

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache
