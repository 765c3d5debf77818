# make demo        set up, run the paradigm end to end on this machine, show the result
# make test        the test suite (test-slow: the long ones; test-whole: whole runs of many processes;
#                  test-vllm: beside vLLM, in .venv-vllm; test-vlmeval: with VLMEvalKit, in .venv-vlmeval)
# make lint        ruff and basedpyright

VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/in-car-nano
PYTHON ?= $(firstword $(foreach p,python3.11 python3 python,$(shell $(p) -c \
  'import sys; print("$(p)" if sys.version_info[:2] == (3, 11) else "")' 2>/dev/null)))
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint requirements.lock

.PHONY: demo test test-slow test-whole test-vllm test-vlmeval lint clean

demo: $(VENV)/.core
	$(BIN)/open4ov run recipes/in-car-nano.yaml --out $(OUT)

test: $(VENV)/.dev
	$(BIN)/pytest -n 2 --dist loadfile

test-slow: $(VENV)/.dev
	$(BIN)/pytest -m slow -n 2 --dist loadfile

test-whole: $(VENV)/.dev
	$(BIN)/pytest -m whole

test-vllm: $(VENV)/.dev
	PYTHON=$(PYTHON) scripts/vllm_venv.sh .venv-vllm
	OPEN4OV_VLLM_PYTHON=.venv-vllm/bin/python $(BIN)/pytest -m vllm

test-vlmeval: $(VENV)/.dev
	PYTHON=$(PYTHON) scripts/vlmeval_venv.sh .venv-vlmeval
	OPEN4OV_VLMEVAL_PYTHON=.venv-vlmeval/bin/python $(BIN)/pytest -m vlmeval

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/basedpyright

clean:
	rm -rf $(VENV) .venv-vllm .venv-vlmeval out build dist .pytest_cache .ruff_cache .hypothesis src/open4ov.egg-info

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "open4ov needs Python 3.11, and none of python3.11, python3 and python is one;" \
	  "install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml requirements.lock | $(BIN)/python
	@echo "installing into $(VENV) (once; PyTorch is the large part)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml requirements.lock | $(BIN)/python
	@echo "installing into $(VENV), with what tests need (once)"
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.core
