# Thin targets; `make help` lists them. Everything works in .venv, which `make setup` makes.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p) 2>/dev/null)))
# An index that serves PyTorch's builds; empty means pip's own default.
TORCH_INDEX_URL ?=
TOOLS ?= minio buf helm kubeconform promtool prometheus grpcurl
TEST_WORKERS ?= 3
BIN := .venv/bin
# What is installed is what locks/ says, byte for byte; only PyTorch from an index of your own has no hash here.
INSTALL = $(BIN)/python -m pip install --quiet --no-deps
LOCKED := --require-hashes --requirement
RELEASE := build/release/bin
VISION := build/vision
STAMP := .venv/.installed

.PHONY: audit digests docs help lock package sbom setup tools test test-browser test-gpu test-vision test-faults fuzz soak golden bench check format proto diagrams reference charts test-helm secrets certificates images test-compose demo clean changelog

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(STAMP) ## Make .venv and install everything into it (TORCH_INDEX_URL=... for PyTorch's CPU build)

$(STAMP): pyproject.toml locks/torch.lock locks/dev.lock
	@test -n "$(PYTHON)" || { echo "No Python found. Install it: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "Install the venv module: apt-get install python3-venv"; exit 1; }
	@echo "installing locks/torch.lock and locks/dev.lock side by side: they name no package both (minutes)"
	@$(INSTALL) $(if $(TORCH_INDEX_URL),--constraint constraints.txt --index-url $(TORCH_INDEX_URL) torch,$(LOCKED) locks/torch.lock) & torch=$$!; \
		$(INSTALL) $(LOCKED) locks/dev.lock; others=$$?; wait $$torch && exit $$others
	$(INSTALL) --no-build-isolation --editable .
	@touch $(STAMP)

tools: ## Build the pinned Go programs that tests use into .tools/bin (TOOLS="minio buf" for some)
	@tools/install_go_tools.sh $(TOOLS)

test: setup ## Run all tests; the servers they need are started by them
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal tests

test-browser: setup ## Use the dashboard and the agent's page in Debian's chromium (apt-get install chromium); pictures of it in build/screenshots
	FEDAFD_TEST_SCREENSHOTS=build/screenshots $(BIN)/python -m pytest -n 0 tests/control_plane/dashboard/test_browser.py tests/agent/ui/test_browser.py

test-gpu: setup ## Test algorithm, learning, simulation and whole federations on a CUDA device, if torch finds one
	@if $(BIN)/python -c 'import torch; raise SystemExit(not torch.cuda.is_available())'; then \
		FEDAFD_TEST_DEVICE=cuda $(BIN)/python -m pytest -n 0 tests/algorithm tests/learning tests/simulation tests/end_to_end/test_federation.py; \
	else echo "torch finds no CUDA device: nothing is tested (make test runs rounds on a stand-in for one)"; fi

test-vision: $(VISION)/.installed ## Test encoders of timm, with the extra `vision` in a folder beside .venv: make test skips them
	PYTHONPATH=$(VISION) $(BIN)/python -c "import timm"
	PYTHONPATH=$(VISION) $(BIN)/python -m pytest -n 0 tests/learning tests/simulation/test_timm.py tests/tools/test_supply_chain.py -k "timm or extras_take"

# torchvision fits the build of PyTorch alone that comes from the same index.
$(VISION)/.installed: $(STAMP) locks/vision.lock
	@rm -rf $(VISION)
	$(if $(TORCH_INDEX_URL),$(INSTALL) --target $(VISION) --constraint constraints.txt --index-url $(TORCH_INDEX_URL) torchvision)
	$(INSTALL) --target $(VISION) $(LOCKED) $(if $(TORCH_INDEX_URL),<(sed '/^torchvision==/,/[^\\]$$/d' locks/vision.lock),locks/vision.lock)
	@touch $@

test-faults: setup ## One round for each fault in each state, about 20 minutes; writes docs/faults.md (FAULTS=: names that hold it)
	$(BIN)/python -m tests.end_to_end.fault_matrix $(if $(FAULTS),--only "$(FAULTS)",--write docs/faults.md)

fuzz: setup ## Send made-up calls, uploads and files to real processes, each kind for FUZZ_SECONDS=60; FUZZ=: pytest's -k, FUZZ_SEED=: one again
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) FUZZ_SEED=$(FUZZ_SEED) $(BIN)/python -m pytest -n 0 -rs --timeout=0 tests/fuzz $(if $(FUZZ),-k "$(FUZZ)")

soak: setup ## 40 rounds with random faults, about ten minutes; fails if anything grows or a bit differs (SOAK="--rounds 8 --seed 2")
	$(BIN)/python -m tests.end_to_end.soak --record docs/results/soak.json $(SOAK)

golden: setup ## Write the golden losses anew, after a change of numerics that is meant
	$(BIN)/python -m tests.simulation.golden

bench: setup ## Measure speed against references (BENCH="sed recall" for some; BENCH_ARGS="--threads 1 --clock cpu")
	$(BIN)/python -m benchmarks $(BENCH) $(BENCH_ARGS)

