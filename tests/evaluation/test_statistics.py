import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.metrics import ConfusionCounts, miou
from llafs_lib.evaluation.statistics import Bootstrap, Estimator, holm, pooled

SHAPES = {"few of each class": (1, 1, 1, 2, 2, 3, 3, 5, 6), "many": (18,) * 5}


def answered(ious, classes, images=None, unions=None):
    """Counts of queries with these IoUs (0 to 1)."""
    unions = np.full(len(ious), 10_000) if unions is None else unions
    images = range(len(ious)) if images is None else images
    return [
        ConfusionCounts(f"class {c}", int(i), round(iou * union), int(union), 0, 1)
        for c, i, iou, union in zip(classes, images, np.clip(ious, 0, 1), unions, strict=True)
    ]


def simulated(shape, seed, trainings=1, training=0.0, spread=0.15, gain=0.0):
    """Two arms of some trainings; each arm has trainings of its own, whose IoUs differ by `training`."""
    rng, classes = np.random.default_rng(seed), np.repeat(np.arange(len(shape)), shape)
    common = 0.4 + 0.01 * classes + rng.normal(0, 0.1, len(classes))
    unions = np.exp(rng.normal(9, 0.6, len(classes)))
    arms = []
    for more in (0.0, gain):
        own = common + more + rng.normal(0, spread, len(classes))
        arms.append([answered(own + rng.normal(0, training), classes, unions=unions) for _ in range(trainings)])
    return arms


def test_an_arm_does_not_differ_from_itself():
    runs, _ = simulated(SHAPES["many"], 0, trainings=3, training=0.05)
    found = Estimator(runs[0]).difference(runs, runs)
    assert (found.value, found.ci95, found.p) == (0, (0, 0), 1)


@given(st.integers(0, 10_000), st.integers(1, 3), st.floats(-0.1, 0.1))
def test_value_interval_and_p_agree(seed, trainings, gain):
    a, b = simulated(SHAPES["few of each class"], seed, trainings, 0.03, gain=gain)
    estimator = Estimator(a[0])
    found, row = estimator.difference(b, a), estimator.row(b)
    assert found.value == miou(pooled(b)) - miou(pooled(a)) and row.value == miou(pooled(b))
    assert found.ci95[0] < found.value < found.ci95[1] and 0 < row.ci95[0] < row.value < row.ci95[1] < 100
    assert (found.p < 0.05) == (found.ci95[0] > 0 or found.ci95[1] < 0)
    swapped = estimator.difference(a, b)
    assert swapped.p == pytest.approx(found.p) and swapped.ci95 == pytest.approx((-found.ci95[1], -found.ci95[0]))


def coverage(shape, rounds, trainings=1, training=0.0, known=0.0):
    held = 0
    for seed in range(rounds):
        a, b = simulated(shape, seed, trainings, training)
        low, high = Estimator(a[0]).difference(b, a, known).ci95
        held += low <= 0 <= high
    return held / rounds


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("trainings", "training", "known"), [(1, 0, 0), (1, 0.03, 3 * 2**0.5), (3, 0.05, 0)])
def test_intervals_hold_the_truth(shape, trainings, training, known):
    # With 150 rounds the count has a deviation of 1.8 points. Without trainings 60 to 85 would hold, and without the
    # widening of few queries 84; `benchmarks/coverage.py` measures more narrowly.
    assert coverage(shape, 150, trainings, training, known) >= 0.9


def test_what_is_not_in_the_interval_is_missed():
    assert coverage(SHAPES["many"], 100, 1, 0.05, known=0) < 0.85, "one training tells nothing about others"


def width(estimate):
    return estimate.ci95[1] - estimate.ci95[0]


def test_the_draws_of_a_query_are_in_the_spread_between_queries():
    """The interval's variance equals that over repetitions, draws and all, and more draws make it smaller."""
    classes, widths, values = np.repeat(np.arange(5), 18), {1: [], 5: []}, {1: [], 5: []}
    for draws in widths:
        for seed in range(60):
            rng = np.random.default_rng([seed, draws])
            level = 0.4 + rng.normal(0, 0.05, 90)
            runs = [answered(level + rng.normal(0, 0.15, 90), classes) for _ in range(draws)]
            found = Estimator(runs[0]).row([pooled(runs)])
            widths[draws].append(width(found) / 2 / 1.99)
            values[draws].append(found.value)
        assert np.mean(widths[draws]) == pytest.approx(np.std(values[draws], ddof=1), rel=0.25)
    assert np.mean(widths[5]) < 0.7 * np.mean(widths[1])


def test_answers_to_single_queries_are_not_counted_as_trainings():
    """Three trainings that differ by chance from query to query alone are as good as one pooled run."""
    rng, classes = np.random.default_rng(0), np.repeat(np.arange(5), 18)
    level = 0.4 + rng.normal(0, 0.02, 90)
    ratios = []
    for _ in range(40):
        runs = [answered(level + rng.normal(0, 0.1, 90), classes) for _ in range(3)]
        estimator = Estimator(runs[0])
        several, one = (estimator._parts([r], 0) for r in (runs, [pooled(runs)]))
        ratios.append(sum(v for v, _ in several) / sum(v for v, _ in one))
    assert 1 <= np.median(ratios) < 1.25


