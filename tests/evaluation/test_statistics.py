import functools

import numpy as np
import pytest

from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.metrics import ConfusionCounts, miou
from llafs_lib.evaluation.statistics import Bootstrap, deviations, pooled


def simulated(n_images, seed, shift=0.0, spread=0.2):
    """Queries of four classes; half of the images are asked about twice."""
    rng = np.random.default_rng(seed)
    counts = []
    for image in range(n_images):
        level = rng.normal(0.5 + shift, spread)
        for name in "abcd"[image % 4], *(("abcd"[(image + 1) % 4],) if image % 2 else ()):
            inter = int(1000 * np.clip(level, 0, 1))
            counts.append(ConfusionCounts(name, image, inter, 1000, 0, 1))
    return counts


def test_an_arm_does_not_differ_from_itself():
    counts = simulated(40, 0)
    assert Bootstrap(counts).paired_interval(counts, counts) == (0, 0)


def test_one_query_a_class_says_nothing_about_other_images():
    a, b = ([ConfusionCounts(name, i, inter, 100, 0, 1) for i, name in enumerate("abc")] for inter in (50, 10))
    bootstrap = Bootstrap(a)
    assert bootstrap.interval(a) == (0, 100) and bootstrap.paired_interval(a, b) == (-100, 100)
    two = [*a, ConfusionCounts("a", 9, 60, 100, 0, 1)]
    low, high = Bootstrap(two).interval(two)
    assert 0 < low < miou(two) < high < 100


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


def test_resamples_keep_the_questions_of_an_image_together():
    counts = simulated(30, 3)
    weights = Bootstrap(counts, resamples=50)._weights
    for image in range(30):
        columns = weights[:, [c.image_id == image for c in counts]]
        assert (columns == columns[:, :1]).all()


CASES = {  # classes, images, questions about an image, spread of object sizes (sd of their logarithm)
    "a fold of coco-mini": (16, 110, 1.1, 0.8),
    "all classes of coco-mini": (60, 120, 4.0, 0.8),
    "few classes, many queries": (5, 150, 1.5, 0.5),
}


def population(case, n_images, seed, shift):
    """Two arms' answers to the same queries; `shift` is what the second has more, before the logistic curve."""
    n_classes, _, per_image, spread = CASES[case]
    level = np.random.default_rng(1).normal(0, 0.8, n_classes)  # classes are easy or hard, the same in every sample
    rng = np.random.default_rng([seed, 2])
    of_image = rng.normal(0, 0.8, n_images)
    image, name = np.nonzero(rng.random((n_images, n_classes)) < per_image / n_classes)
    size = np.exp(rng.normal(10, spread, len(image)))
    shared = level[name] + of_image[image] + rng.normal(0, 0.8, len(image))
    arms = []
    for s in (0.0, shift):
        share = 1 / (1 + np.exp(1 - shared - s - rng.normal(0, 0.6, len(image))))
        arms.append((size * share, size * (1.5 - 0.5 * share)))
    return name, image, arms


def as_counts(name, image, arm):
    return [ConfusionCounts(str(c), int(p), int(i), int(u), 0, 1) for c, p, i, u in zip(name, image, *arm, strict=True)]


@functools.cache
def truths(case, shift):
    """IoU of each class in a population of 60,000 images, of both arms: [2, classes]."""
    name, _, arms = population(case, 60_000, 0, shift)
    sums = [[np.bincount(name, part, CASES[case][0]) for part in arm] for arm in arms]
    return np.array([100 * inter / union for inter, union in sums])


@pytest.mark.parametrize("case", CASES)
def test_intervals_cover_the_truth_as_often_as_they_say(case):
    rounds, hits_one, hits_difference = 500, 0, 0
    for seed in range(rounds):
        name, image, arms = population(case, CASES[case][1], 1000 + seed, shift=0.4)
        a, b = (as_counts(name, image, arm) for arm in arms)
        bootstrap = Bootstrap(a, resamples=400, seed=seed)
        true = truths(case, 0.4)[:, np.unique(name)].mean(axis=1)
        low, high = bootstrap.interval(b)
        hits_one += low <= true[1] <= high
        low, high = bootstrap.paired_interval(b, a)
        hits_difference += low <= true[1] - true[0] <= high
    # 95% nominal; with 500 rounds the count itself has a deviation of one point.
    assert 0.93 <= hits_difference / rounds <= 0.97, hits_difference / rounds
    assert 0.90 <= hits_one / rounds <= 0.97, hits_one / rounds  # a ratio of few sums leans to one side


def test_other_classes_make_the_interval_wider():
    name, image, (a, b) = population("a fold of coco-mini", 110, 7, shift=0.4)
    a, b = as_counts(name, image, a), as_counts(name, image, b)
    fixed, both = (Bootstrap(a, over_classes=over) for over in (False, True))
    assert np.diff(both.interval(a)) > np.diff(fixed.interval(a))
    assert np.diff(both.paired_interval(b, a)) > np.diff(fixed.paired_interval(b, a))


def test_a_class_with_one_query_is_given_the_others_spread():
    counts = simulated(60, 4)
    alone = [*counts, ConfusionCounts("rare", 999, 500, 1000, 0, 1)]
    bootstrap = Bootstrap(alone, resamples=1000)
    ious = bootstrap.class_ious(alone)
    assert np.isclose(ious[:, -1], 50).all(), "a class that is not drawn keeps its value"
    assert bootstrap._widening(ious) > Bootstrap(counts, resamples=1000)._widening(ious[:, :-1])


def test_pooling_adds_the_pixels_of_all_runs():
    a, b = simulated(10, 0), simulated(10, 1)
    both = pooled([a, b])
    assert [c.inter for c in both] == [x.inter + y.inter for x, y in zip(a, b, strict=True)]
    assert pooled([a, a, a])[0].iou == a[0].iou
    with pytest.raises(LlafsError, match="same queries"):
        pooled([a, b[1:]])


def test_spread_is_told_apart_by_where_it_comes_from():
    def run(seed, draw):  # seeds differ by 0.1, draws by 0.01
        level = 0.3 + 0.1 * seed + 0.01 * draw
        return [ConfusionCounts("a", p, int(1000 * level), 1000, 0, 1) for p in range(30)]

    runs = {(s, d): run(s, d) for s in (0, 1) for d in (0, 1)}
    found = deviations(runs, Bootstrap(runs[0, 0]))
    assert found["training"] == pytest.approx(10 / np.sqrt(2), abs=0.1)
    assert found["draws"] == pytest.approx(1 / np.sqrt(2), abs=0.1)
    assert found["queries"] == 0
    assert np.isnan(deviations({(0, 0): run(0, 0)}, Bootstrap(run(0, 0)))["training"])


def test_other_queries_are_refused():
    with pytest.raises(LlafsError, match="same queries"):
        Bootstrap(simulated(10, 0)).miou(simulated(12, 0))
