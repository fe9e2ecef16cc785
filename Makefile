# Two commands: `make tutorial` and `make test`. They need Python >= 3.11 and make; all else goes into .venv.
#
#   make tutorial                                        the five notebooks on drawn scenes, minutes on two cores
#   make tutorial DATASET=coco-mini FOLD=2 SHOTS=1       the same on photographs; LLAFS_DATA says where they lie
#   make test                                            the whole test suite
#   make lab                                             JupyterLab on the notebooks
#   make gallery                                         the notebooks as web pages that need no network, in site/

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# What may be written behind `make tutorial`, each a notebook parameter (see `llafs tutorial --help`).
PARAMETERS := DATASET FOLD SHOTS SEED BACKBONE BUDGET SEGMENTERS QUERIES NOVEL_IN_TRAIN HOLD_OUT COMPARE_LOSSES LLM LLM_MODE LLM_BUDGET RUNS ONLY
flags = $(foreach p,$(PARAMETERS),$(if $($p),--$(shell echo $p | tr A-Z_ a-z-) "$($p)"))
given = $(foreach word,$(MAKEOVERRIDES),$(firstword $(subst =, ,$(word))))
unknown = $(filter-out $(PARAMETERS) PYTHON VENV,$(foreach n,$(given),$(if $(filter command,$(origin $n)),$n)))

.PHONY: tutorial test lab gallery notebooks lint clean

tutorial: $(VENV)/.installed
	$(if $(unknown),$(error unknown parameter $(unknown); there are $(PARAMETERS)))
	@$(BIN)/llafs tutorial $(flags)

# Two at a time, each on one core: two that share their threads slow each other down.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup $(TESTS)

lab: $(VENV)/.installed
	$(BIN)/jupyter lab notebooks

gallery: $(VENV)/.installed
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html"

# Execute the committed notebooks in place, so that their outputs are current.
notebooks: $(VENV)/.installed
	$(BIN)/llafs refresh

lint: $(VENV)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# Installed again only when the list of dependencies has changed.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[notebooks,dev]"
	@touch $@

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .ruff_cache .hypothesis
