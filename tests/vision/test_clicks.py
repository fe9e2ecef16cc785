import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llafs_lib.vision.clicks import Click, corrected

shares = st.floats(0, 1)
clicks = st.lists(st.builds(Click, shares, shares, st.booleans()), max_size=6)


def drawn(seed, grid, size):
    torch.manual_seed(seed)
    return F.normalize(torch.randn(4, *grid), dim=0), torch.rand(size).numpy() > 0.5


@settings(deadline=None)
@given(st.integers(0, 99), clicks, st.sampled_from([(1, 1), (3, 5), (11, 11)]), st.sampled_from([(1, 1), (40, 70)]))
def test_the_last_click_on_a_pixel_holds(seed, made, grid, size):
    features, mask = drawn(seed, grid, size)
    found = corrected(mask, features, made)
    assert found.dtype == bool and found.shape == size
    if made:
        last = made[-1]
        assert found[round(last.row * (size[0] - 1)), round(last.column * (size[1] - 1))] == last.is_object
    else:
        assert np.array_equal(found, mask)


def two_halves():
    """Features of an image whose left half looks the same everywhere, and whose right half looks unlike it."""
    features = torch.zeros(2, 9, 9)
    features[0, :, :5], features[1, :, 5:] = 1, 1
    return features


@pytest.mark.parametrize("is_object", [True, False])
def test_a_click_speaks_for_all_that_looks_like_it_and_for_nothing_else(is_object):
    before = np.full((90, 90), not is_object)
    after = corrected(before, two_halves(), [Click(0.5, 0.1, is_object)])
    assert (after[:, :40] == is_object).all() and (after[:, 60:] != is_object).all()


def test_each_place_follows_the_click_that_it_resembles_most():
    found = corrected(np.zeros((90, 90), bool), two_halves(), [Click(0.5, 0.1, True), Click(0.5, 0.9, False)])
    assert found[:, :40].all() and not found[:, 60:].any()
    again = corrected(found, two_halves(), [Click(0.5, 0.1, True), Click(0.5, 0.1, False)])
    assert not again[:, :40].any(), "of two clicks on one place the later counts"


def test_a_mask_that_was_given_stays_as_it_is():
    mask = np.zeros((30, 30), bool)
    corrected(mask, two_halves(), [Click(0, 0, True)])
    assert not mask.any()
