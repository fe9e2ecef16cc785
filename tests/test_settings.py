"""One declaration of a parameter: impossible values are refused, and what names the parameters elsewhere agrees."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from llafs_lib.artifacts import SERIES
from llafs_lib.errors import LlafsError
from llafs_lib.settings import Settings, data_name
from llafs_lib.tools.tutorial import checked, notebook_parameters
from llafs_lib.vision import recipes
from llafs_lib.vision.recipes import recipe_for

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS = {f.name: f.default for f in fields(Settings)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset": "coco-min"}, "dataset: 'coco-min' is unknown: choose one of toy, .* Did you mean 'coco-mini'"),
        ({"fold": 4}, "choose one of 0, 1, 2, 3"),
        ({"fold": "0"}, "fold must be a whole number, not '0'"),
        ({"fold": True}, "whole number"),
        ({"shots": 0}, "shots must be a whole number of at least 1 and at most 1,000, not 0"),
        ({"seed": -1}, "at least 0"),
        ({"queries": 1.5}, "whole number"),
        ({"dataset": "coco-mini", "backbone": "small"}, "ImageNet weights"),
        ({"novel_in_train": "hide"}, "background, ignore, drop"),
        ({"hold_out": "no"}, "hold_out must be True or False"),
        ({"segmenters": "hsnet,repry"}, "Did you mean 'repri'"),
        ({"llm": "m", "llm_mode": "reply"}, "Did you mean 'replay'"),
        ({"llm_mode": "refresh"}, "name one as llm"),
        ({"llm_budget": float("nan")}, "llm_budget must be a number of at least 0"),
        ({"llm_budget": True}, "a number"),
        ({"runs": None}, "runs must be a text"),
    ],
)
def test_impossible_values(wrong, message):
    with pytest.raises(LlafsError, match=message):
        Settings(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset": ""}, "dataset: '' is unknown"),
        ({"dataset": "~nobody-of-that-name/a.json"}, "is no path of a file .*: correct it"),
        ({"dataset": "a\0b.json"}, "is no path of a file"),
        ({"dataset": 300 * "x"}, "is unknown"),
        ({"dataset": "a.json", "val": "~nobody-of-that-name/b.json"}, "is no path of a file"),
        ({"dataset": "objects"}, "'objects' is unknown.* A file of your own ends in .json"),
        ({"dataset": "a.json", "min_area": 1}, "share of the image, below 1"),
        ({"dataset": "a.json", "min_area": -0.1}, "min_area must be a number of at least 0"),
        ({"dataset": "a.json", "backbone": "small"}, "photographs need one with ImageNet weights"),
        ({"dataset": "coco-mini", "val": "val.json"}, "val is for a COCO file of your own: coco-mini brings"),
        ({"images": "photos"}, "images is for a COCO file of your own"),
        ({"min_area": 0.01}, "min_area is for a COCO file of your own: toy brings .* its rule"),
    ],
)
def test_impossible_data_of_ones_own(wrong, message, in_tmp):
    with pytest.raises(LlafsError, match=message):
        Settings(**wrong)


def test_a_data_set_of_ones_own_has_one_name_however_its_path_is_spelled(in_tmp):
    (in_tmp / "my data").mkdir()
    (in_tmp / "link").symlink_to("my data")
    plain = "my data/a b$.json"
    spelled = (plain, f"./my data/../{plain}", str(in_tmp / plain), "link/a b$.json")
    found = {(s.dataset, s.run.path, s.model["dataset"]) for s in (Settings(dataset=path) for path in spelled)}
    assert len(found) == 1 and len({data_name(path) for path in spelled}) == 1
    assert re.fullmatch(r"a-b-[0-9a-f]{4}", Settings(dataset=spelled[0]).run.dataset)
    assert data_name("other/a b$.json") != data_name(spelled[0]), "two files of one name are two data sets"
    assert data_name("toy") == Settings().run.dataset == "toy"


@pytest.mark.parametrize("stem", ["", "..", "<b>", "con/../" + 90 * "x", "茶碗", "a\nb", ".hidden"])
def test_a_run_folder_has_a_name_that_any_disk_takes(stem, in_tmp):
    name = data_name(f"{stem}.json")
    assert len(name) <= 45 and name[0] not in ".-" and not set(name) & set('<>/\\:*?"|\n ')


def test_photographs_of_ones_own_are_trained_as_those_of_coco_mini(in_tmp):
    for presets in (recipes.HSNET, recipes.BASE, recipes.ABLATION):
        for budget in ("tiny", "small"):
            assert recipe_for(budget, "objects-3f2a", presets) == recipe_for(budget, "coco-mini", presets)
    assert checked(Settings(dataset="a.json")).backbone == checked(Settings(dataset="coco-mini")).backbone
    with pytest.raises(LlafsError, match="no recipe for budget='full'"):
        checked(Settings(dataset="a.json", budget="full"))


def test_the_backbone_follows_the_data_set():
    assert Settings().backbone == "small"
    assert Settings(dataset="coco-mini").backbone == "efficientnet_lite2"
    assert Settings(llm_budget=1).llm_budget == 1, "a whole number of dollars is a number"


OF_ONE_NOTEBOOK = {
    "06_your_own_images": dict.fromkeys(("annotations", "images", "photos", "word", "looks_like"), ""),
}


@pytest.mark.parametrize("name", SERIES)
def test_notebooks_declare_the_same_defaults(name):
    declared = notebook_parameters(ROOT / "notebooks" / f"{name}.ipynb")
    assert declared and declared == {p: OF_ONE_NOTEBOOK.get(name, {}).get(p, DEFAULTS.get(p)) for p in declared}


def test_the_makefile_passes_every_parameter():
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (listed,) = re.findall(r"^PARAMETERS := (.*)$", text, re.MULTILINE)
    assert listed.split() == [*(name.upper() for name in DEFAULTS), "ONLY"]


def test_readmes_table_has_every_parameter_with_its_default():
    _, _, below = (ROOT / "README.md").read_text(encoding="utf-8").partition("All parameters</summary>")
    rows = re.findall(r"^\| `([A-Z_]+)` \|.*\| (.*) \|$", below.partition("</details>")[0], re.MULTILINE)
    assert {name.lower(): default.strip("`") for name, default in rows} == {n: shown(d) for n, d in DEFAULTS.items()}


def shown(default):
    if isinstance(default, bool):
        return "yes" if default else "no"
    return "empty" if default == "" else f"{default:g}" if isinstance(default, float) else str(default)


def test_what_only_the_rooms_know_is_checked_before_anything_runs():
    for wrong, message in (
        ({"backbone": "resnet5"}, "Did you mean 'resnet50'"),
        ({"budget": "full"}, "no recipe for budget='full' on dataset='toy'"),
        ({"budget": "tny"}, "Did you mean 'tiny'"),
    ):
        with pytest.raises(LlafsError, match=message):
            checked(Settings(**wrong))
