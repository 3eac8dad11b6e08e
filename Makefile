# `make run` and `make test` need Python 3.11 or newer and nothing else: each installs what it needs, and no more.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PROFILE ?=
ARGS ?=
# What was tested together. `make CONSTRAINTS= ...` installs the newest of everything instead.
CONSTRAINTS ?= constraints.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

.PHONY: help setup run test test-s3 lint format docs benchmark upgrade clean
.DEFAULT_GOAL := help
.SECONDARY:

help: ## what there is
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.run ## a virtual environment in .venv, with what a run needs

$(VENV)/.python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Set-up: a virtual environment in $(VENV)"
	@"$(PYTHON)" -m venv $(VENV) || { echo "No virtual environment: install Python's venv module (Debian: apt-get install python3-venv)."; exit 1; }
	@touch $@

$(VENV)/.run: $(VENV)/.python pyproject.toml $(CONSTRAINTS)
	@echo "Set-up: what a run needs, most of it torch (several GB where it comes with CUDA; minutes, the first time)"
	@$(PIP) --editable '.[cluster]' || { echo "Set-up failed; the lines above say at which package. Without a network: pip's --find-links, or PIP_FIND_LINKS. Then the same command again."; exit 1; }
	@touch $@

# What else a task needs: an extra of pyproject.toml by that name.
$(VENV)/.%: $(VENV)/.run
	@echo "Set-up: what '$*' needs besides"
	@$(PIP) --quiet --editable '.[cluster,$*]' || { echo "Set-up failed; the lines above say at which package. Then the same command again."; exit 1; }
	@touch $@

run: $(VENV)/.run ## the main job, with nothing to download (PROFILE=quick, ARGS='--set ...')
	$(BIN)/veilbench run --workers auto $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)

test: $(VENV)/.test ## the tests (ARGS='-k name'; ARGS=--all: the slow ones too)
	$(BIN)/python -m pytest $(ARGS)

test-s3: $(VENV)/.test $(VENV)/.s3 ## the mirror on an S3 server on loopback
	$(BIN)/python -m pytest --all -n 0 tests/storage/test_mirror.py $(ARGS)

lint: $(VENV)/.lint ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.lint ## lets ruff tidy up
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs ## the documentation, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

benchmark: $(VENV)/.test $(VENV)/.benchmark ## speed, as ratios within one run
	$(BIN)/python -m pytest tests/benchmarks -o addopts=--import-mode=importlib --benchmark-only --benchmark-group-by=group $(ARGS)

# torch and its CUDA packages differ by platform: the lock gives the range that was tested, and pip chooses the build.
upgrade: $(VENV)/.lock ## renews constraints.txt with the newest of everything; then run the tests
	@mkdir -p build
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --quiet \
	  --no-annotate --no-header --no-emit-index-url --output-file build/lock.txt
	{ echo '# What was tested together, for every platform: pip install --constraint constraints.txt ... Renewed by make upgrade.'; \
	  echo 'torch>=2.9,<2.15'; echo 'torchvision>=0.24,<0.30'; \
	  grep -vE '^(torch|torchvision|triton|nvidia-|cuda-|veilbench)' build/lock.txt; } > constraints.txt.part
	mv constraints.txt.part constraints.txt

clean: ## removes the environment and caches; results stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
