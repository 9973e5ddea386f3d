# Each target is enough alone on a machine with Python 3.11+, make and a C compiler.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
MODEL ?=
ARGS ?=
MINUTES ?= 30
CLIENTS ?= 64

# An NVIDIA driver that answers decides for the CUDA build; KIND=cpu or KIND=gpu overrides it.
KIND ?= $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
VENV := .venv
READY := $(VENV)/.ready
TOOLS := $(VENV)/tools/.ready
BIN := $(VENV)/bin
CODE := client server steering vectors tests bench tools

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help serve test quick lint unit engine docs pages matrix faults schema clients load rolling attack compat soak playground pictures format bench lock image image-test clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 12
	@echo
	@echo 'make serve MODEL=Qwen/Qwen3-0.6B PORT=9000 HOST=0.0.0.0 ARGS="--max-model-len 4096"'

serve: $(READY) ## serve MODEL (none: the demo, SmolLM2 and its vectors) on HOST:PORT, with ARGS for vLLM
	@exec $(BIN)/steersman serve $(if $(MODEL),'$(MODEL)',--demo) --host $(HOST) --port $(PORT) $(ARGS)

test: lint unit engine ## everything: lint, unit tests, tests on real engines

quick: $(READY) ## lint and the unit tests that need no node and no Debian package, in three minutes
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not engine and not matrix and not faults' --ignore tests/deploy --ignore tests/playground

lint: $(READY) ## ruff, mypy --strict over code, tests, bench and tools, the import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

unit: $(READY) $(TOOLS) ## tests that need no engine, the manifests of deploy/ among them, in three minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not engine and not matrix and not faults'

pictures: $(READY) $(TOOLS) ## pictures of the playground for the docs, from its tests in Chromium
	STEERSMAN_PICTURES=keep $(BIN)/python -m pytest tests/playground/test_pictures.py

engine: $(READY) $(TOOLS) ## tests on real engines, those of the playground in Chromium among them, in a quarter of an hour
	STEERSMAN_WAYS=keep $(BIN)/python -m pytest -n 2 --dist loadscope -m 'engine and not matrix'

matrix: $(READY) ## every way of running and every model, in an hour or so; rewrites the table of docs/ways.md
	rm -f bench/results/ways.json
	$(BIN)/python -m pytest tests/matrix tests/engine/test_dynamic_product.py; status=$$?; $(BIN)/python -m tests.support.matrix.table && exit $$status

faults: $(READY) ## kill, fill up and spoil a real server, and see what survives, in a quarter of an hour
	$(BIN)/python -m pytest tests/faults

schema: $(READY) ## schemathesis on our routes with the key of every scope, 200 examples each
	STEERSMAN_SCHEMA_EXAMPLES=200 $(BIN)/python -m pytest tests/operate/test_surface.py --timeout 3600

clients: $(READY) $(TOOLS) ## other people's clients against a demo server, each in its own environment; writes docs/clients.md
	@requirements/clients.sh $(VENV)
	PATH=$(VENV)/tools/bin:$$PATH $(BIN)/python -m tests.clients.table --write $(ARGS)

load: $(READY) ## locust through keys, at once and twice what the server holds; writes docs/load.md's figures
	$(BIN)/python -m bench.load.run $(ARGS)
	$(BIN)/python -m bench.load.page

rolling: $(READY) ## restart two servers behind nginx in turn, under load, and lose no request
	$(BIN)/python -m bench.load.rolling $(ARGS)
	$(BIN)/python -m bench.load.page

soak: $(READY) ## MINUTES of CLIENTS doing everything at once to one server, every answer checked
	$(BIN)/python -m bench.soak.run --minutes $(MINUTES) --clients $(CLIENTS) $(ARGS)

attack: $(READY) ## 500 attacks of twenty kinds by numbers that overflow, and 2,000 victims; ARGS="--way v2"
	$(BIN)/python -m bench.serving.attack $(ARGS)

compat: $(READY) ## every vLLM from 0.31 on, also one without a CPU wheel: it passes, or is refused; ARGS=0.32.0 for one
	$(BIN)/python -m tests.compat.run $(ARGS)

docs: $(READY) ## the site in build/site, every link checked
	$(BIN)/python -m mkdocs build --strict

pages: $(READY) ## write the generated pages of docs/ anew
	$(BIN)/python -m tools.docs
	$(BIN)/python -m tests.compat.seams_page

playground: $(READY) $(TOOLS) ## build the page of /playground anew, from client/playground/
	client/playground/build.sh $(VENV) server/playground/built

format: $(READY) ## rewrite the code as ruff wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## what steering costs per output token
	$(BIN)/python -m bench.overhead $(ARGS)

image: ## build the CPU's container image, with docker, podman or buildah; ARGS="--no-cache"
	@PYTHON='$(PYTHON)' deploy/image/build.sh cpu $(ARGS)

image-test: image $(READY) $(TOOLS) ## run it as the manifests do: read-only, not root, steered, drained; writes figures.md
	@$(BIN)/python -m deploy.image.check --write deploy/image/figures.md

lock: ## write requirements/cpu.txt anew (UPGRADE=1: newest versions)
	PYTHON='$(PYTHON)' requirements/lock.sh

clean: ## remove the environment and caches (models and vectors stay under ~/.cache/steersman)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements/cpu.txt requirements/gpu.txt requirements/install.sh pyproject.toml
	@PYTHON='$(PYTHON)' requirements/install.sh $(VENV) $(KIND)

$(TOOLS): $(READY) requirements/tools.sh tests/deploy/node/package-lock.json client/playground/package-lock.json
	@requirements/tools.sh $(VENV) && touch $@
