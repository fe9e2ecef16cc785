"""Models of one run, asked about other images: what fits is taken, what does not is refused."""

import json
from dataclasses import replace

import pytest

from llafs_lib.artifacts import NOTEBOOKS, number_of
from llafs_lib.data.folds import save_fold
from llafs_lib.errors import LlafsError
from llafs_lib.records import Fold
from llafs_lib.settings import Settings
from llafs_lib.tools import sweep, tutorial
from llafs_lib.tools.cli import main
from llafs_lib.tools.trained import TRAINING, take_models

MODELS = [name for book in TRAINING for name in NOTEBOOKS[book][1]]
HERE = Settings(dataset="coco-mini", runs="others")
THERE = replace(HERE, runs="runs")
FOLD = Fold(
    "coco-mini", 0, ("a", "b", "c"), ("n",), {"a": (1, 2), "b": (3,), "c": (4,), "n": (5,)},
    {"a": (11,), "b": (12,), "c": (13,), "n": (14, 15)}, ("c",), "background", "these photographs",
)  # fmt: skip
OTHER = replace(FOLD, test_images={**FOLD.test_images, "n": (24, 25)}, fingerprint="other photographs")


def make(settings, fold, models=MODELS):
    """A run whose models are only named so."""
    save_fold(settings.run, fold)
    for name in models:
        with settings.run.writing(name, settings.model | {"data": fold.digest}) as path:
            path.write_text(f"{name} of {fold.fingerprint}")
    return settings.run


@pytest.fixture
def runs(in_tmp):
    """A run without models that asks about other photographs, and one with models."""
    return make(HERE, OTHER, ()), make(THERE, FOLD)


def test_models_are_taken_and_remember_what_they_were_trained_on(runs):
    here, there = runs
    take_models(MODELS, HERE, there)
    for name in MODELS:
        assert here.require(name, **HERE.model, data=OTHER.digest).read_bytes() == there.require(name).read_bytes()
        assert here.parameters(name)["trained on"] == FOLD.digest
    third = make(replace(HERE, runs="third"), FOLD, ())
    take_models(MODELS, replace(HERE, runs="third"), here)
    assert third.parameters(MODELS[0])["trained on"] == FOLD.digest, "not what they were asked about in between"


@pytest.mark.parametrize(
    ("fold", "said"),
    [
        (replace(OTHER, novel=("c",), base=("a", "b", "n")), "other base classes"),
        (replace(OTHER, novel=("m",), test_images={"m": (9,)}), "other novel classes"),
        (replace(OTHER, validation=("b",)), "other validation classes"),
        (replace(OTHER, test_images={"n": (24, 1)}), "trained on 1 of the images .* such as 1:"),
    ],
)
def test_models_that_do_not_fit_are_refused(in_tmp, fold, said):
    here, there = make(HERE, fold, ()), make(THERE, FOLD)
    with pytest.raises(LlafsError, match=said):
        take_models(MODELS, HERE, there)
    assert not any((here.path / name).exists() for name in MODELS)


def test_an_image_of_a_held_out_class_was_not_trained_on(in_tmp):
    make(HERE, replace(OTHER, test_images={"n": (4,)}), ())
    take_models(MODELS, HERE, make(THERE, FOLD))


def test_a_model_of_other_settings_a_damaged_one_and_the_run_itself_are_refused(runs):
    _, there = runs
    make(replace(HERE, seed=1), OTHER, ())
    with pytest.raises(LlafsError, match="seed=0, not seed=1"):
        take_models(MODELS, replace(HERE, seed=1), there)
    with pytest.raises(LlafsError, match="is the run itself"):
        take_models(MODELS, THERE, there)
    (there.path / MODELS[0]).write_text("damaged")
    with pytest.raises(LlafsError, match="does not match its manifest"):
        take_models(MODELS, HERE, there)


def test_the_series_runs_without_training(in_tmp, monkeypatch, capsys):
    (in_tmp / "notebooks").mkdir()
    tagged = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "dataset = 'coco-mini'"}
    for name in NOTEBOOKS:
        (in_tmp / "notebooks" / f"{name}.ipynb").write_text(json.dumps({"cells": [tagged]}))
    ran, fold = [], FOLD

    def execute(source, output, parameters, log=None):
        ran.append(number_of(source.stem))
        output.write_text("executed")
        if source.stem == "01_data_folds":
            return save_fold(settings.run, fold)
        for artifact in NOTEBOOKS[source.stem][1]:
            with settings.run.writing(artifact, settings.model | {"data": fold.digest}) as path:
                path.write_text("{}")

    monkeypatch.setattr(tutorial, "execute", execute)
    settings = THERE
    tutorial.run_tutorial(settings)
    assert ran == ["01", "02", "02b", "03", "04", "05", "06"]
    settings, fold = HERE, OTHER
    for expected in (["01", "03", "04", "05", "06"], []):
        ran.clear()
        tutorial.run_tutorial(settings, trained=THERE.runs)
        assert ran == expected
    ran.clear()
    tutorial.run_tutorial(settings)
    assert ran == [], "what was taken is as good as what was trained"
    assert "02_backbone_training: not run, its models are those of runs/coco-mini/fold0" in capsys.readouterr().out


def test_the_command_names_the_folder_from_where_it_is_given(in_tmp, monkeypatch):
    given = []
    monkeypatch.setattr(tutorial, "run_tutorial", lambda *a, trained: given.append(trained))
    assert main(["tutorial", "--trained", "mine"]) == 0 and main(["tutorial"]) == 0
    assert given == [str(in_tmp / "mine"), ""]
    monkeypatch.setattr(sweep, "dry_run", lambda found: given.append(found.trained))
    assert main(["sweep", "--trained", "mine", "--dry-run"]) == 0 and given[-1] == str(in_tmp / "mine")