check: setup ## Formatting, lint, types, layers, protos, diagrams
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/generate_protos.py --check
	$(BIN)/python -m fedafd.domain.diagram --check docs/architecture.md
	$(BIN)/python tools/write_reference.py --check
	$(BIN)/python tools/write_openapi.py --check
	$(BIN)/python tools/write_chart_readme.py --check
	$(BIN)/python tools/write_code_map.py --check
	$(BIN)/python tools/lock.py --check
	$(BIN)/python tools/write_api_pages.py --check
	@if [ -x .tools/bin/buf ]; then .tools/bin/buf lint; else echo "buf is not built (make tools TOOLS=buf): protos are not linted"; fi

lock: $(RELEASE)/python ## Write locks/ anew, after a change of pyproject.toml or constraints.txt
	$(RELEASE)/python tools/lock.py

audit: $(RELEASE)/python ## Ask for known vulnerabilities of all that is locked, and say so where no database answers (AUDIT=: arguments of pip-audit)
	$(RELEASE)/python tools/audit.py $(AUDIT)

sbom: $(RELEASE)/python ## Write a bill of materials (CycloneDX) of each image and of the package, and where they come from, into build/sbom
	$(RELEASE)/python tools/write_sbom.py build/sbom

digests: setup ## Refuse images of others that a tag alone names, before a release (docs/supply-chain.md)
	$(BIN)/python tools/base_images.py --by-digest

package: setup ## Build sdist and wheel into build/dist and check them in environments of their own (EXTRAS="'' agent distiller", PYTHONS="python3.12 python3.13" for more)
	$(BIN)/python tools/check_package.py build/dist $(if $(EXTRAS),--extras $(EXTRAS)) $(if $(PYTHONS),--pythons $(PYTHONS))

changelog: $(RELEASE)/python ## Make a section of CHANGELOG.md out of the files in changes/ (VERSION=1.2.3; DRAFT=--draft only shows it)
	@test -n "$(VERSION)" || { echo "Say which version: make changelog VERSION=1.2.3"; exit 1; }
	$(RELEASE)/python -m towncrier build --yes --version $(VERSION) $(DRAFT)

# Tools of a release have an environment of their own: they are not what a process runs on.
$(RELEASE)/python: locks/release.lock
	@test -x $@ || $(PYTHON) -m venv build/release
	$@ -m pip install --quiet --no-deps --no-compile $(LOCKED) locks/release.lock
	@touch $@

format: setup ## Format the code and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: setup ## Generate the protos' code
	$(BIN)/python tools/generate_protos.py

diagrams: setup ## Write the state diagrams into docs/architecture.md
	$(BIN)/python -m fedafd.domain.diagram docs/architecture.md

reference: setup ## Write docs/errors.md, configuration.md, settings.md, state.md, openapi.json, code-map.md, docs/reference, the list of decisions and rest.md's table
	$(BIN)/python tools/write_reference.py
	$(BIN)/python tools/write_openapi.py
	$(BIN)/python tools/write_code_map.py
	$(BIN)/python tools/write_api_pages.py

charts: setup ## Write the tables of values into the charts' READMEs
	$(BIN)/python tools/write_chart_readme.py

docs: setup ## Build the documentation as a site in build/site; a link that leads nowhere fails
	$(INSTALL) $(LOCKED) locks/docs.lock
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

test-helm: setup ## Install the charts in the cluster of KUBECONFIG, run rounds, break, upgrade, remove (docs/deploy-kubernetes.md)
	@test -n "$$KUBECONFIG" || { echo "Set KUBECONFIG to a cluster in which a namespace may be made and removed"; exit 1; }
	@command -v helm >/dev/null || tools/install_go_tools.sh helm
	@if [ -n "$$FEDAFD_LOAD_IMAGES" ] && [ -z "$$FEDAFD_IMAGE_TAG" ]; then $(MAKE) images; fi
	FEDAFD_TEST_CLUSTER=1 $(BIN)/python -m pytest -n 0 -x -s tests/helm/cluster

secrets: ## Generate what docker-compose.yml needs into deploy/secrets; what is there stays
	@deploy/make-secrets.sh

certificates: ## Make an authority and certificates for deploy/compose/tls.yml
	@deploy/make-certificates.sh

images: ## Build all images, the proxy's of the overlays too (TORCH_INDEX_URL= for CUDA, PIP_INDEX_URL= and so on: docs/deploy-compose.md)
	FEDAFD_SECRETS=deploy/secrets docker compose -f docker-compose.yml -f deploy/compose/scale.yml build

test-compose: setup ## Build the images, bring the Compose stack up, run rounds, break, stop, remove (COMPOSE_TESTS=: pytest's -k)
	@docker info >/dev/null 2>&1 || { echo "No Docker engine answers; install Docker, or start it"; exit 1; }
	TORCH_INDEX_URL="$(TORCH_INDEX_URL)" FEDAFD_TEST_COMPOSE=1 $(BIN)/python -m pytest -n 0 -x -s tests/compose/stack \
		$(if $(COMPOSE_TESTS),-k "$(COMPOSE_TESTS)")

demo: setup ## Run a federation of three sites on this machine
	$(BIN)/fedafd demo

clean: ## Remove what the targets made, but not .venv and .tools
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache demo-output
