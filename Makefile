# Every target installs what it needs itself. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PEERS := .bench-venv
BENCH ?=
WORKERS ?= 3
PROMPT ?= a red apple
PYTHON ?= python3
SOURCES := server/flashbulb_server client/python/flashbulb tests

TS := client/typescript

$(TS)/node_modules/.package-lock.json: $(TS)/package-lock.json
	cd $(TS) && npm ci --no-audit --no-fund --silent

# What the service needs to run, in the versions of requirements.lock.
$(VENV)/.runs: requirements.lock server/pyproject.toml client/python/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock 'setuptools>=77'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --no-build-isolation \
		-e 'client/python[cli,images]' -e 'server[worker,openvino,embedded]'
	touch $@

# And what it is developed with.
$(VENV)/.installed: $(VENV)/.runs
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@

.PHONY: help
help: ## Lists the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: install
install: $(VENV)/.installed ## Makes .venv with everything in it.

.PHONY: demo
demo: $(VENV)/.runs ## Draws PROMPT="a red apple" through the whole service into out/, then stops everything.
	$(BIN)/python client/python/examples/demo.py "$(PROMPT)"

.PHONY: serve
serve: $(VENV)/.runs ## Starts the service on this host (gRPC on :50051, the page and HTTP on :8080, data in ./data).
	$(BIN)/flashbulb-server serve --data-dir data

.PHONY: test
test: $(VENV)/.installed ## Runs the whole test suite against the real servers, in WORKERS=3 processes.
	$(BIN)/pytest -n $(WORKERS)

.PHONY: quick
quick: proto-lint proto-breaking ## Runs what needs no server, in less than a minute.
	$(BIN)/pytest -n $(WORKERS) tests/unit tests/client

.PHONY: conformance
conformance: $(VENV)/.installed ## Runs the unmodified clients of fal against the service; needs Node.js.
	$(BIN)/pytest tests/conformance

.PHONY: check
check: lint types imports proto-lint proto-breaking gen-check docker-check test ## All that CI runs.

.PHONY: lint
lint: $(VENV)/.installed ## Looks for mistakes and bad format.
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

.PHONY: fmt
fmt: $(VENV)/.installed ## Mends what lint can mend.
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	cd proto && ../$(BIN)/buf format -w

.PHONY: types
types: $(VENV)/.installed ## Checks the types, strictly.
	$(BIN)/mypy -p flashbulb_server -p flashbulb

.PHONY: imports
imports: $(VENV)/.installed ## Checks that imports point one way.
	$(BIN)/lint-imports

.PHONY: proto-lint
proto-lint: $(VENV)/.installed ## Checks the contract's style and format.
	cd proto && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code

.PHONY: proto-breaking
proto-breaking: $(VENV)/.installed ## Checks that the contract still serves clients of proto/baseline.binpb.
	set -o pipefail; cd proto && ../$(BIN)/buf build -o - --as-file-descriptor-set | ../$(BIN)/buf breaking '-#format=binpb' --against baseline.binpb

.PHONY: proto-baseline
proto-baseline: $(VENV)/.installed ## Makes today's contract the one that later changes must not break. Run it at a release.
	cd proto && ../$(BIN)/buf build -o baseline.binpb --as-file-descriptor-set

.PHONY: ts-install
ts-install: $(TS)/node_modules/.package-lock.json ## Installs what the TypeScript client is built with.

.PHONY: ts
ts: ts-install ## Builds the TypeScript client into client/typescript/dist.
	cd $(TS) && npm run --silent build

.PHONY: gen
gen: $(VENV)/.installed ## Generates the stubs from proto/.
	proto/generate.sh

.PHONY: readme
readme: $(VENV)/.installed ## Writes the table of settings into the README.
	$(BIN)/python -m tests.write_settings

.PHONY: gen-check
gen-check: $(VENV)/.installed ## Checks that the committed stubs are those of proto/.
	@! command -v npm >/dev/null || $(MAKE) --no-print-directory ts-install
	tests/check_generated.sh

.PHONY: docker-check
docker-check: $(VENV)/.installed ## Checks Dockerfile and compose.yaml.
	tests/check_docker.sh

.PHONY: bench
bench: $(VENV)/.installed ## Measures speed beside the peers; writes tests/bench/RESULTS.md. BENCH="--only realtime" takes a part.
	@$(MAKE) --no-print-directory bench-peers || echo "the peers cannot be installed: going on without them"
	$(BIN)/python -m tests.bench $(BENCH)

.PHONY: bench-peers
bench-peers: $(PEERS)/.installed ## Installs what the benchmarks compare with, into .bench-venv.

$(PEERS)/.installed: tests/bench/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -r tests/bench/peers/requirements.txt
	touch $@

.PHONY: clean
clean: ## Removes .venv and all that was made.
	rm -rf $(VENV) $(PEERS) out build .graphs *.egg-info server/*.egg-info client/python/*.egg-info $(addprefix $(TS)/,node_modules dist build)
