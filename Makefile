PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
JOBS ?= 3  # test processes; most of a test is waiting for disks and other processes

NODE := clients/node
NODE_STAMP := $(NODE)/node_modules/.installed
HAS_NODE := $(shell node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null && npm --version >/dev/null 2>&1 && echo yes)
WITHOUT_NODE := Node 20 and npm are not here, so the Node client is left out

.PHONY: setup demo test check bench bench-quick fuzz clean node node-test node-check

setup: $(STAMP)

# The stamp is newer than what decides the installation, so a second run starts at once.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Armin needs Python 3.11 or newer: make PYTHON=python3.x")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Armin into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/python demo/demo.py

test: $(STAMP) node
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal
	@$(MAKE) --no-print-directory node-test

# Side by side with Redis, NATS and others: see benchmarks/README.md. ROWS="1 2b" measures these alone.
bench: $(BENCH_STAMP)
	$(BIN)/python -m benchmarks $(ROWS)

bench-quick: $(BENCH_STAMP)
	$(BIN)/python -m benchmarks --quick $(ROWS)

# Millions of broken commands, then broken peers on every socket; see docs/fuzzing.md. SEED="--seed 1" repeats a run.
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz --inputs 1000000 $(SEED)
	$(BIN)/python -m tests.fuzz --inputs 300000 --wire $(SEED)
	$(BIN)/python -m tests.fuzz --inputs 300000 --wire --keys $(SEED)

$(BENCH_STAMP): $(STAMP)
	@echo "installing what Armin is measured beside into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	@touch $@

# The pictures of the terminal views in the docs, from a real engine under load; takes a minute.
pictures: $(STAMP)
	$(BIN)/python docs/pictures/draw.py

check: $(STAMP) node-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The Node client. Without Node its tests are left out, but never in CI.
ifeq ($(HAS_NODE),yes)
node: $(NODE_STAMP)
	@cd $(NODE) && npm run --silent build && npm run --silent build:test

node-test: $(STAMP) $(NODE_STAMP)
	cd $(NODE) && npm test --silent

node-check: $(NODE_STAMP)
	cd $(NODE) && npm run --silent check

$(NODE_STAMP): $(NODE)/package.json $(NODE)/package-lock.json
	@echo "installing what the Node client needs into $(NODE)/node_modules"
	@cd $(NODE) && npm ci --silent --no-audit --no-fund
	@touch $@
else
node node-test node-check:
	@echo "$(WITHOUT_NODE)"
	@test -z "$$CI"
endif

clean:
	rm -rf $(VENV) .bench-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf $(NODE)/node_modules $(NODE)/dist $(NODE)/build
