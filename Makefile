# Everything runs in .venv of this folder, whatever environment is active: the tested versions are there.
PYTHON ?= python3.11
RECBOLE := recbole==1.2.1
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --no-input --quiet

unexport PYTHONHOME PYTHONPATH
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-tune setup-serve setup-onnx demo test test-slow test-page lint format bench clean distclean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.package ## create .venv with the tested versions (PYTHON=... to choose the interpreter)

# A stamp file is written last, so that an installation that was interrupted starts from nothing.
$(VENV)/.requirements: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "setup: '$(PYTHON)' is missing or older than Python 3.11; install it or name another: make setup PYTHON=..." >&2; \
	  exit 1; }
	@echo "setup: creating $(VENV), a few minutes"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --requirement requirements.txt
	@$(PIP) install --no-deps $(RECBOLE)
	@touch $@

$(VENV)/.package: $(VENV)/.requirements setup.cfg pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# pip would report RecBole's own pins as conflicts; requirements-tune.txt says why they are left unmet.
setup-tune: $(VENV)/.tune ## add Ray and Optuna, for sweeps and several workers

$(VENV)/.tune: $(VENV)/.package requirements-tune.txt
	@$(PIP) install --no-warn-conflicts --requirement requirements-tune.txt
	@touch $@

setup-serve: $(VENV)/.serve ## add FastAPI, for `recbole-ra serve`, and what tests it

$(VENV)/.serve: $(VENV)/.package requirements-serve.txt
	@$(PIP) install --no-warn-conflicts --requirement requirements-serve.txt
	@touch $@

setup-onnx: $(VENV)/.onnx ## add onnx and onnxruntime, for `recbole-ra export --onnx`

$(VENV)/.onnx: $(VENV)/.package requirements-onnx.txt
	@$(PIP) install --requirement requirements-onnx.txt
	@touch $@

demo: setup ## train and evaluate on the data set that RecBole brings along (ARGS=... is passed on)
	$(RUN) run_recbole_ra.py --model=RaSASRec --dataset=ml-100k --epochs=25 --raft_epochs=10 --train_batch_size=1024 $(ARGS)

# One process for each core; what belongs in one process is said in tests/conftest.py.
test: setup-tune setup-serve setup-onnx ## quick tests (ARGS=... is passed on to pytest; ARGS=-n0 for one process)
	$(RUN) -m pytest -q --numprocesses=auto --maxprocesses=8 $(ARGS)

test-slow: setup-tune setup-serve setup-onnx ## tests that train models or need real data
	$(RUN) -m pytest -q -m slow $(ARGS)

test-page: setup-serve ## tests of the served page in Chromium (Debian: chromium, chromium-driver)
	$(RUN) -m pytest -q -m page -rs $(ARGS)

# Types of what is served are those of FastAPI and pydantic.
lint: setup-serve ## ruff, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: setup ## let ruff sort imports and format
	$(RUN) -m ruff check --select I --fix .
	$(RUN) -m ruff format .

bench: setup ## speed against naive code and peers (seeds.py and held_out_pairs.py ask for what to measure)
	@for name in patterns epoch decoding; do echo "== $$name"; $(RUN) benchmarks/$$name.py $(ARGS) || exit 1; done

clean: ## remove caches and build output
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## remove .venv as well
	rm -rf $(VENV)
