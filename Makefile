# Two commands: `make tutorial` and `make test`. They need Python >= 3.11 and make; all else goes into .venv.
#
#   make tutorial                                        notebooks 01 to 06 on drawn scenes, minutes on two cores
#   make tutorial DATASET=coco-mini FOLD=2 SHOTS=1       the same on photographs; LLAFS_DATA says where they lie
#   make tutorial DATASET=my/objects.json                the same on your own images and classes, from a COCO file
#   make test                                            the fast tests, of every module: minutes on two cores
#   make test-all                                        all tests: notebooks, servers, Ray and a browser as well
#   make lab                                             JupyterLab on the notebooks
#   make gallery                                         the notebooks as web pages that need no network, in site/
#
# PyPI's PyTorch for Linux brings CUDA along. Without it, before the first of these commands:
#   python3 -m venv .venv && .venv/bin/pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu

PYTHON := python3
TESTS :=
override VENV := .venv
BIN := $(VENV)/bin

# What may be written behind `make tutorial`: the fields of llafs_lib.settings.Settings (`llafs tutorial --help` says
# what they mean), and ONLY.
PARAMETERS := DATASET IMAGES VAL MIN_AREA FOLD SHOTS SEED BACKBONE RUNS BUDGET NOVEL_IN_TRAIN HOLD_OUT COMPARE_LOSSES \
  SEGMENTERS QUERIES LLM LLM_MODE LLM_BUDGET ONLY

# A value counts only where it stands behind `make`: a FOLD that was exported for another purpose decides nothing. It is
# taken letter by letter, and reaches the commands as a variable of theirs, so that neither make nor the shell runs it.
given := $(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$v))
unknown := $(filter-out $(PARAMETERS) PYTHON TESTS,$(given))
$(if $(unknown),$(error unknown parameter $(unknown); there are $(PARAMETERS)))
$(foreach v,$(given),$(eval override $v := $$(value $v)))
export PYTHON TESTS $(given)
flags = $(foreach p,$(filter $(given),$(PARAMETERS)),$(if $($p),--$(shell echo $p | tr A-Z_ a-z-)="$$$p"))

.PHONY: tutorial test test-slow test-all lab gallery notebooks lint clean

tutorial: $(VENV)/.installed-notebooks
	@$(BIN)/llafs tutorial $(flags)

# Two at a time, each on one core: two that share their threads slow each other down. tests/groups.py orders them.
two_at_a_time = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

test: $(VENV)/.installed-dev
	$(two_at_a_time) -m "not slow" $$TESTS

test-slow: $(VENV)/.installed-dev
	$(two_at_a_time) -m slow $$TESTS

test-all: test test-slow

# The project is the root, so that the images in docs/ are served. Jupyter refuses root, who is at home in containers.
lab: $(VENV)/.installed-lab
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)

gallery: $(VENV)/.installed-dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html"

# Execute the committed notebooks in place, so that their outputs are current.
notebooks: $(VENV)/.installed-notebooks
	$(BIN)/llafs refresh

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# One file says what is installed: an extra of pyproject.toml. Installed again only when the list has changed; `dev`
# holds `notebooks` and `lab`, which are then installed as well.
$(VENV)/.installed-%: pyproject.toml
	@$$PYTHON -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 …")'
	@[ -x $(BIN)/python ] || $$PYTHON -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	@touch $@ $(if $(filter dev,$*),$(VENV)/.installed-notebooks $(VENV)/.installed-lab)

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .ruff_cache .hypothesis
