"""Words and corrections in a model of one's own images: what `LLaFS` makes of a list of words, and of clicks."""

import numpy as np
import pytest

from llafs_lib.data.images import find_images, read_rgb
from llafs_lib.errors import LlafsError
from llafs_lib.vision.clicks import Click

LOOKS = {"bus": "truck=.8,car=.5", "coach": ["train"]}


@pytest.fixture(scope="module")
def photo(own_scenes):
    return next(iter(find_images(own_scenes / "images")))


def test_each_of_several_words_may_have_its_own_look_alikes(own_model, photo):
    found = own_model.segment(photo, ["bus", "coach", "car"], related=LOOKS)
    assert [p.related.source for p in found] == ["given", "given", "itself"]
    for name, related in LOOKS.items():
        alone = own_model.segment(photo, name, related=related)
        assert np.array_equal(found[name].mask, alone.mask) and found[name].related.names == alone.related.names
    assert set(np.unique(found.label_map)) <= {0, 1, 2, 3}


def test_a_list_of_one_word_takes_look_alikes_by_class_too(own_model, photo):
    (one,) = own_model.segment(photo, ["bus"], related={"bus": LOOKS["bus"]})
    assert one.related.scores == {"truck": 0.8, "car": 0.5}
    itself = own_model.segment(photo, "car", related={"car": 0.5})
    assert itself.related.scores == {"car": 0.5}, "a number is a score"


@pytest.mark.parametrize("related", ["truck", ["truck"], {"truck": 0.9}, {"bus": "truck", "okapi": "car"}])
def test_look_alikes_of_nobody_knows_which_word_are_refused(own_model, photo, related):
    with pytest.raises(LlafsError, match="by class, such as related="):
        own_model.segment(photo, ["bus", "coach"], related=related)


def test_clicks_change_the_mask_and_say_so(own_model, photo):
    found = own_model.segment(photo, "bus", related=LOOKS["bus"])
    clicks = [Click(0.5, 0.5, not found.mask[found.mask.shape[0] // 2, found.mask.shape[1] // 2])]
    corrected = own_model.correct(found, clicks)
    assert (corrected.mask != found.mask).any() and "corrected by 1 click" in corrected.notes
    assert np.array_equal(corrected.probability, found.probability) and corrected.source == found.source


def test_clicks_fit_an_image_that_is_segmented_at_a_smaller_size(own_model, photo):
    large = np.kron(read_rgb(photo), np.ones((12, 12, 1), np.uint8))
    corrected = own_model.correct(own_model.segment(large, "bus", related="truck"), [Click(1.0, 1.0, True)])
    assert corrected.mask.shape == large.shape[:2] and corrected.mask[-1, -1]


def test_a_correction_counts_a_quarter_of_all_look_alikes_and_is_gone_when_removed(own_model, photo):
    found = own_model.segment(photo, "bus", related="truck=.8,car=.5")
    mask = np.zeros_like(found.mask)
    mask[10:60, 20:90] = True
    number = own_model.add(photo, mask, "bus")
    try:
        ((inside, outside, area),) = [(c.inside, c.outside, c.area) for c in own_model.added]
        bank = own_model.bank
        rows = np.concatenate([bank.rows_of("truck"), bank.rows_of("car")])
        weight = np.array([{"truck": 0.64, "car": 0.25}[bank.class_of(r)] for r in rows])
        weight = np.append(weight, weight.sum() / 4)
        shown, rest = weight * np.append(bank.area[rows], area), weight * (1 - np.append(bank.area[rows], area))
        foreground = shown @ np.vstack([bank.foreground[rows], inside]) / shown.sum()
        background = rest @ np.vstack([bank.background[rows], outside]) / rest.sum()
        (probability,) = own_model.method.scores(found.image, [(foreground, background)], own=[True])
        after = own_model.segment(photo, "bus", related="truck=.8,car=.5")
        np.testing.assert_allclose(after.probability, probability, atol=1e-4)
        assert np.array_equal(after.mask, after.probability >= own_model.expected.own.threshold)
        assert not np.allclose(after.probability, found.probability, atol=1e-2)
    finally:
        own_model.remove(number)
    assert np.array_equal(own_model.segment(photo, "bus", related="truck=.8,car=.5").mask, found.mask)


def test_a_correction_of_an_annotated_class_counts_like_any_support(own_model, photo):
    size = own_model.segment(photo, "car").mask.shape
    number = own_model.add(photo, np.ones(size, bool), "car")
    try:
        (own,) = own_model.added
        bank, rows = own_model.bank, own_model.bank.rows_of("car")
        area = np.append(bank.area[rows], own.area)
        foreground = area @ np.vstack([bank.foreground[rows], own.inside]) / area.sum()
        background = (1 - area) @ np.vstack([bank.background[rows], own.outside]) / (1 - area).sum()
        found = own_model.segment(photo, "car")
        (again,) = own_model.method.scores(found.image, [(foreground, background)], own=[True])
        np.testing.assert_allclose(found.probability, again, atol=1e-4)
    finally:
        own_model.remove(number)
