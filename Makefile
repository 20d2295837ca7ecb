# make demo, make test: each sets up .venv if need be. PYTHON names another interpreter than python3.
PYTHON ?= python3
VENV ?= .venv
# Many tests wait for real processes: a core has more than one in hand.
TESTS ?= 3
# Every process of a test reads our modules; some machines say that none may keep them compiled.
export PYTHONDONTWRITEBYTECODE =
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format coverage bench-step bench-exchange bench-codecs bench-losses bench-server bench-trainer recipes reproduction fuzz naive-reader faults network choosing docs clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(READY)  ## make the virtual environment with all that demo and tests need

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "codistill needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)  ## train all arms of the demo, print the table, write runs/demo/report.html
	$(BIN)/codistill demo --out runs/demo --overwrite

test: $(READY)  ## run every test, files side by side: TESTS of them
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TESTS) --dist loadfile --no-loadscope-reorder

check: $(READY)  ## formatting, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_floors.py

format: $(READY)  ## put the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

coverage: $(READY)  ## run every test and show what none of them reaches
	$(BIN)/python -m pytest --cov --cov-report=term

bench-step: $(READY)  ## what a step costs beside plain training and beside its floor
	$(BIN)/python benchmarks/step.py

bench-exchange: $(READY)  ## what publishing and fetching cost a training job
	$(BIN)/python benchmarks/exchange.py

bench-server: $(READY)  ## what a prediction server answers in a second
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/server.py

bench-codecs: $(READY)  ## what each codec costs in bytes, seconds and predictions
	$(BIN)/python benchmarks/codecs.py

bench-losses: $(READY)  ## what losses over large vocabularies cost in seconds and memory
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/losses.py --json docs/results/losses.json

bench-trainer: $(READY)  ## what the laboratory's trainer adds to an update
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/trainer.py --json docs/results/trainer.json

reproduction: $(READY)  ## write docs/reproduction.md from the findings that are committed
	$(BIN)/python -m codistill.lab.experiments.page docs/reproduction.md

recipes: $(READY)  ## train every recipe of a laptop's scale for a few updates; needs CODISTILL_DATA
	$(BIN)/python -m codistill.lab.try_recipes

fuzz: $(READY)  ## hostile pointers, manifests and weights against their readers
	$(BIN)/python -m pytest tests/snapshots/test_fuzz.py

naive-reader: $(READY)  ## read snapshots by a reader written from docs/snapshot-format.md alone
	$(BIN)/python -m pytest tests/snapshots/test_naive_reader.py

faults: $(READY)  ## kill peers, break files, take the store away, for an hour; write docs/failure.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/faults.py --json docs/results/faults.json --page docs/failure.md

network: $(READY)  ## train on two hosts joined by a slow link, as root, for half an hour; write docs/network.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/network.py --json docs/results/network.json --page docs/network.md

choosing: $(READY)  ## train one setting at a time around the recipe digits; write the tables of docs/choosing.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/choosing.py --json docs/results/choosing.json --page docs/choosing.md

docs: $(READY)  ## build the site into build/site; a warning fails
	$(BIN)/python docs/stage.py build/pages
	$(BIN)/zensical build --strict --clean

clean:  ## remove the environment and the caches, not runs/
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
