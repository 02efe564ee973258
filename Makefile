# Two commands, on a machine with Python (3.11 or newer) and make: `make demo` and `make test`.
# Both set up the environment in .venv first; later calls find it there.

PYTHON ?= python3
BIN := .venv/bin
# The commands in dvc.yaml say `aft`; here that is the environment's.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: demo demo-images evidence test test-slow torture gpu-check lint docs lock audit clean matrix

demo: .venv/installed .dvc/tmp
	$(BIN)/aft run
	@echo "report: $(CURDIR)/report/index.html"

demo-images: .venv/installed .dvc/tmp
	test -e images/dvc.yaml || $(BIN)/aft init images --params images
	cd images && aft run
	@echo "report: $(CURDIR)/images/report/index.html"

# The studies in experiments/, in hours; SETS="digits patches" and SEEDS="0 1" for a part, TABLES=1 for tables alone. Done work stays done.
evidence: .venv/installed
	$(BIN)/python -m experiments.evidence $(if $(SETS),--sets $(SETS)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(TABLES),--tables)

# Two workers with a thread each: with as many threads as cores each, they wait for one another, at twice the processor time.
test test-slow torture matrix: export OMP_NUM_THREADS := 1

test: .venv/installed lint
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist worksteal

test-slow: .venv/installed
	$(BIN)/python -m pytest -q -m slow -n 2 --dist worksteal

# Random faults for TORTURE_MINUTES (60); the next call goes on where this one ended. The last lines are a table of what happened.
torture: .venv/installed
	$(BIN)/python -m tests.torture

# Every hostile input under every command that reads it: some ten thousand pairs. The next call tries those that are left or failed.
matrix: .venv/installed
	$(BIN)/python -m tests.torture.matrix

# Where there is a GPU: its tests and benchmarks, in 8 minutes at most; figures as JSON in gpu-check/.
gpu-check: .venv/installed
	$(BIN)/python -m benchmarks.gpu

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/python -m pipeline.reference > docs/params.md.partial
	mv docs/params.md.partial docs/params.md
	$(BIN)/python -m tests.errors > docs/errors.md.partial
	mv docs/errors.md.partial docs/errors.md

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --quiet --requirement requirements.lock
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps --editable .
	touch $@

# Outside of git (an unpacked archive) DVC has to be told so.
.dvc/tmp:
	test -e .git || $(BIN)/dvc config --local core.no_scm true
	mkdir -p $@

lock: .venv/installed
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate \
	  --extra demo --extra dev --extra export --extra object --extra ray --extra search --constraint constraints.txt --output-file requirements.lock pyproject.toml

# Known vulnerabilities of the packages in the lock end it with code 1. An index that knows of none is said: nothing was looked up then.
audit: .venv/installed
	$(PYTHON) -m venv .aft/audit
	.aft/audit/bin/pip install --disable-pip-version-check --quiet pip-audit
	rm -f .aft/audit/found.json
	-.aft/audit/bin/pip-audit --progress-spinner off --disable-pip --no-deps --requirement requirements.lock \
	  --format json --output .aft/audit/found.json
	$(BIN)/python -m tests.audit .aft/audit/found.json

clean:
	rm -rf .venv .aft digests data features probes bundles trials runs sweeps evaluations assessments logs report tracking images dvc.lock
