import numpy as np
import pytest

from llafs_lib.evaluation.metrics import ConfusionCounts, miou
from llafs_lib.evaluation.statistics import Bootstrap


def simulated(n_pictures, seed, shift=0.0, spread=0.2):
    """Queries of four classes; half of the pictures are asked about twice."""
    rng = np.random.default_rng(seed)
    counts = []
    for picture in range(n_pictures):
        level = rng.normal(0.5 + shift, spread)
        for name in "abcd"[picture % 4], *(("abcd"[(picture + 1) % 4],) if picture % 2 else ()):
            inter = int(1000 * np.clip(level, 0, 1))
            counts.append(ConfusionCounts(name, picture, inter, 1000, 0, 1))
    return counts


def test_an_arm_does_not_differ_from_itself():
    counts = simulated(40, 0)
    assert Bootstrap(counts).paired_interval(counts, counts) == (0, 0)


def test_the_estimate_lies_in_its_interval():
    counts = simulated(60, 1)
    low, high = Bootstrap(counts).interval(counts)
    assert low < miou(counts) < high


def test_pairing_removes_the_spread_that_both_arms_share():
    a, b = simulated(60, 2), simulated(60, 2, shift=0.05)
    bootstrap = Bootstrap(a)
    low, high = bootstrap.paired_interval(b, a)
    alone = bootstrap.interval(a)
    assert 0 < low and high - low < (alone[1] - alone[0]) / 2


def test_resamples_keep_the_questions_of_a_picture_together():
    counts = simulated(30, 3)
    weights = Bootstrap(counts, resamples=50)._weights
    for picture in range(30):
        columns = weights[:, [c.image_id == picture for c in counts]]
        assert (columns == columns[:, :1]).all()


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # True mIoU is 50. 95% nominal; with 200 simulations the count has a deviation of 1.5 points, and a bootstrap
    # over 80 pictures is known to be slightly narrow.
    hits = 0
    for seed in range(200):
        counts = simulated(80, 1000 + seed)
        low, high = Bootstrap(counts, resamples=400, seed=seed).interval(counts)
        hits += low <= 50 <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_other_queries_are_refused():
    with pytest.raises(ValueError, match="same queries"):
        Bootstrap(simulated(10, 0)).miou(simulated(12, 0))
