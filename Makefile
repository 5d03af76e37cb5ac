# Each target does its own set-up; PYTHON and VENV may be overridden.
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python

.PHONY: help quickstart photos reproduce base test hosts parity check clean

help:
	@echo "make quickstart  environment, data, base to students, report (10 to 25 min)"
	@echo "make photos      the same stages on real photographs (1 min)"
	@echo "make reproduce   three seeds, all arms, the longer table (hours)"
	@echo "make base        trains the shipped base model anew (20 min)"
	@echo "make test        environment with test extras, tests (8 to 18 min)"
	@echo "make hosts       tests of training in several processes (3 min)"
	@echo "make parity      our models against transformers', with a table"
	@echo "make check       lint, format, types"

quickstart: $(VENV)/.core
	$(PY) launch/study.py quickstart --workdir=runs/quickstart

photos: $(VENV)/.tools
	$(PY) -m data_gen.run --config=configs/data_gen/photos.py \
	  --workdir=runs/quickstart/photos

reproduce: $(VENV)/.core
	$(PY) launch/study.py reproduce --workdir=runs/reproduce

base: $(VENV)/.core
	$(PY) launch/make_base.py --workdir=runs/base --out=weights/world_base.npz

test: $(VENV)/.dev
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  -m "not hosts"

hosts: $(VENV)/.dev
	$(PY) -m pytest -m hosts tests/vpd_jax

parity: $(VENV)/.parity
	$(PY) -m pytest -n 2 --dist loadfile tests/parity

check: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)

clean:
	rm -rf runs build *.egg-info

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else f"error: vpd_jax needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is {sys.version.split()[0]}. Run: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.venv setup.py
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check -e .
	@touch $@

$(VENV)/.tools: $(VENV)/.venv setup.py
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check -e '.[tools]'
	@touch $@

$(VENV)/.dev: $(VENV)/.venv setup.py
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.parity: $(VENV)/.dev setup.py
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check -e '.[parity]'
	@touch $@
