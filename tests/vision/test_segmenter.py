import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from llafs_lib.data.toy.dataset import draw_scene
from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.metrics import count, miou
from llafs_lib.records import Support
from llafs_lib.vision import hsnet
from llafs_lib.vision.backbone import Backbone
from llafs_lib.vision.hsnet import TOY_HSNET, HSNet
from llafs_lib.vision.prototype import PrototypeSegmenter
from llafs_lib.vision.pspnet import SMALL, PSPNet
from llafs_lib.vision.repri import RePRISegmenter
from llafs_lib.vision.segmenter import HSNetSegmenter, INSID3Segmenter, check_supports

rng, ids = np.random.default_rng(0), itertools.count(1)


def random_image(height=60, width=80):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def support(name="zebra"):
    image = random_image()
    mask = np.zeros(image.shape[:2], bool)
    mask[10:40, 20:60] = True
    return Support(next(ids), name, 1.0, image, mask)


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return HSNetSegmenter(HSNet(Backbone("small").freeze()), size=97)


@pytest.mark.parametrize("shots", [1, 3])
def test_a_prediction_has_the_images_size(segmenter, shots):
    found = segmenter.segment(random_image(50, 70), [support() for _ in range(shots)], "giraffe")
    assert found.mask.shape == found.probability.shape == (50, 70)
    assert found.mask.dtype == bool and 0 <= found.probability.min() <= found.probability.max() <= 1
    assert "giraffe" in str(found) and f"{shots} × zebra" in str(found)


def test_equal_to_the_model_itself(segmenter):
    from llafs_lib.vision.backbone import to_input, to_mask
    from llafs_lib.vision.hsnet import vote

    query, supports = random_image(97, 97), [support(), support()]
    found = segmenter.segment(query, supports)
    with torch.no_grad():
        logits = segmenter.model(
            to_input(query, 97)[None],
            torch.stack([to_input(s.image, 97) for s in supports])[None],
            torch.stack([to_mask(s.mask, 97) for s in supports])[None],
        )
    assert np.array_equal(found.mask, vote(logits)[0].numpy())
    np.testing.assert_allclose(found.probability, logits[0].softmax(1)[:, 1].mean(0).numpy(), atol=1e-5)


def test_a_support_votes_with_its_weight(segmenter):
    query, a, b = random_image(), support(), support()
    alone, both = segmenter.segment(query, [a]), segmenter.segment(query, [a, replace(b, weight=0)])
    assert np.array_equal(both.mask, alone.mask)
    np.testing.assert_allclose(both.probability, alone.probability, atol=1e-6)
    halves = segmenter.segment(query, [replace(a, weight=0.5), replace(b, weight=0.5)])
    assert np.array_equal(halves.mask, segmenter.segment(query, [a, b]).mask)


def test_supports_that_cannot_be_used(segmenter):
    with pytest.raises(LlafsError, match="no support for giraffe"):
        segmenter.segment(random_image(), [], "giraffe")
    for wrong, complaint in (
        ({"mask": np.zeros((3, 3), bool)}, "the mask of support "),
        ({"weight": -1.0}, "the weight of support "),
        ({"weight": float("nan")}, "the weight of support "),
        ({"weight": 0.0}, "none would count"),
    ):
        with pytest.raises(LlafsError, match=complaint):
            segmenter.segment(random_image(), [replace(support(), **wrong)])


@pytest.mark.parametrize("shape", [(50, 70), (50, 70, 4), (50, 70, 1), (0, 70, 3)])
def test_images_that_are_not_rgb_bytes(segmenter, shape):
    with pytest.raises(LlafsError, match=r"must be \[H, W, 3\] uint8 RGB"):
        segmenter.segment(np.zeros(shape, np.uint8), [support()])
    with pytest.raises(LlafsError, match="float64"):
        segmenter.segment(random_image() / 255, [support()])


