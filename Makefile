# Every target sets up its environment itself where that is missing or older than the files it is
# made from. DATA=path takes a real kaggle_3m folder: make demo DATA=..., make test-all DATA=...

PYTHON ?= python3
DATA ?=
SET ?=
FUZZ ?= 100000
BENCH ?= --benchmark-json=benchmarks/results/local.json
BIN := .venv/bin
READY := .venv/.ready
# Of the two light environments; the full one has the release that torchvision is built for.
TORCH := 2.13.0
CORE := .venv-core
DEMO := .venv-demo
# What a machine with a GPU is likely to have; numpy 2.5 wants Python 3.12, 3.11 gets the newest it can.
GPU := .venv-gpu
GPU_PYTHON := $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python /usr/local/bin/python3.12 /usr/bin/python3.12) $(PYTHON))
GPU_PINS := torch==2.11.0 triton==3.6.0 'numpy>=2.4,<2.6' pytest hypothesis scipy
OUT ?= runs/gpu_report
SITE := site/.built
DRAWN := docs/generated/figures/.drawn
EXPORTED := docs/generated/models/presets.json
SCRIPTS := docs/generated/.scripts
COPIED := docs/benchmarks/README.md
ONNXRUNTIME := onnxruntime-web@1.30.0
MATHJAX := mathjax@3.2.2
SPHINX := $(BIN)/sphinx-build -n -W -q --keep-going -d docs/api/_build/doctrees docs/api
COVERAGE := $(BIN)/python -m coverage
EVIDENCE := $(BIN)/python -m benchmarks.evidence

.DEFAULT_GOAL := help
SOURCES := $(shell find src examples docs CHANGELOG.md mkdocs.yml -type f -not -path '*/__pycache__/*' \
	-not -path 'docs/generated/*' -not -path 'docs/benchmarks/*' -not -path '*/_build/*')

.PHONY: help demo test test-all gpu gpu-rehearsal coverage mutants check format docs docs-serve bench evidence fuzz numbers memory kills audit packages release clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(DEMO)/.ready ## train with and without the outlier term (DATA=path to kaggle_3m, else generated slices); writes runs/<name>/
	$(DEMO)/bin/python -m examples.lgg $(if $(DATA),--data "$(DATA)")

test: $(CORE)/.ready ## run the library's tests with torch (TORCH=version), numpy and the extra `test` alone
	$(CORE)/bin/python -m pytest -n 2

