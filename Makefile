# Every target builds what it needs in .venv first; nothing has to be installed by hand.
#
#   make demo                    identify files with a model that stays loaded
#   make pipeline                read pages with a model for two at a time (options in ARGS=)
#   make service                 the same with one to three copies, drawn (ARGS=--plot=FILE.svg)
#   make test                    the whole test-suite (how many tests at a time in WORKERS=)
#   make check                   before every commit: layout, lint, types, fast tests, 200 seeds, model
#   make fix                     what the tools can repair
#   make sim SEEDS=10000         fresh seeds of the simulator on all cores; goes on where it was (also STEPS=)
#   make chaos                   real processes, killed, stopped and cut off (options in ARGS=--share 0.1)
#   make bench                   latency of a task (options in ARGS=)
#   make clean                   remove .venv and the caches
#
# PYTHON=python3.12 picks the interpreter, VENV=.venv-3.12 keeps its packages beside the others'.

PYTHON ?=
VENV   ?= .venv
SEEDS  ?= 1000
STEPS  ?= 500
ARGS   ?=
# Tests of real processes mostly wait, so three at a time fit on two processors.
WORKERS ?= 3

RUN     := $(VENV)/bin/python
PIP     := $(RUN) -m pip --disable-pip-version-check -qq
INSTALL := $(PIP) install --constraint requirements.lock
# Whoever has no test left takes over from another, whole runs of a file where that is possible.
PYTEST  := $(RUN) -m pytest --numprocesses $(WORKERS) --dist worksteal

# A package counts from its first module on.
PACKAGES := $(patsubst %/__init__.py,%,$(wildcard $(addsuffix /__init__.py,wire broker actor sdk)))
SIM      := $(wildcard tests/sim/test_*.py tests/model/test_*.py)

.PHONY: demo pipeline service test check fix sim chaos bench clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

demo: $(VENV)/demo.stamp
	@$(RUN) examples/identify_files.py $(ARGS)

pipeline: $(VENV)/pipeline.stamp
	@$(RUN) examples/pipeline.py $(ARGS)

service: $(VENV)/service.stamp
	@$(RUN) examples/reading_service.py $(ARGS)

test: $(VENV)/test.stamp
	@$(PYTEST) --session-timeout=1500

check: $(VENV)/check.stamp
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(if $(PACKAGES),$(RUN) -m mypy $(PACKAGES) warmslot.py)
	@$(PYTEST) -q -m "not process and not slow" --ignore=tests/sim --ignore=tests/model
	@$(if $(SIM),$(PYTEST) -q $(sort $(dir $(SIM))))

fix: $(VENV)/check.stamp
	@$(RUN) -m ruff check --fix --exit-zero .
	@$(RUN) -m ruff format .

sim: $(VENV)/test.stamp
	@$(RUN) -m tests.sim.run --seeds $(SEEDS) --steps $(STEPS)

chaos: $(VENV)/test.stamp
	@$(RUN) -m tests.chaos.run $(ARGS)

bench: $(VENV)/test.stamp
	@$(RUN) bench/latency.py $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/test.stamp: $(VENV)/base.stamp
	@$(INSTALL) --no-build-isolation --editable ".[test]"
	@touch $@

$(VENV)/check.stamp: $(VENV)/base.stamp
	@$(INSTALL) --no-build-isolation --editable ".[test,dev]"
	@touch $@

$(VENV)/demo.stamp: $(VENV)/base.stamp
	@$(INSTALL) --no-build-isolation --editable ".[demo]"
	@touch $@

$(VENV)/pipeline.stamp: $(VENV)/base.stamp
	@$(INSTALL) --no-build-isolation --editable ".[pipeline]"
	@touch $@

$(VENV)/service.stamp: $(VENV)/base.stamp
	@$(INSTALL) --no-build-isolation --editable ".[pipeline,plot]"
	@touch $@

# The build backend comes from the lock as well, so a build downloads nothing that is not pinned.
$(VENV)/base.stamp: pyproject.toml requirements.lock | $(RUN)
	@$(INSTALL) hatchling editables
	@touch $@

# An interpreter counts only when it runs: a version manager's stand-in may exist and refuse to.
$(RUN):
	@for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
	    if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	        >/dev/null 2>&1; then \
	        echo "Building $(VENV) with $$("$$python" --version)."; \
	        exec "$$python" -m venv "$(VENV)"; \
	    fi; \
	done; \
	echo "warmslot needs Python 3.11 or newer with venv: install one, or name it with PYTHON=." >&2; \
	exit 1
