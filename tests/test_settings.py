"""One declaration of a parameter: impossible values are refused, and what names the parameters elsewhere agrees."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from llafs_lib.artifacts import SERIES
from llafs_lib.errors import LlafsError
from llafs_lib.settings import Settings
from llafs_lib.tools.tutorial import checked, notebook_parameters

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS = {f.name: f.default for f in fields(Settings)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset": "coco-min"}, "dataset: 'coco-min' is unknown: choose one of toy, .* Did you mean 'coco-mini'"),
        ({"fold": 4}, "choose one of 0, 1, 2, 3"),
        ({"fold": "0"}, "fold must be a whole number, not '0'"),
        ({"fold": True}, "whole number"),
        ({"shots": 0}, "shots must be a whole number of at least 1, not 0"),
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


def test_the_backbone_follows_the_data_set():
    assert Settings().backbone == "small"
    assert Settings(dataset="coco-mini").backbone == "mobilenet_v2"
    assert Settings(llm_budget=1).llm_budget == 1, "a whole number of dollars is a number"


@pytest.mark.parametrize("name", SERIES)
def test_notebooks_declare_the_same_defaults(name):
    declared = notebook_parameters(ROOT / "notebooks" / f"{name}.ipynb")
    assert declared and declared == {name: DEFAULTS.get(name) for name in declared}


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
