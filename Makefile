# The same few commands for people and for CI.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LCLSC := $(BIN)/lclsc
# Processes that share the tests.
WORKERS ?= 2
# What a script of tests/ needs, run there.
AS_TESTS := PYTHONPATH=.:../benchmarks PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: install demo check test bench bench-deps mutation hostile fuzz faults histories watch-demo cluster team supply-chain clean-demo races \
	audit-campaign reproductions
.DEFAULT_GOAL := help

help:
	@echo "make demo     install, and run the whole line on phantom videos in demo/"
	@echo "make test     install, and run the tests"
	@echo "make check    install, and check formatting, style, types and import contracts"
	@echo "make watch-demo  install, and let a fresh workspace serve itself two batches"
	@echo "make supply-chain  install, list all packages (dist/lclsc.cdx.json), and ask what is known against them"
	@echo "make faults   install, and kill, cut off and disturb the line at seeded points; MINUTES=20, goes on where it stopped"
	@echo "make cluster  install, and retrain on three Ray nodes of which one is killed"
	@echo "make team     install, and do that with a team's servers: PostgreSQL, Prefect, MLflow, a bucket"
	@echo "make hostile  install, and take hundreds of hostile and broken files in"
	@echo "make fuzz     install, and feed 100 000 drawn inputs to each reader of our own"
	@echo "make races    install, kill promotions at every step, and let 200 of them race"
	@echo "make bench    install, and run the benchmarks (make bench-deps first, to measure beside the peers)"

install: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps -r requirements.lock  # it names all
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # on all cores, pip takes one; some files are templates
	touch $@

# The published key makes the demo's pseudonyms the same everywhere; intake takes only phantoms under it.
demo: export LCLSC_KEY_FILE := $(CURDIR)/pipelines/synth/published.key
demo: install
	test -f demo/workspace.json || $(LCLSC) init demo --preset cpu
	$(LCLSC) synth demo-phantoms --preset demo
	$(LCLSC) intake demo-phantoms --workspace demo
	$(LCLSC) retrain --workspace demo --reason "make demo"

clean-demo:
	rm -rf demo demo-phantoms

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pip check

test: install .media/.fetched
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# Real recordings that no installable package brings. Without network their tests skip; in CI they must be there.
.media/.fetched: tests/media.txt | install
	mkdir -p .media
	-$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --no-build-isolation \
		--require-hashes --dest .media -r tests/media.txt && touch $@

# All of what the tests take a seeded sample of: hostile files through intake, and 100 000 inputs a reader.
hostile: install
	cd tests && ../$(BIN)/python -m hostile.run

fuzz: install
	cd tests && ../$(BIN)/python -m hostile.fuzz

# Promotions killed at every step, and 200 races of promotions; half an hour, goes on where it stopped.
races: install
	cd tests && ../$(BIN)/python -m faults.promotion_kills
	cd tests && ../$(BIN)/python -m faults.promotion_races

# 270 points of the steps and 30 of whole flows, each beside a run that nothing happened to; POINT=17 replays one.
MINUTES ?= 20

faults: install
	cd tests && $(AS_TESTS) ../$(BIN)/python -m faults.run --minutes $(MINUTES) \
		$(if $(POINT),--point $(POINT))

# A fresh workspace serves itself: two batches, two versions, an idle minute; about ten minutes.
watch-demo: install
	cd tests && $(AS_TESTS) ../$(BIN)/python -m e2e.watch

# Three Ray nodes without a common disk, one killed half way; then with all the servers of a team. Ten minutes each.
cluster: install
	cd tests && $(AS_TESTS) ../$(BIN)/python -m e2e.cluster

team: install
	cd tests && $(AS_TESTS) ../$(BIN)/python -m e2e.team

# A thousand random histories of a workspace's videos; the tests run a sample.
histories: install
	LCLSC_HISTORIES=1000 $(BIN)/pytest --timeout 7200 tests/pipelines/test_extract_histories.py

# Each peer lives in .peers/<environment>; one that does not install is reported as not measured, with pip's last line.
PEERS := $(patsubst benchmarks/peers/%.txt,.peers/%/.installed,$(wildcard benchmarks/peers/*.txt))

bench-deps: $(PEERS) install
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation -c requirements.lock -e '.[bench]'

.peers/%/.installed: benchmarks/peers/%.txt
	test -x .peers/$*/bin/python || $(PYTHON) -m venv .peers/$*
	if .peers/$*/bin/pip install --quiet --disable-pip-version-check -r $< 2> .peers/$*.log; then touch $@; \
	else rm -f $@; tail -1 .peers/$*.log; fi

# Those that take long have targets of their own.
bench: install
	for script in $(filter-out %/harness.py %/mutation.py %/audit.py %/reproduce.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done

# What is installed, as a CycloneDX bill of materials, and what is known against it. Asks advisory services, so its
# answer depends on the day: never part of check. The tools have an environment of their own.
SUPPLY_CHAIN := .supply-chain

supply-chain: install $(SUPPLY_CHAIN)/.installed
	mkdir -p dist
	$(SUPPLY_CHAIN)/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible \
		--of JSON -o dist/lclsc.cdx.json
	$(SUPPLY_CHAIN)/bin/pip-audit -r requirements.lock --no-deps --disable-pip --strict

$(SUPPLY_CHAIN)/.installed: pyproject.toml
	test -x $(SUPPLY_CHAIN)/bin/python || $(PYTHON) -m venv $(SUPPLY_CHAIN)
	$(SUPPLY_CHAIN)/bin/pip install --quiet --disable-pip-version-check $$($(PYTHON) -c \
		"import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['supply-chain'])")
	touch $@

# Single changes of a workspace that an audit must find and name, and audits of sound ones; goes on where it stopped.
# An hour of one core; the tests run one change of every kind.
audit-campaign: install
	$(BIN)/python benchmarks/audit.py

# A model built again and again, also after kills and from before a change of code; about forty minutes of two cores.
reproductions: install
	$(BIN)/python benchmarks/reproduce.py

# A seeded sample of changes of lclsc/, each of which must fail a test; goes on where it stopped.
mutation: install
	$(BIN)/python benchmarks/mutation.py
