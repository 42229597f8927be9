# Every action of a developer, and all that CI runs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
STAMP := $(VENV)/.requirements-dev

# One thread per process: ranks share the cores, and losses stay equal to the last bit from run to run.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Where a container or a CI sets it, every process of a test would compile the training stack anew: 26 s of processor instead of 11 for all of it.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-19s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Make .venv with everything for development

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(STAMP): requirements/dev.txt pyproject.toml | $(UV)
	$(UV) pip sync --quiet --python $(BIN)/python requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

.PHONY: demo
demo: setup ## Fine-tune a tiny model on this machine: plan, two sharded processes, a kill, a resume, a result
	$(BIN)/python examples/demo/demo.py

.PHONY: trials
trials: setup ## Try SFT, DPO, a reward model and GRPO on GSM8K (DATA=FOLDER, else ../shared/data/gsm8k); a table, curves, JSON
	$(BIN)/python trials/trials.py $(if $(DATA),--data $(DATA))

# In two halves at once: tests on a node wait for kubelets and restarts most of their time. The half on a node shows its output when it ends.
.PHONY: test
test: setup ## Run the tests; with root and Go also on a real cluster
	@if [ "$$(id -u)" = 0 ] && command -v go >/dev/null; then \
		$(CLUSTER) programs; $(CLUSTER) sweep build/test-cluster; trap '$(CLUSTER) sweep build/test-cluster' EXIT; \
		echo "On a real node, beside these: build/test-node.log, shown when it is complete."; \
		$(MAKE) --no-print-directory --jobs=2 --keep-going test-node-to-log test-without-node; \
	else \
		without=; [ "$$(id -u)" = 0 ] || [ -e /usr/include/libaio.h ] || without=tests/trainer/test_swapping.py; \
		$(BIN)/pytest $${without:+--ignore=$$without}; echo "NOT RUN: the cluster tests need root and Go (make test-cluster)"; \
		[ -z "$$without" ] || echo "NOT RUN: $$without needs libaio-dev"; \
	fi

.PHONY: test-node test-node-to-log test-without-node
test-node-to-log: setup
	@mkdir -p build; status=0; $(MAKE) --no-print-directory test-node >build/test-node.log 2>&1 || status=$$?; cat build/test-node.log; exit $$status
test-node: setup
	$(CLUSTER) prepare
	$(BIN)/pytest -m node tests/cluster
test-without-node: setup
	$(BIN)/pytest -m "not node and not matrix"

.PHONY: check
check: setup ## Format, lint, types, import contract, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m finetune_operator.api.crd --check crds --check charts/finetune-operator/files/crds
	$(BIN)/python -m finetune_operator.api.reference --check docs/reference

.PHONY: known-architectures
known-architectures: setup ## Count the parameters of the known models again, with the installed transformers
	$(BIN)/python -m tests.memory.transformers_counts

.PHONY: format
format: setup ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: crds
crds: setup ## Generate crds/ and the pages of docs/reference that come from code
	$(BIN)/python -m finetune_operator.api.crd --write crds --write charts/finetune-operator/files/crds
	$(BIN)/python -m finetune_operator.api.reference --write docs/reference
	$(BIN)/python -m finetune_operator.jobs.reference docs/reference

.PHONY: golden
golden: setup ## Write the reviewed plans, the rendered children and the README's plan anew; read the difference before you commit it
	$(BIN)/python tests/planner/test_golden.py
	REGENERATE_GOLDEN=1 $(BIN)/pytest -q tests/jobs/test_children.py tests/cli/test_plan_command.py
	git diff --stat

.PHONY: requirements
requirements: setup ## Compile the pinned requirement files again
	for name in operator inspect trainer dev; do \
		$(UV) pip compile --quiet --upgrade --python-version 3.11 --extra $$name --no-emit-index-url --no-emit-find-links \
			--no-header --no-annotate pyproject.toml -o requirements/$$name.txt; \
	done

.PHONY: bench
bench: setup ## Measure; each program prints JSON (apply_to_pods.py needs Go). CSV=FILE also reads published runs
	for program in $(filter-out %_accuracy.py %_shares.py,$(wildcard bench/*.py)); do $(BIN)/python $$program || exit; done
	$(if $(CSV),for program in bench/*_accuracy.py bench/*_shares.py; do $(BIN)/python $$program $(CSV) || exit; done)

# Real Kubernetes on this machine. Root and Go; Debian packages are installed when absent, programs compiled once (about 15 min).
CLUSTER := $(BIN)/python tests/cluster/cluster.py

.PHONY: images
images: setup ## Build the three images with buildah (root), and load them into the node that cluster-up started
	$(CLUSTER) images

.PHONY: cluster-up
cluster-up: setup ## Start a real Kubernetes node, an S3 server and a Prometheus here (root and Go)
	$(CLUSTER) up build/cluster --node --services

.PHONY: cluster-down
cluster-down: setup ## Stop what cluster-up started; the logs stay in build/cluster
	$(CLUSTER) down build/cluster

.PHONY: matrix
matrix: setup ## Train every allowed combination of objective, method and strategy on tiny models (half an hour)
	$(BIN)/pytest -m matrix tests/trainer/test_matrix.py

.PHONY: test-cluster
test-cluster: setup ## Run the tests on a real cluster (root and Go), and leave nothing running
	$(CLUSTER) prepare
	trap '$(CLUSTER) sweep build/test-cluster' EXIT; $(BIN)/pytest -m cluster tests/cluster tests/chart
