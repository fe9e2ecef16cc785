import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.metrics import (
    STEPS,
    best_threshold,
    class_ious,
    count,
    curve,
    fb_iou,
    marked_where_absent,
    miou,
    squashed,
)

MASKS = arrays(bool, (5, 7))


def test_hand_computed():
    truth, guess = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    truth[0], guess[:, 0] = True, True  # 4 true, 2 guessed, 1 shared
    c = count(guess, truth)
    assert (c.inter, c.union, c.inter_bg, c.union_bg) == (1, 5, 3, 7)
    assert c.iou == pytest.approx(20)
    assert fb_iou([c]) == pytest.approx(50 * (1 / 5 + 3 / 7))


def test_a_class_is_a_ratio_of_sums_not_a_mean_of_ratios():
    large, small = np.ones((10, 10), bool), np.zeros((10, 10), bool)
    small[0, 0] = True
    hit, miss = count(large, large, "a"), count(~small, small, "a")
    assert class_ious([hit, miss])["a"] == pytest.approx(100 * 100 / 200)
    assert miou([hit, miss, count(large, large, "b")]) == pytest.approx(75)


@given(MASKS, MASKS)
def test_bounds_and_symmetry(a, b):
    c, d = count(a, b), count(b, a)
    assert 0 <= c.iou <= 100 and 0 <= fb_iou([c]) <= 100
    assert (c.inter, c.union, c.inter_bg, c.union_bg) == (d.inter, d.union, d.inter_bg, d.union_bg)
    # background counts are the foreground counts of the complements
    e = count(~a, ~b)
    assert (c.inter_bg, c.union_bg) == (e.inter, e.union)


@given(st.lists(st.tuples(MASKS, MASKS, st.sampled_from("abc")), min_size=1, max_size=8), st.randoms())
def test_order_does_not_matter(cases, random):
    counts = [count(a, b, name) for a, b, name in cases]
    before = miou(counts), fb_iou(counts)
    random.shuffle(counts)
    assert (miou(counts), fb_iou(counts)) == pytest.approx(before)


@given(MASKS)
def test_best_and_trivial_values(truth):
    assert miou([count(truth, truth)]) == (100 if truth.any() else 0)
    everything = count(np.ones_like(truth), truth)
    assert miou([everything]) == pytest.approx(100 * truth.mean())


def test_sizes_must_agree():
    with pytest.raises(LlafsError, match="same size"):
        count(np.ones((2, 2), bool), np.ones((2, 3), bool))
    with pytest.raises(LlafsError, match="same size"):
        curve(np.ones((2, 2)), np.ones((2, 3), bool))


def test_a_query_that_is_all_void_cannot_be_scored():
    mask = np.ones((3, 4), bool)
    assert count(mask, mask, void=~mask).iou == 100
    with pytest.raises(LlafsError, match="every pixel of query 7 is void"):
        count(mask, mask, image_id=7, void=mask)


@given(st.lists(st.tuples(MASKS, MASKS, st.sampled_from("ab")), min_size=2, max_size=8), st.integers(1, 7))
def test_splits_add_up(cases, cut):
    counts = [count(a, b, name) for a, b, name in cases]
    parts = counts[:cut], counts[cut:]
    for name, iou in class_ious(counts).items():
        inter, union = (
            sum(getattr(c, x) for p in parts for c in p if c.class_name == name) for x in ("inter", "union")
        )
        assert iou == pytest.approx(100 * inter / max(union, 1))


def test_fb_iou_pools_all_classes():
    a, b = (
        count(np.eye(4, dtype=bool), np.ones((4, 4), bool), "a"),
        count(np.eye(4, dtype=bool), np.eye(4, dtype=bool), "b"),
    )
    assert fb_iou([a, b]) == pytest.approx(50 * ((4 + 4) / (16 + 4) + (0 + 12) / (12 + 12)))


def test_a_squashed_mask_keeps_its_share_and_its_place():
    wide = np.zeros((30, 90), bool)
    wide[:10, :45] = True  # a sixth: the upper third of the left half
    small = squashed(wide, 60)
    assert small.shape == (60, 60) and small[:20, :30].all() and small.sum() == 20 * 30
    assert np.array_equal(squashed(np.eye(400, dtype=bool)), np.eye(400, dtype=bool)), "its own size changes nothing"


@given(MASKS)
def test_squashing_to_a_multiple_repeats_pixels(mask):
    assert np.array_equal(squashed(mask, 35), mask.repeat(7, axis=0).repeat(5, axis=1))


def test_marked_where_absent():
    nothing, quarter = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    quarter[:2, :2] = True
    assert marked_where_absent([count(quarter, nothing), count(nothing, nothing)]) == pytest.approx(12.5)
    assert marked_where_absent([count(~nothing, nothing)]) == 100
    with pytest.raises(LlafsError, match="absent"):
        marked_where_absent([count(quarter, quarter)])
    with pytest.raises(LlafsError, match="absent"):
        marked_where_absent([])


@given(st.integers(0, 2**32 - 1), st.integers(0, STEPS))
def test_a_curve_counts_as_a_mask_does(seed, step):
    rng = np.random.default_rng(seed)
    scores, truth, void = rng.integers(0, 101, (5, 7)) / 100 + 1e-9, rng.random((5, 7)) < 0.4, rng.random((5, 7)) < 0.2
    if void.all():
        return
    expected = count(scores >= step / STEPS, truth, "cat", 3, void)
    assert curve(scores, truth, "cat", 3, void).at(step / STEPS) == expected


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_the_best_threshold_is_the_best(seed, queries):
    rng = np.random.default_rng(seed)
    scores = [rng.integers(0, 21, (5, 6)) / 20 + 1e-9 for _ in range(queries)]  # many ties
    truths = [rng.random((5, 6)) < 0.3 for _ in range(queries)]
    truths[0][0, 0] = True

    def quality(threshold):
        return miou([count(s >= threshold, t, str(n)) for n, (s, t) in enumerate(zip(scores, truths, strict=True))])

    found = best_threshold([curve(s, t, str(n)) for n, (s, t) in enumerate(zip(scores, truths, strict=True))])
    assert quality(found) == pytest.approx(max(quality(t / STEPS) for t in range(STEPS + 1)))


def test_thresholds_that_cannot_be_chosen():
    for bad in ([], [curve(np.ones((2, 2)), np.zeros((2, 2), bool))]):
        with pytest.raises(LlafsError, match="a threshold needs"):
            best_threshold(bad)


def test_a_threshold_is_not_chosen_on_void_pixels():
    score = np.linspace(0, 1, 11, dtype=np.float32)[None]  # [1, 11]
    truth, void = score > 0.75, (score > 0.35) & (score < 0.75)
    assert best_threshold([curve(score, truth)]) == pytest.approx(0.71)
    assert best_threshold([curve(score, truth & ~void, void=void)]) == pytest.approx(0.31)


def test_the_best_threshold_is_that_of_the_class_mean():
    truth = np.zeros((10, 10), bool)
    truth[:5] = True
    sharp, soft = np.where(truth, 0.9, 0.1), np.where(truth, 0.4, 0.2)
    assert best_threshold([curve(sharp, truth, "a")]) == pytest.approx(0.11)
    assert best_threshold([curve(sharp, truth, "a"), curve(soft, truth, "b")]) == pytest.approx(0.21)
