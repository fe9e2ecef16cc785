"""The worked segmenter and the worked model of CONTRIBUTING.md do what the page says."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.arms import Arm
from llafs_lib.evaluation.runner import Panel, Question, arms_of, counts_of, evaluate
from llafs_lib.evaluation.summary import summarise
from llafs_lib.evaluation.tables import arms_in
from llafs_lib.records import Episode, Prediction, Support
from llafs_lib.vision.backbone import Backbone, to_mask, toy_backbone
from llafs_lib.vision.features import squashed_taps, unit_features
from llafs_lib.vision.segmenter import check_supports

PAGE = Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"
# What a file of llafs_lib/vision would import for it.
NAMES = {"F": F, "np": np, "torch": torch} | {
    thing.__name__: thing
    for thing in (Backbone, Prediction, Sequence, Support, check_supports, squashed_taps, to_mask, unit_features)
}


@pytest.fixture(scope="module")
def segmenter():
    (diff,) = re.findall(r"```diff\n(\+# llafs_lib/vision/nearest\.py\n.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    code = "\n".join(line[1:] for line in diff.splitlines() if line.startswith("+"))
    namespace = dict(NAMES)
    exec(code, namespace)
    return namespace["NearestSegmenter"](toy_backbone(), 161)


def test_it_finds_the_support_in_itself(segmenter):
    image = np.full((120, 160, 3), 40, np.uint8)
    mask = np.zeros((120, 160), bool)
    mask[40:90, 50:120] = True
    image[mask] = np.random.default_rng(0).integers(150, 255, (mask.sum(), 3))
    shown = [Support(1, "zebra", 1.0, image, mask)]
    found, again = segmenter.segment(image, shown, "zebra"), segmenter.segment_each(image, [shown], "zebra")[0]
    assert found.mask.shape == mask.shape and np.array_equal(found.mask, again.mask)
    assert (found.mask & mask).sum() / (found.mask | mask).sum() > 0.7


def test_it_refuses_what_a_segmenter_must_refuse(segmenter):
    with pytest.raises(LlafsError, match="support"):
        segmenter.segment(np.zeros((50, 50, 3), np.uint8), [], "zebra")


def test_a_model_comes_into_the_tables():
    section = PAGE.read_text("utf-8").split("## Adding an arm or a model to the tables")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)

    def read_query(episode):
        return np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), bool), np.zeros((8, 8), bool)

    names = {"episodes": [Episode("zebra", 1, (2, 3))], "read_query": read_query, "np": np}
    names |= {thing.__name__: thing for thing in (Arm, Panel, Question, arms_of, counts_of, evaluate, summarise)}
    exec(code, names)
    assert {arm.name: found["miou"] for arm, found in arms_in(names["results"]).items()} == {
        "Nothing: true 1": 0, "Nothing: true 5": 0
    }  # fmt: skip
    assert names["results"]["paired"]["Nothing: true 5-Nothing: true 1"]["diff"] == 0
