"""Asking several sets of supports at once gives what each alone would give."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.runner import BankPrototypes, Question, ShownImages
from llafs_lib.records import Episode, Support
from llafs_lib.retrieval.bank import build_bank
from llafs_lib.retrieval.policies import Choice
from llafs_lib.vision.backbone import Backbone
from llafs_lib.vision.hsnet import HSNet
from llafs_lib.vision.prototype import PrototypeSegmenter
from llafs_lib.vision.pspnet import PSPNet
from llafs_lib.vision.repri import RePRISegmenter
from llafs_lib.vision.segmenter import HSNetSegmenter, INSID3Segmenter


def random_image(seed):
    return np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def read(image_id, class_name):
    mask = np.zeros((60, 80), bool)
    mask[10 : 30 + image_id, 20:60] = True
    return random_image(image_id), mask


QUESTION = Question(Episode("giraffe", 9, ()))
SETS = [
    [Choice(1, "zebra", 1.0)],
    [Choice(1, "zebra", 1.0), Choice(2, "zebra", 1.0, 0.3), Choice(3, "horse", 1.0)],
    [Choice(3, "horse", 1.0)],
    [Choice(2, "zebra", 1.0), Choice(3, "horse", 1.0), Choice(1, "zebra", 1.0, 0.5)],
]


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return Backbone("small").freeze()


@pytest.fixture(scope="module", params=["HSNet", "RePRI", "Prototype", "INSID3"])
def segmenter(request, backbone):
    torch.manual_seed(1)
    if request.param == "HSNet":
        return HSNetSegmenter(HSNet(backbone), 97)
    if request.param == "RePRI":
        return RePRISegmenter(PSPNet(backbone, 6, (8, 32), width=32), 97)
    return INSID3Segmenter(backbone, 97) if request.param == "INSID3" else PrototypeSegmenter(backbone, 97, 0.5)


def supports_of(choices):
    return [Support(c.image_id, c.class_name, c.score, *read(c.image_id, c.class_name), c.weight) for c in choices]


def test_several_sets_together_are_what_each_is_alone(segmenter):
    query = random_image(9)
    together = segmenter.segment_each(query, [supports_of(s) for s in SETS], "giraffe")
    for choices, found in zip(SETS, together, strict=True):
        alone = segmenter.segment(query, supports_of(choices), "giraffe")
        np.testing.assert_allclose(found.probability, alone.probability, atol=1e-5)
        assert (found.mask == alone.mask).mean() > 0.999
        assert [s.weight for s in found.supports] == [c.weight for c in choices]


def test_two_images_with_one_id_are_refused(segmenter):
    """Otherwise one would be given the other's vote."""
    a, b = (replace(s, image_id=0) for s in supports_of([Choice(1, "zebra", 1.0), Choice(2, "zebra", 1.0)]))
    with pytest.raises(LlafsError, match="give each image its own image_id"):
        segmenter.segment_each(random_image(9), [[a, b]], "zebra")
    if isinstance(segmenter, HSNetSegmenter | RePRISegmenter):  # the others share nothing that could be mistaken
        with pytest.raises(LlafsError, match="give each image its own image_id"):
            segmenter.segment_each(random_image(9), [[a], [b]], "zebra")


def test_a_support_is_compared_once_however_many_sets_it_stands_in(backbone, monkeypatch):
    segmenter = HSNetSegmenter(HSNet(backbone), 97)
    calls, match = [], segmenter.model.match
    monkeypatch.setattr(segmenter.model, "match", lambda *a: calls.append(1) or match(*a))
    ShownImages(segmenter, read).answers(QUESTION, random_image(9), SETS)
    assert len(calls) == 3, "three images, eight places"


@pytest.mark.parametrize("plain", [False, True])
def test_prototypes_from_banks_are_those_of_the_images(backbone, tmp_path, plain):
    segmenter = PrototypeSegmenter(backbone, 97, 0.5, plain=plain)

    def bank(name, images, classes):
        def masks(i):
            return random_image(i), {c: read(i, c)[1] for c in images[i]}

        return build_bank(tmp_path / f"{name}.safetensors", images, classes, masks, segmenter.describe, {})

    banks = bank("base", {1: ("zebra",), 2: ("zebra",)}, ("zebra",)), bank("own", {3: ("horse",)}, ("horse",))
    made = BankPrototypes(segmenter, banks).answers(QUESTION, random_image(9), SETS)
    shown = ShownImages(segmenter, read).answers(QUESTION, random_image(9), SETS)
    for a, b in zip(made, shown, strict=True):
        assert (a == b).mean() > 0.97  # a bank's masks go to the feature grid directly, not by way of 97 px
    scores = BankPrototypes(segmenter, banks, as_scores=True).answers(QUESTION, random_image(9), SETS)
    assert all(np.array_equal(score >= segmenter.threshold, mask) for score, mask in zip(scores, made, strict=True))
