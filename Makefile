# Needs only python3.11, make and git. `make demo` and `make test` do everything, set-up included.
#
# On Linux the default torch wheel brings CUDA along. For the small CPU build give pip PyTorch's CPU index:
#   make demo PIPARGS="--extra-index-url <PyTorch's CPU wheel index>"

PYTHON ?= python3.11
VENV ?= .venv
PIPARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo
JOBS ?= 2

.PHONY: setup demo picture test test-all lint stubs bench peers clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade "pip>=25.1"
	$(BIN)/python -m pip install -qq $(PIPARGS) -c constraints.txt --group dev -e .
	touch $@

# One thread: these networks are too small to share, and threads that wait for each other on a busy machine cost minutes.
demo: $(STAMP)
	rm -rf $(DEMO)
	OMP_NUM_THREADS=1 $(BIN)/reverie compare digits --models gmm rbm vae gan --out $(DEMO) \
	  --set gmm.components=10 rbm.epochs=150 vae.epochs=60 gan.epochs=200
	@cp $(DEMO)/samples.png $(DEMO)/demo.png
	@echo "picture: $(DEMO)/demo.png"

picture: demo
	mkdir -p docs/images
	cp $(DEMO)/demo.png docs/images/demo.png

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --cov --cov-report=term:skip-covered

test-all: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) -m "slow or not slow"

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

stubs: $(STAMP)
	$(BIN)/python tools/make_stubs.py

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

peers: $(STAMP)
	$(PYTHON) -m venv .peers
	.peers/bin/python -m pip install -q --upgrade "pip>=25.1"
	.peers/bin/python -m pip install -qq $(PIPARGS) -r benchmarks/peers.txt
	.peers/bin/python -m pip install -qq $(PIPARGS) --no-deps rbms==0.5.0

clean:
	rm -rf $(DEMO) build dist htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
