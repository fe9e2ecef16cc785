import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llafs_lib.retrieval.bank import BankError, SupportBank, build_bank, cell_shares, embed

rng = np.random.default_rng(0)


def small_bank():
    pictures = {i: rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for i in (4, 7)}
    masks = {"zebra": np.eye(20, 30, dtype=bool), "horse": np.ones((20, 30), bool)}
    taps = {i: [torch.rand(6, 4, 5)] for i in pictures}
    by_pixels = {pictures[i].tobytes(): taps[i] for i in pictures}
    pairs = [(4, "horse"), (4, "zebra"), (7, "horse")]
    read = lambda i, c: (pictures[i], masks[c])  # noqa: E731
    return build_bank(pairs, ("horse", "zebra"), read, lambda image: by_pixels[image.tobytes()]), taps, masks


def test_rows_and_unit_vectors():
    bank, taps, masks = small_bank()
    assert len(bank) == 3 and bank.counts() == {"horse": 2, "zebra": 1}
    assert [bank.class_of(r) for r in range(3)] == ["horse", "zebra", "horse"]
    np.testing.assert_allclose(np.linalg.norm(bank.foreground, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(bank.foreground[1], embed(taps[4], masks["zebra"]))
    np.testing.assert_allclose(bank.foreground[0], bank.whole[0], atol=1e-6)  # that mask is the whole picture
    assert bank.area[0] == 1 and bank.area[1] == pytest.approx(20 / 600)
    assert not len(bank.rows_of("giraffe"))


def test_save_and_load(tmp_path):
    bank, *_ = small_bank()
    bank.save(tmp_path / "b.safetensors")
    again = SupportBank.load(tmp_path / "b.safetensors")
    assert again.classes == bank.classes
    for name in ("image_ids", "class_index", "foreground", "whole", "area"):
        np.testing.assert_array_equal(getattr(again, name), getattr(bank, name))


def test_a_truncated_bank(tmp_path):
    path = tmp_path / "b.safetensors"
    small_bank()[0].save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BankError, match="run notebook 04 again"):
        SupportBank.load(path)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 8), st.integers(1, 8))
def test_cell_shares_keep_the_area(height, width, h, w):
    if height < h or width < w:
        return
    mask = np.random.default_rng(height * 41 + width).random((height, width)) < 0.5
    shares = cell_shares(mask, (h, w))
    assert shares.shape == (h, w) and shares.min() >= 0 and shares.max() <= 1
    if height % h == 0 and width % w == 0:
        assert shares.mean() == pytest.approx(mask.mean())


def test_pictures_smaller_than_the_grid():
    assert np.isfinite(embed([torch.rand(3, 9, 9)], np.ones((2, 2), bool))).all()
