"""Outlines made plain: run lengths are taken only if they can be decoded to a mask of the image's size."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_rle

from llafs_lib.data.coco import decode
from llafs_lib.data.outlines import outlines_of

masks = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=60)).filter(lambda m: m.any())


def lengths_of(mask):
    flat = mask.ravel(order="F").astype(int)
    return np.diff(np.concatenate(([0], np.flatnonzero(np.diff(flat, prepend=0)), [flat.size]))).tolist()


@given(masks)
def test_run_lengths_of_any_mask(mask):
    text = coco_rle.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    for counts in (text, lengths_of(mask)):
        (outline,), faults = outlines_of({"size": list(mask.shape), "counts": counts}, mask.shape)
        assert np.array_equal(decode(outline), mask) and faults == []
        other, faults = outlines_of({"size": list(mask.shape), "counts": counts}, (mask.shape[0] + 1, mask.shape[1]))
        assert not other and faults == ["run lengths that do not fit the image's size"]


@given(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=30), st.integers(1, 40), st.integers(1, 40))
@example("0" * 30, 5, 6)
def test_text_that_looks_like_run_lengths(counts, height, width):
    outlines, faults = outlines_of({"size": [height, width], "counts": counts}, (height, width))
    assert len(outlines) + len(faults) == 1
    for outline in outlines:
        mask = decode(outline)
        assert mask.shape == (height, width) and mask.any()


@given(st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=9), st.lists, max_leaves=20))
def test_any_list_is_polygons_or_a_fault(segmentation):
    outlines, faults = outlines_of(segmentation, (30, 40))
    for polygons in outlines:
        assert all(len(p) >= 6 and len(p) % 2 == 0 and np.isfinite(p).all() for p in polygons)
    assert outlines or faults or not segmentation or isinstance(segmentation, list)
