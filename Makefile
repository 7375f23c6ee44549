# Two commands do everything: `make run` and `make test`. What they need, they make.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
NPM := $(shell command -v npm)

.DEFAULT_GOAL := help
.PHONY: help install run test model coverage mutate lint contract sbom format bench bench-cluster bench-links soak dashboards cluster stack stack-small stack-scale tour docs package lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

install: .venv/installed-dev node_modules/installed-dev ## make .venv and node_modules with everything

# What running needs, and what tests and tools need beside it. Each marker stands for the lock that was installed last.
ifneq ($(wildcard .venv/installed-dev),)
.venv/installed: .venv/installed-dev
	@touch $@
else
.venv/installed: requirements.lock pyproject.toml | .venv/bin/pip
	@echo "Installing what running needs into .venv (a minute the first time)"
	$(BIN)/pip install --disable-pip-version-check --progress-bar on --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
endif

.venv/installed-dev: requirements-dev.lock pyproject.toml | .venv/bin/pip
	@echo "Installing what tests and tools need into .venv (some minutes the first time)"
	$(BIN)/pip install --disable-pip-version-check --progress-bar on --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ .venv/installed

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
		echo "roundtrip: needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)." \
			"Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
		exit 2; }
	$(PYTHON) -m venv .venv

ifdef NPM
ifneq ($(wildcard node_modules/installed-dev),)
node_modules/installed: node_modules/installed-dev
	@touch $@
else
node_modules/installed: package-lock.json
	@echo "Installing the page's libraries into node_modules"
	npm ci --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
endif

node_modules/installed-dev: package-lock.json
	@echo "Installing the page's libraries and what its tests need into node_modules"
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
else
.PHONY: node_modules/installed node_modules/installed-dev
node_modules/installed node_modules/installed-dev:
	@echo "npm is missing: everything runs but the page and the JavaScript tests. Get it with: apt-get install npm"
endif

run: .venv/installed node_modules/installed ## install what running needs; start the backend with a simulated phone: page on http://127.0.0.1:8080, console on http://127.0.0.1:9464
	exec $(BIN)/roundtrip demo

cluster: .venv/installed node_modules/installed ## three nodes on a PostgreSQL of their own behind one address, without containers: page on http://127.0.0.1:8080
	exec $(BIN)/python -m tools.cluster $(ARGS)

test: install ## pass the tests: those that wait side by side, the quick ones, then the slow; ARGS="tests/x -k y" runs just those
	$(BIN)/python -m tools.run_tests $(ARGS)

model: install ## search for five minutes for a way that breaks the promises of the whole path
	ROUNDTRIP_MODEL_SECONDS=$${ROUNDTRIP_MODEL_SECONDS:-300} $(BIN)/python -m pytest tests/model/test_whole_path.py -s

coverage: install ## branch coverage of all tests and of the programs that they start
	rm -rf build/coverage && mkdir -p build/coverage
	ROUNDTRIP_MEASURE=1 $(BIN)/python -m tools.run_tests $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --skip-covered
	$(BIN)/python -m tools.branches

mutate: install ## which small faults in the core the tests would notice; the score goes to tests/mutation/score.json
	nice -n 10 $(BIN)/python -m tools.mutation --keep $(ARGS)

lint: install ## ruff, mypy --strict, who may import whom, known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=backend $(BIN)/lint-imports
	$(BIN)/python -m tools.audit

contract: install ## write what is generated from the code: docs/openapi.json, docs/asyncapi.json, docs/settings.md, docs/reference.md
	$(BIN)/python -m roundtrip.api.spec.openapi
	$(BIN)/python -m tools.documents

sbom: install ## write the bills of materials with licences: docs/sbom.cdx.json (Python), docs/sbom-web.cdx.json (npm)
	rm -rf build/sbom && $(BIN)/python -m venv --without-pip build/sbom
	$(BIN)/pip --python build/sbom/bin/python install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --short-PURLs --sv 1.6 \
		--of JSON -o docs/sbom.cdx.json build/sbom/bin/python
	npm sbom --sbom-format cyclonedx --package-lock-only > docs/sbom-web.cdx.json

format: install ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## events per second beside bare python-socketio and bare Node, as ratios
	$(BIN)/python -m tests.bench $(ARGS)

bench-cluster: install ## events per second of one, two and three nodes on one PostgreSQL, and what an event costs each of them
	$(BIN)/python -m tests.bench.cluster $(ARGS)

dashboards: install ## write the Grafana dashboards' JSON and the rules of Kubernetes from dashboards/builders
	$(BIN)/python -m dashboards

stack: install ## start backend, collector, Tempo, Loki, Prometheus, Alertmanager, Grafana (needs docker); TOUR=1: people use it
	TOUR=$(TOUR) $(BIN)/python -m dashboards.stack

stack-small: install ## the same with one container for all that observes; TOUR=1: people use it
	TOUR=$(TOUR) $(BIN)/python -m dashboards.stack --small

stack-scale: install ## the same with three nodes on a PostgreSQL behind a proxy; TOUR=1: people use it
	TOUR=$(TOUR) $(BIN)/python -m dashboards.stack --scale

tour: install ## people use the backend of make run: pages come, link, reload, go; ARGS="--fault-every 120" breaks things
	$(BIN)/python -m dashboards.tour $(ARGS)

docs: install ## build the documents as a site, in site/; --strict: a broken link is an error
	$(BIN)/python -m tools.documents
	$(BIN)/mkdocs build --strict

package: install ## build the source distribution and the wheel, with the page's libraries in them, in dist/
	rm -rf dist && mkdir dist
	$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')" >/dev/null
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w dist dist/roundtrip-*.tar.gz
	@ls dist

bench-links: install ## what 1, 32, 256 and 1,000 linked accounts cost, with the real library: memory, CPU, time to come back
	$(BIN)/python -m tests.bench.links $(ARGS)

soak: install ## kill -9 the backend two hundred times in a stream of events
	ROUNDTRIP_SOAK_ROUNDS=$${ROUNDTRIP_SOAK_ROUNDS:-200} $(BIN)/python -m pytest tests/acceptance/test_crash.py -s -k kills

lock: ## pin every dependency with its hashes (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" --all-extras pyproject.toml -o requirements-dev.lock

clean: ## remove what was made, not ./data
	rm -rf .venv node_modules build dist site backend/roundtrip/web/vendor .mypy_cache .ruff_cache .pytest_cache .hypothesis