# Without npm there is no site to test; the run's header says what is left out for want of it.
test-all: $(READY) $(if $(shell command -v npm),$(SITE)) ## run every test: kernels, metrics, guides, examples, peers (DATA=path to kaggle_3m: on real slices too)
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/kernels
	$(BIN)/python -m pytest --device pretend tests/functional/test_scores.py
	$(if $(DATA),LGG_DATA="$$(realpath "$(DATA)")") $(BIN)/python -m pytest --markdown-docs --markdown-docs-syntax=superfences README.md docs/*.md src tests

gpu: ## on a machine with a GPU, torch and triton: prove and time everything in 8 minutes; installs nothing (OUT=folder)
	PYTHONPATH=src $(PYTHON) -m benchmarks.gpu_report --out $(OUT)

gpu-rehearsal: $(GPU)/.ready ## rehearse `make gpu` on a CPU, with the torch and Triton of a machine with a GPU
	PYTHONPATH=src $(GPU)/bin/python -m benchmarks.gpu_report --out $(OUT)-rehearsal --rehearse --seconds 1500
	PYTHONPATH=src $(GPU)/bin/python -m pytest -q -o addopts= -o filterwarnings= --import-mode=importlib tests/functional/test_triton_compiles.py tests/functional/test_outlier_weight.py tests/functional/test_box_filter.py

# What runs examples, guides and the site as they are is not asked to reach lines of the library.
coverage: $(READY) ## measure which lines and branches of src/ the tests reach; fails under 100 %
	$(COVERAGE) erase
	TRITON_INTERPRET=1 $(COVERAGE) run -m pytest tests/kernels
	$(COVERAGE) run -m pytest --ignore=tests/examples --ignore=tests/benchmarks --ignore=tests/docs
	$(COVERAGE) combine
	$(BIN)/python -m reliability.interpreted_exits
	$(COVERAGE) report --fail-under=100

check: $(READY) ## format, lint, types, layer walk
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(READY) ## mend format and lint where a tool can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(SITE) ## build the documentation into site/, warnings as errors; needs npm

docs-serve: $(SITE) ## build the documentation and serve it
	$(BIN)/python -m http.server --directory site --bind 127.0.0.1 8000

bench: $(READY) ## run the benchmarks and save benchmarks/results/local.json
	$(BIN)/python -m pytest benchmarks --benchmark-enable $(BENCH)

# Memory that is freed is kept for the next step, which is then a fifth faster.
evidence: $(READY) ## compare the losses on a data set (SET=lgg DATA="folder folder"; hours); resumes where it stopped
	@test -n "$(SET)" -a -n "$(DATA)" || { echo 'name the set and its folders: make evidence SET=lgg DATA="folder folder"'; exit 2; }
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 $(EVIDENCE).run --set $(SET) --data $(DATA)
	$(EVIDENCE).summary $(SET)
	$(EVIDENCE).islands $(SET)
	$(EVIDENCE).page

kills: $(READY) ## kill the training examples at ten random moments each, and see that they go on to the same results
	$(BIN)/python -m reliability.kills

audit: $(READY) ## look for known vulnerabilities of the pinned dependencies; asks a service on the internet
	$(BIN)/pip-audit --disable-pip --no-deps --strict --requirement constraints.txt

packages: $(READY) ## build sdist and wheel twice, and try the wheel with Python 3.11 to 3.13 and torch old and new; gigabytes
	$(BIN)/python -m reliability.packages

release: $(READY) ## refuse what must not be released; check, docs, tests; build into dist/, upload nothing
	$(BIN)/python -m reliability.release --check
	$(MAKE) check docs test test-all
	$(BIN)/python -m reliability.release

fuzz: $(READY) ## draw calls until FUZZ examples in all (100000) have passed; resumes where it stopped
	$(BIN)/python -m reliability.fuzz --examples $(FUZZ)

numbers: $(READY) ## measure the errors of every function against float64; some minutes
	$(BIN)/python -m reliability.numerical_errors

memory: $(READY) ## measure the memory of 10 000 steps of every loss
	$(BIN)/python -m reliability.memory

mutants: $(READY) ## change the library one operator at a time, and see whether a test notices (hours); resumes where it stopped
	$(BIN)/python -m reliability.mutants

clean: ## remove environments, caches, runs and the site
	rm -rf site docs/generated docs/benchmarks docs/api/_build .venv .venv-core .venv-demo .venv-gpu .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage .coverage.* .mutants runs dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Held until the environment is whole: an interrupted install is begun anew.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# One extra each, and the CPU build of torch where one can be found. The pins of the rest hold, but
# for what torch pins itself.
$(CORE)/.ready: EXTRA := test
$(DEMO)/.ready: EXTRA := demo
$(CORE)/.ready $(DEMO)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(@D)
	grep -vE '^(sympy|torch|torchvision|triton|(nvidia|cuda)-.*)==' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --constraint $(@D)/constraints.txt torch==$(TORCH) --editable '.[$(EXTRA)]'
	touch $@

$(GPU)/.ready: Makefile
	$(GPU_PYTHON) -m venv --clear $(GPU)
	$(GPU)/bin/python -m pip install --quiet $(GPU_PINS)
	touch $@

$(SITE): $(READY) $(DRAWN) $(EXPORTED) $(SCRIPTS) $(COPIED) $(SOURCES)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(SPHINX) -E -b html site/api
	$(SPHINX) -b doctest docs/api/_build/doctest
	$(SPHINX) -b coverage docs/api/_build/coverage
	touch $@

$(DRAWN): $(READY) docs/figures.py docs/diagrams.py docs/network_drawings.py examples/density_loss.py examples/noise_image.py $(wildcard src/gliomaseg_layers/networks/*.py) $(wildcard src/gliomaseg_layers/functional/*.py)
	$(BIN)/python -m docs.figures $(@D)
	touch $@

$(EXPORTED): $(READY) docs/playground/export_models.py $(wildcard src/gliomaseg_layers/functional/*.py)
	$(BIN)/python -m docs.playground.export_models $(@D)

# The benchmarks' pages, with what they link to, are pages of the site as they are.
$(COPIED): $(wildcard benchmarks/* benchmarks/evidence/* benchmarks/evidence/images/*)
	rm -rf docs/benchmarks
	tar -c --exclude='__pycache__' --exclude='runs' --exclude='results' benchmarks | tar -x -C docs
	touch $@

# The scripts of others that the site ships, out of their npm packages; nothing of these is run here.
$(SCRIPTS): Makefile
	@command -v npm >/dev/null || { echo "make docs needs npm (Debian: apt-get install npm)"; exit 2; }
	mkdir -p $(@D)/onnxruntime $(@D)/mathjax
	cd $(@D) && npm pack --silent $(ONNXRUNTIME) $(MATHJAX)
	tar -xzf $(@D)/onnxruntime-web-*.tgz -C $(@D)/onnxruntime --strip-components=2 \
		package/dist/ort.wasm.bundle.min.mjs package/dist/ort-wasm-simd-threaded.wasm
	tar -xzf $(@D)/mathjax-*.tgz -C $(@D)/mathjax --strip-components=1 package/LICENSE package/es5/tex-svg.js
	rm $(@D)/*.tgz
	touch $@