def test_an_empty_mask_gives_an_empty_prediction(segmenter):
    query, full = random_image(), support()
    empty = replace(full, image_id=0, mask=np.zeros_like(full.mask))
    found = segmenter.segment(query, [empty, empty])
    assert not found.mask.any() and not found.probability.any()
    assert found.notes == ("2 of 2 supports do not show the class at 97 px",)
    beside, alone = segmenter.segment(query, [full, empty]), segmenter.segment(query, [full])
    assert np.array_equal(beside.mask, alone.mask) and alone.notes == ()
    np.testing.assert_allclose(2 * beside.probability, alone.probability, atol=1e-6)


def test_supports_with_one_key_are_one_image_and_one_mask():
    shown = support()
    read_again = replace(shown, image=shown.image.copy(), mask=shown.mask.copy(), weight=0.5, score=0.1)
    check_supports([shown, read_again, shown], "giraffe", "HSNet")
    other_class = replace(shown, class_name="horse", mask=~shown.mask)
    check_supports([shown, other_class], "giraffe", "HSNet")
    smaller = {"image": random_image(9, 9), "mask": np.ones((9, 9), bool)}
    for change in ({"image": random_image()}, {"mask": ~shown.mask}, smaller):
        with pytest.raises(LlafsError, match=f"both image {shown.image_id} of class 'zebra': give each image its own"):
            check_supports([shown, replace(shown, **change)], "giraffe", "HSNet")


@pytest.mark.parametrize("at_once", [2, 8])
def test_supports_compared_at_once_give_the_same_answers(segmenter, at_once, monkeypatch):
    query, shown = random_image(), [support() for _ in range(5)]
    shown[1] = replace(shown[1], mask=np.zeros((60, 80), bool))
    sets = [shown, shown[1:3], [replace(shown[0], weight=0.2), shown[4]]]
    alone = segmenter.segment_each(query, sets)
    monkeypatch.setitem(hsnet.PAIRS_AT_ONCE, "cpu", at_once)
    for found, wanted in zip(segmenter.segment_each(query, sets), alone, strict=True):
        np.testing.assert_allclose(found.probability, wanted.probability, atol=1e-5)
        assert found.notes == wanted.notes


def every_segmenter(backbone):
    return {
        "HSNet": HSNetSegmenter(HSNet(backbone), 97),
        "RePRI": RePRISegmenter(PSPNet(backbone, 5, **SMALL), 97),
        "Prototype": PrototypeSegmenter(backbone, 97, 0.6),
        "INSID3": INSID3Segmenter(backbone, 97),
    }


@pytest.mark.parametrize("model", ["HSNet", "RePRI", "Prototype", "INSID3"])
def test_under_autocast_probabilities_stay_float32(model):
    torch.manual_seed(0)
    segmenter, query, shown = every_segmenter(Backbone("resnet18").freeze())[model], random_image(), [support()]
    wanted = segmenter.segment(query, shown).probability
    segmenter.features._kept.clear()
    with torch.autocast("cpu", torch.bfloat16):
        found = segmenter.segment(query, shown).probability
    assert found.dtype == np.float32 and np.abs(found - wanted).mean() < 0.05


def test_the_hsnet_that_comes_with_the_library():
    """It is in half precision and finds what it was trained on. Another training need not agree with it."""
    assert TOY_HSNET.stat().st_size < 6e6, "every clone fetches it"
    model, header = HSNet.load(TOY_HSNET)
    assert header == {"backbone": "small", "size": 161, "compared_at": 161} and not model.training
    weights = [p for p in model.state_dict().values() if p.is_floating_point()]
    assert all(p.dtype == torch.float32 and p.isfinite().all() and torch.equal(p, p.half().float()) for p in weights)
    scenes = [draw_scene(np.random.default_rng(n), "zebra") for n in range(6)]
    zebras = [(image, np.any([m for name, m in objects if name == "zebra"], axis=0)) for image, objects in scenes]
    shown, own = (
        [Support(n, "zebra", 1.0, *zebra) for n, zebra in enumerate(zebras)],
        HSNetSegmenter.from_file(TOY_HSNET),
    )
    found = [count(own.segment(image, shown[3:], "zebra").mask, truth, "zebra") for image, truth in zebras[:3]]
    everything = [count(np.ones_like(truth), truth, "zebra") for _, truth in zebras[:3]]
    assert miou(found) > 2 * miou(everything)