def test_each_fold_has_its_own_trainings():
    shape, by_fold = (9,) * 8, {f"class {c}": c // 2 for c in range(8)}
    a, b = simulated(shape, 3)
    one, four = (Estimator(a[0], fold_of=folds).difference(b, a, training_sd=6.0) for folds in (None, by_fold))
    assert width(four) < 0.7 * width(one)
    rng, runs = np.random.default_rng(1), []
    for _ in range(3):  # folds' trainings that cancel would look like no spread without `fold_of`
        shift = rng.normal(0, 0.1)
        signs = np.repeat([1, -1] * 2, 18)
        runs.append(answered(0.4 + shift * signs + np.tile([0.05, -0.05], 36), np.repeat(np.arange(8), 9)))
    assert width(Estimator(runs[0], fold_of=by_fold).row(runs)) > 1.5 * width(Estimator(runs[0]).row(runs))


def test_questions_about_one_image_stay_together():
    rng, classes = np.random.default_rng(0), np.repeat(np.arange(4), 20)
    level = np.tile(rng.normal(0.4, 0.15, 20), 4)  # each image is asked about four times, with one answer
    together, apart = (answered(level, classes, images) for images in (np.tile(np.arange(20), 4), None))
    assert width(Estimator(together).row([together])) > 1.8 * width(Estimator(apart).row([apart]))


def test_pairing_removes_the_spread_that_both_arms_share():
    a, b = simulated(SHAPES["many"], 2, spread=0.02, gain=0.05)
    estimator = Estimator(a[0])
    assert estimator.difference(b, a).ci95[0] > 0
    assert width(estimator.difference(b, a)) < width(estimator.row(b)) / 2


@pytest.mark.parametrize(
    ("shape", "enough"),
    [
        ((18,) * 5, True),
        ((1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 5, 6, 6, 6, 7, 8), True),
        ((11,), True),
        ((10,), False),
        ((2, *(1,) * 8), False),
        ((1,) * 30, False),
        ((1, 1, 1, 11), False),
        ((1, 1, 6, 6), False),
    ],
)
def test_too_few_queries_give_no_interval(shape, enough):
    a, b = simulated(shape, 0, gain=0.05)
    for found in (Estimator(a[0]).difference(b, a, training_sd=1.0), Estimator(a[0]).row(a)):
        assert (found.ci95 is not None) == enough and np.isfinite(found.value)
    assert (Estimator(a[0]).difference(b, a).p is not None) == enough


def test_few_images_give_no_interval_however_many_questions():
    counts = answered(np.linspace(0.2, 0.6, 50), np.repeat(np.arange(5), 10), np.tile(np.arange(10), 5))
    assert Estimator(counts).row([counts]).ci95 is None


def test_no_spread_gives_no_interval():
    a, b = ([answered(np.full(90, iou), np.repeat(np.arange(5), 18))] for iou in (0.4, 0.5))
    found = Estimator(a[0]).difference(b, a)
    assert found.value == pytest.approx(10) and found.ci95 is None and found.p is None
    assert Estimator(a[0]).row(a).ci95 is None
    known = Estimator(a[0]).difference(b, a, training_sd=2.0)
    assert np.allclose(known.ci95, [10 - 3.92, 10 + 3.92], atol=0.01)


def test_empty_unions_and_rows_of_nothing_have_finite_figures():
    classes = np.repeat(np.arange(5), 18)
    some = answered(np.linspace(0, 0.5, 90), classes, unions=np.where(np.arange(90) % 18 < 16, 0, 500))
    nothing = answered(np.zeros(90), classes)
    for counts in (some, nothing):
        found = Estimator(counts).row([counts], training_sd=1.0)
        assert 0 <= found.ci95[0] <= found.value <= found.ci95[1] <= 100


def test_other_classes_make_the_interval_wider():
    rng, classes = np.random.default_rng(0), np.repeat(np.arange(10), 9)
    gains = rng.normal(0.05, 0.1, 10)[classes]
    a, b = ([answered(0.4 + more + rng.normal(0, 0.1, 90), classes)] for more in (0, gains))
    fixed, both = (Estimator(a[0], over_classes=over).difference(b, a) for over in (False, True))
    assert width(both) > 1.5 * width(fixed) and both.value == fixed.value


def test_holm_corrects_for_the_number_of_claims():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1] and holm([None]) == [None] and holm([]) == []


def test_resamples_keep_the_questions_of_an_image_together():
    counts = answered(np.linspace(0.2, 0.6, 40), np.arange(40) % 4, np.arange(40) // 2)
    weights = Bootstrap(counts, resamples=50)._weights  # [resamples, queries]
    assert (weights[:, ::2] == weights[:, 1::2]).all() and (weights[:, ::2].sum(axis=1) == 20).all()


def test_the_estimator_and_the_widened_bootstrap_agree():
    (counts,), _ = simulated((40,) * 4, 1)
    deviation = Bootstrap(counts).miou(counts).std() * (40 / 39) ** 0.5
    assert width(Estimator(counts).row([counts])) / 2 / 1.98 == pytest.approx(deviation, rel=0.1)


def test_pooling_adds_the_pixels_of_all_runs():
    a, b = (run[0] for run in simulated(SHAPES["many"], 0))
    both = pooled([a, b])
    assert [c.inter for c in both] == [x.inter + y.inter for x, y in zip(a, b, strict=True)]
    assert pooled([a, a, a])[0].iou == a[0].iou
    with pytest.raises(LlafsError, match="same queries"):
        pooled([a, b[1:]])


def test_other_queries_and_other_trainings_are_refused():
    (a,), (b,) = simulated(SHAPES["many"], 0)
    (other,), _ = simulated(SHAPES["few of each class"], 0)
    with pytest.raises(LlafsError, match="same queries"):
        Bootstrap(a).miou(other)
    with pytest.raises(LlafsError, match="same queries"):
        Estimator(a).difference([a], [other])
    with pytest.raises(LlafsError, match="same queries"):
        Estimator(a).row([other])
    with pytest.raises(LlafsError, match="same trainings"):
        Estimator(a).difference([a, a], [b])
