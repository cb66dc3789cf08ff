# Two commands set everything up in a virtual environment of their own: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint install clean

demo: $(STAMP)  ## drive a generated street, segment it without and with memories; or segment INPUT with WEIGHTS, into OUT
ifdef INPUT
	$(BIN)/lmanet segment "$(INPUT)" $(if $(WEIGHTS),--weights "$(WEIGHTS)") --out "$(OUT)" --picture 0 --overwrite $(OPTIONS)
else
	$(BIN)/lmanet demo $(if $(WEIGHTS),--weights "$(WEIGHTS)") --out "$(OUT)" --overwrite $(OPTIONS)
endif

OUT ?= out

test: $(STAMP)  ## the whole test suite that needs no ROS
	$(BIN)/python -m pytest -q $(TESTS)

lint: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

install: $(STAMP)

$(STAMP): requirements.txt setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed, $(PYTHON) is older; try make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module: apt install python3-venv"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) build install log out *.egg-info
