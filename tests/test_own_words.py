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
