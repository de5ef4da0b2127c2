# The pipeline as file targets: an interrupted `make all` resumes where it stopped.
#   RECIPE=digits|gaussians|fashion-mnist|cifar10|images64|path.toml   RUN=runs/NAME   DATA=own images   SET="section.key=value ..."
#   ROUNDS=1 (reflow rounds; from the second on they stop at a collapse)
#   REAL=0 (share of real images, taken to noise by the teacher, among the examples of reflow and distill)
#   NPROC=1 (processes)   DEVICE=auto|cpu|cuda   SAMPLES=2000 (of make bench)
RECIPE ?= digits
RUN ?= runs/$(basename $(notdir $(RECIPE)))
ROUNDS ?= 1
REAL ?= 0
DEVICE ?= auto
NPROC ?= 1
SAMPLES ?= 2000
DATA ?=
SET ?=
PYTHON ?= python3

VENV := .venv
REFLOW := $(VENV)/bin/reflow
READY := $(VENV)/ready
TOOLS := $(VENV)/dev-ready
SITE := $(VENV)/docs-ready
INSTALL := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
MANY := $(if $(filter-out 1,$(NPROC)),$(VENV)/bin/torchrun --nproc-per-node $(NPROC) -m reflow,$(REFLOW))
BENCH := .venv-bench
comma := ,
OPTIONS := --device $(DEVICE) $(foreach setting,$(SET),--set '$(setting)')
SOURCE := $(if $(DATA),--data '$(DATA)')

# Of generated and of real pairs; without real ones nothing is said of weights.
shares := $(shell awk -v real='$(strip $(REAL))' 'BEGIN { if (real ~ /^(0?\.[0-9]+|0)$$/) print 1 - real "," real }')
ifeq ($(shares),)
$(error REAL=$(REAL): give a share from 0 up to and without 1, such as REAL=0.2)
endif
mixed := $(filter-out 1$(comma)%,$(shares))

numbers := $(shell seq 1 $(ROUNDS))
last := $(lastword $(numbers))
# Round 1 is pairs/ and reflow/, round 2 pairs-2/ and reflow-2/, ...
nth = $(if $(filter-out 1,$(1)),-$(1))
teacher = $(if $(filter-out 1,$(1)),$(RUN)/reflow$(call nth,$(shell expr $(1) - 1)),$(RUN)/base)
pairs = $(RUN)/pairs$(call nth,$(1))
real = $(if $(mixed),$(RUN)/pairs-real$(call nth,$(1)))
sources = $(strip --pairs $(call pairs,$(1)) $(if $(mixed),--pairs $(call real,$(1)) --weights $(mixed)))
against = $(if $(filter-out 1,$(1)),--against $(RUN)/pairs)
models := $(RUN)/base $(foreach n,$(numbers),$(RUN)/reflow$(call nth,$(n))) $(RUN)/distill

.PHONY: all setup test test-slow test-all lint docs bench clean help
.DELETE_ON_ERROR:

all: $(RUN)/report.html ## run the pipeline and write the report (default: digits)
	@echo "$(RUN) is complete: open $(RUN)/report.html (for other settings give another RUN=)"

setup: $(TOOLS) ## create .venv and install what contributors need

test: $(TOOLS) ## run the tests that start neither processes nor a browser
	$(VENV)/bin/python -m pytest -q -m 'not slow'

test-slow: $(TOOLS) ## run the tests that start processes or a browser
	$(VENV)/bin/python -m pytest -q -m slow

test-all: $(TOOLS) ## run all tests
	$(VENV)/bin/python -m pytest -q

lint: $(TOOLS) ## check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(SITE) ## build the documentation as a site, site/index.html; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet

bench: $(RUN)/reflow/model.safetensors $(BENCH)/ready ## measure our training and solvers and others' (default: on digits); see docs/benchmarks.md
	$(VENV)/bin/python benchmarks/demo.py $(RUN)
	$(BENCH)/bin/python benchmarks/train.py --json $(RUN)/training.json
	$(BENCH)/bin/python benchmarks/couple.py --models $(RUN)/base --samples $(SAMPLES) --out $(RUN)/benchmark.json

clean: ## remove .venv, .venv-bench, caches, site/ and runs/
	rm -rf $(VENV) $(BENCH) runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@sed -n 's/^# *\(.*=.*\)/variables: \1/p' $(MAKEFILE_LIST)

# Dependency groups want a newer pip than venv brings.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(INSTALL) --upgrade pip
	$(VENV)/bin/python $(INSTALL) --build-constraint constraints.txt --editable .
	@touch $@

$(TOOLS) $(SITE): $(VENV)/%-ready: $(READY)
	$(VENV)/bin/python $(INSTALL) --group $*
	@touch $@

# Our own and the peers in one pip call: constraints.txt then holds torch for all of them.
$(BENCH)/ready: pyproject.toml constraints.txt benchmarks/constraints.txt benchmarks/without-dependencies.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python $(INSTALL) --upgrade pip
	$(BENCH)/bin/python $(INSTALL) --constraint benchmarks/constraints.txt --build-constraint constraints.txt \
		--editable . --group bench
	$(BENCH)/bin/python $(INSTALL) --no-deps --requirement benchmarks/without-dependencies.txt
	@touch $@

$(RUN)/base/model.safetensors: | $(READY)
	$(MANY) train $(RECIPE) $(SOURCE) --out $(@D) $(OPTIONS)

define round
$(call pairs,$(1))/pairs.json: $(call teacher,$(1))/model.safetensors | $(READY)
	$(MANY) couple $(call teacher,$(1)) $(call against,$(1)) --out $$(@D) $(OPTIONS)

$(RUN)/pairs-real$(call nth,$(1))/pairs.json: $(call teacher,$(1))/model.safetensors | $(READY)
	$(REFLOW) couple $(call teacher,$(1)) --invert $(SOURCE) --out $$(@D) $(OPTIONS)

$(RUN)/reflow$(call nth,$(1))/model.safetensors: $(patsubst %,%/pairs.json,$(call pairs,$(1)) $(call real,$(1)))
	$(MANY) train $(call sources,$(1)) --init $(call teacher,$(1)) --out $$(@D) $(OPTIONS)
endef
$(foreach n,$(numbers),$(eval $(call round,$(n))))

$(RUN)/distill/model.safetensors: $(RUN)/reflow$(call nth,$(last))/model.safetensors
	$(MANY) distill $(<D) $(call sources,$(last)) --out $(@D) $(OPTIONS)

$(RUN)/evaluation.json: $(models:=/model.safetensors)
	$(MANY) evaluate $(models) $(SOURCE) --out $@ $(OPTIONS)

$(RUN)/report.html: $(RUN)/evaluation.json
	$(REFLOW) report $(RUN) --out $@ --device $(DEVICE)
