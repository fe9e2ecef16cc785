"""Calibration on features that are made by hand: three classes, two of which look alike."""

import numpy as np
import pytest
import torch

from llafs_lib.evaluation.calibration import DEFAULT, QUESTIONS, Calibration, Expected, calibrate
from llafs_lib.evaluation.metrics import best_threshold, count, curve
from llafs_lib.records import RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import build_bank
from llafs_lib.retrieval.scoring import by_looks
from llafs_lib.vision.prototype import PrototypeSegmenter

NAMES = ("zebra", "horse", "bus")
LOOK = {"zebra": (1.0, 0.2, 0.0), "horse": (1.0, 0.0, 0.2), "bus": (-1.0, 0.3, 0.3)}


class ByHand(PrototypeSegmenter):
    """A segmenter whose features are an image's colours."""

    def __init__(self):
        self.threshold, self.plain, self.sharpness = 0.5, True, None

    def describe(self, image):
        x = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1) - 127.0  # [H, W, 3] → [3, H, W]
        return torch.nn.functional.normalize(x, dim=0)


def drawn(image_id):
    """An image of 8 × 8 px, a square of one class in it."""
    name = NAMES[image_id % len(NAMES)]
    mask = np.zeros((8, 8), bool)
    mask[1 + image_id % 3 : 6, 2:7] = True
    image = np.full((8, 8, 3), (127, 20, 230), np.uint8)
    image[mask] = 127 + 100 * np.array(LOOK[name])
    image += np.random.default_rng(image_id).integers(0, 8, image.shape, np.uint8)
    return image, {name: mask}


def bank_of(tmp_path, n=12):
    images = {i: (NAMES[i % len(NAMES)],) for i in range(n)}
    bank = build_bank(tmp_path / "bank", images, NAMES, drawn, ByHand().describe, {})
    return bank, {i: set(c) for i, c in images.items()}


def read(image_id, names):
    image, masks = drawn(image_id)
    return image, {name: masks[name] for name in names}


def alike(name):
    ranked = {"zebra": ("horse",), "horse": ("zebra",), "bus": ()}[name]
    return RelatedClasses(name, tuple(RelatedClass(c, 1.0) for c in ranked), "given", "")


def test_what_is_expected_is_what_the_questions_give(tmp_path):
    bank, shown = bank_of(tmp_path)
    found = calibrate(bank, ByHand(), shown, read, alike)
    assert found.novel.questions == 8 and found.novel.classes == 2, "a bus looks like nothing here"
    assert found.own.questions == 12 and found.own.classes == 3
    assert found.relation == "given" and found.own.iou > 90 and found.own.auc > 0.8
    # The same by hand, with the supports of the other class and never the image itself.
    curves = []
    for i in range(12):
        name = NAMES[i % 3]
        for other in alike(name).names:
            rows = bank.rows_of(other)
            both = bank.prototypes(rows, np.ones(len(rows)), plain=True)
            image, masks = drawn(i)
            curves.append(curve(ByHand().mark(image, *both).probability, masks[name], name, i))
    assert found.novel.threshold == best_threshold(curves)
    by_class = {}
    for name in ("zebra", "horse"):
        threshold = best_threshold([c for c in curves if c.class_name != name])
        counts = [c.at(threshold) for c in curves if c.class_name == name]
        by_class[name] = 100 * sum(c.inter for c in counts) / sum(c.union for c in counts)
    assert found.novel.iou == pytest.approx(np.mean(list(by_class.values())))


def test_own_supports_are_calibrated_by_the_scores_they_will_have(tmp_path):
    bank, shown = bank_of(tmp_path)
    curves = {True: [], False: []}
    for i in range(12):
        (name,) = shown[i]
        rows = bank.rows_of(name)
        rows = rows[bank.image_ids[rows] != i]
        both = bank.prototypes(rows, np.ones(len(rows)), plain=True)
        image, masks = drawn(i)
        for own, found in curves.items():
            found.append(curve(*ByHand().scores(image, [both], [own]), masks[name], name, i))
    by_range, by_both = best_threshold(curves[False]), best_threshold(curves[True])
    assert calibrate(bank, ByHand(), shown, read, alike).own.threshold == by_both != by_range


def test_the_image_asked_about_is_no_support_of_itself(tmp_path):
    bank, shown = bank_of(tmp_path, n=3)  # one image a class: nothing is left of the class itself
    found = calibrate(bank, ByHand(), shown, read, lambda name: by_looks(bank, name))
    assert found.own == Expected() and "unknown" in str(found.own) and found.own.threshold == DEFAULT
    assert found.novel.questions == 3 and found.relation == "looks"


def test_questions_are_shared_out_among_the_classes(tmp_path):
    bank, shown = bank_of(tmp_path, n=3 * QUESTIONS)
    found = calibrate(bank, ByHand(), shown, read, alike, seed=1)
    assert found.own.questions == QUESTIONS and found == calibrate(bank, ByHand(), shown, read, alike, seed=1)


def test_too_small_an_object_is_neither_there_nor_absent(tmp_path):
    bank, shown = bank_of(tmp_path)
    everywhere = {i: {*names, "bus"} for i, names in shown.items()}  # no image without a bus is left
    of_two, of_three = (calibrate(bank, ByHand(), which, read, alike).own.auc for which in (everywhere, shown))
    assert 3 * of_three == pytest.approx(2 * of_two + 1.0), "the bus, which is told apart perfectly, no longer counts"


def test_it_survives_being_written():
    made = Calibration(Expected(0.7, 31.25, 0.83, 12, 3), Expected(), "recorded")
    assert Calibration.from_dict(made.to_dict()) == made
    assert "IoU about 31 (12 questions about 3 classes), images ranked with AUC 0.83" in str(made)


def test_classes_that_look_alike(tmp_path):
    bank, _ = bank_of(tmp_path)
    assert by_looks(bank, "zebra").names[0] == "horse" and by_looks(bank, "horse").names[0] == "zebra"
    assert all(0 < s <= 1 for s in by_looks(bank, "bus").scores.values())
    assert by_looks(bank.only(("zebra", "bus")), "bus").names == ("zebra",), "the nearest, if nothing is like it"
    assert count(*(drawn(0)[1]["zebra"],) * 2).iou == 100
