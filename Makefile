# Every target sets up .venv itself where it is missing or older than the files it is made from.
# DATA=path takes a real kaggle_3m folder: make demo DATA=..., make test DATA=...

PYTHON ?= python3
DATA ?=
BENCH ?= --benchmark-json=benchmarks/results/local.json
BIN := .venv/bin
READY := .venv/.ready
CORE_READY := .venv-core/.ready
TORCH_CORE := 2.13.0
# Triton's language has no docstrings to run, and is not everywhere.
NO_KERNELS := --ignore-glob='*_kernels.py' --ignore-glob='*_triton.py'
EVIDENCE := PYTHONPATH=examples $(BIN)/python benchmarks/evidence

.DEFAULT_GOAL := help
.PHONY: help demo test test-core check format docs bench evidence clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## train on LGG slices (DATA=path to kaggle_3m, else a generated stand-in) and write runs/<name>/
	$(BIN)/python examples/train_lgg.py $(if $(DATA),--data "$(DATA)")

test: $(READY) ## run the whole test suite (DATA=path to kaggle_3m: on real slices too)
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/kernels
	$(if $(DATA),LGG_DATA="$$(realpath "$(DATA)")") $(BIN)/python -m pytest --markdown-docs README.md src tests --ignore=tests/kernels $(NO_KERNELS)

test-core: $(CORE_READY) ## run the core's tests with torch, numpy and the extra `test` alone
	.venv-core/bin/python -m pytest $(NO_KERNELS) --ignore=tests/kernels --ignore=src/gliomaseg_layers/metrics --ignore=src/gliomaseg_layers/networks/attribute_deeplab.py --ignore=tests/metrics --ignore=tests/networks/test_attribute_deeplab.py --ignore=tests/examples --ignore=tests/benchmarks --ignore=tests/peers

check: $(READY) ## format, lint, types, layer walk
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(READY) ## mend format and lint where a tool can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: ## (the site comes in a later version)
	@echo "The documentation is README.md and the docstrings; a site comes in a later version."

bench: $(READY) ## run the benchmarks and save benchmarks/results/local.json
	$(BIN)/python -m pytest benchmarks --benchmark-enable $(BENCH)

evidence: $(READY) ## compare the loss with its rivals on slices (DATA=path to kaggle_3m; hours); resumes where it stopped
	@test -n "$(DATA)" || { echo "give the slices: make evidence DATA=path to kaggle_3m"; exit 2; }
	for stage in final screen scratch; do $(EVIDENCE)/run.py --data "$(DATA)" --stage $$stage || exit; done
	$(EVIDENCE)/flagged.py --data "$(DATA)"
	$(EVIDENCE)/timing.py
	$(EVIDENCE)/page.py

clean: ## remove environments, caches and runs
	rm -rf .venv .venv-core .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks runs dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Held until the environment is whole: an interrupted install is begun anew.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# The CPU build of torch where one can be found, and none of the peers; the pins of the rest hold.
$(CORE_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv-core
	grep -vE '^(torch|torchvision|triton|(nvidia|cuda)-.*)==' constraints.txt > .venv-core/constraints.txt
	.venv-core/bin/python -m pip install --quiet --constraint .venv-core/constraints.txt torch==$(TORCH_CORE) --editable '.[test]'
	touch $@
