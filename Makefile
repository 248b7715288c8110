# Everything starts here, on a machine with nothing but Python 3.11 and make:
#
#     make demo       see it at work for ten seconds; needs no server
#     make test       run all the tests
#
# Both make .venv and install what they need into it.  For another Python:
# make test PYTHON=python3.13 (after "make clean" if .venv is there already).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# More for pytest: make test PYTEST="-k consumer"
PYTEST ?=
# How many processes run tests; each has RabbitMQ nodes of its own, unless
# TXAMQP091_BROKERS names servers that run.  0: one process, which a debugger needs.
JOBS ?= $(if $(findstring ://,$(TXAMQP091_BROKERS)),0,2)
# A file stays in one process.  The files of faults come first: they are the slowest.
RUN_TESTS := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder \
	--durations=25
# More for the benchmarks: see python -m benchmarks --help
BENCH ?=
# The tests in which brokers, networks and streams fail.
FAULTS := txamqp091/test/faults

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test unit coverage chaos reactors nightly lint format types docs package audit release-check bench clean

help:
	@echo "make demo      see it at work for ten seconds; needs no server"
	@echo "make test      run all the tests, against RabbitMQ too"
	@echo "make unit      run the tests that need no broker"
	@echo "make coverage  run all the tests, and show what they do not reach"
	@echo "make chaos     run the tests that take brokers down, and faults at random"
	@echo "make nightly   run the tests of reliability in their large sizes: hours"
	@echo "make reactors  the tests against RabbitMQ, under Twisted's other reactors"
	@echo "make lint      ruff, and the news fragments"
	@echo "make format    let ruff format the code"
	@echo "make types     mypy, strict; and the examples, by pyright as well"
	@echo "make docs      the documentation, into docs/_build"
	@echo "make package   build, check and install the sdist and the wheel"
	@echo "make audit     look for known vulnerabilities in what is installed with it"
	@echo "make release-check  everything that a release needs, but for the tests"
	@echo "make bench     measure what this client costs, and the others"
	@echo "make clean     remove what the commands above made"

# On a RabbitMQ: make demo URI=amqp://user:password@host
# For longer: make demo DEMO_SECONDS=60
demo: $(VENV)/.with-tls
	@$(BIN)/python docs/examples/demo.py

test: $(VENV)/.with-test
	@.ci/get-brokers
	$(RUN_TESTS) $(PYTEST)

unit: $(VENV)/.with-test
	TXAMQP091_BROKERS=/nonexistent $(RUN_TESTS) txamqp091/test/unit $(PYTEST)

# Branches as well as lines, in the processes that tests start, too.
coverage: $(VENV)/.with-test
	@.ci/get-brokers
	$(BIN)/python -m coverage erase
	TXAMQP091_CHAOS=1 $(BIN)/python -m coverage run -m pytest $(PYTEST)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under=95
	$(BIN)/python -m coverage report --fail-under=100 \
		--include='txamqp091/wire/*,txamqp091/_machine/*'

chaos: $(VENV)/.with-test
	@.ci/get-brokers
	TXAMQP091_CHAOS=1 $(RUN_TESTS) $(FAULTS) $(PYTEST)

# What the numbers were goes to the end of nightly.txt.
nightly: $(VENV)/.with-test
	@.ci/get-brokers
	TXAMQP091_NIGHTLY=1 TXAMQP091_REPORT=$(CURDIR)/nightly.txt \
		$(BIN)/python -m pytest $(FAULTS) txamqp091/test/rabbitmq \
		txamqp091/test/promises $(PYTEST)
	cat nightly.txt

reactors: $(VENV)/.with-test
	@.ci/get-brokers
	.ci/reactors $(BIN)/python

lint: $(VENV)/.with-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/towncrier build --draft --version next >/dev/null

format: $(VENV)/.with-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(VENV)/.with-dev $(VENV)/.with-test
	$(BIN)/mypy -p txamqp091
	.ci/types $(CURDIR)/$(BIN)/python

docs: $(VENV)/.with-docs
	$(BIN)/sphinx-build -q -W --keep-going -n docs docs/_build
	@echo "the first page is docs/_build/index.html"

package: $(VENV)/.with-dev
	.ci/package $(BIN)/python

# Everything that a release needs, but for the tests; it publishes nothing.
release-check: $(VENV)/.with-dev $(VENV)/.with-docs
	.ci/release-check $(BIN)/python

audit: $(VENV)/.with-audit
	.ci/audit $(BIN)/python

# All of it takes a quarter of an hour; a first look: make bench BENCH="--quick"
bench: $(VENV)/.with-bench
	@.ci/get-brokers --any
	$(BIN)/python -m benchmarks $(BENCH)

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis _trial_temp* .coverage* txamqp091.test.*/
	find txamqp091 twisted docs -name __pycache__ -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache nightly.txt

# The stamps: a virtual environment, and one for each extra installed in it.

$(VENV)/.made:
	@.ci/make-venv "$(PYTHON)" $(VENV)
	@touch $@

$(VENV)/.with-%: $(VENV)/.made setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@
