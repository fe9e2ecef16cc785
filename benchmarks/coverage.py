"""How often the 95% intervals of `Estimator` hold the truth, on simulated pixel counts: a table in Markdown.

    python benchmarks/coverage.py --rounds 500

Each round draws images, objects, supports and trainings anew, and estimates four figures: the row of an arm whose
supports are drawn by chance (`random`), that of one whose supports are not (`llm`), their difference, and the null
difference of two sets of draws of the first arm. The IoU of an answer is the sum of the effects in `answers`, clipped
to 0 to 1. Sizes and spreads are like those that HSNet, RePRI and prototypes showed on coco-mini: the logarithm of an
area deviates by 0.8, the IoU of a class's queries by 0.17, and at rows near 10 two in five IoUs are 0.

The last lines are about the null test of a sweep, in which ten pairs of five draws are compared in every fold.

The truth of a difference is that of ever more queries of each class. The truth of a row is the mean over all rounds,
that is, over samples of as many queries; the last column says how much more ever more queries would give.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from llafs_lib.evaluation.metrics import ConfusionCounts
from llafs_lib.evaluation.statistics import Estimate, Estimator, Interval

Counts = tuple[np.ndarray, np.ndarray]  # inter and union, each [trainings, queries]

TOY = ((18, 18, 18, 19, 19),)  # queries of each class, by fold
COCO_MINI = (
    (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 4, 8, 8, 16, 58),
    (1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 5, 6, 6, 6, 7, 8, 8),
    (1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 6, 6, 12),
    (1, 1, 1, 1, 1, 2, 3, 3, 4, 5, 5, 7, 8),
)


@dataclass(frozen=True)
class Setting:
    """What is simulated. `level` is the IoU of a middling class, `gain` what the llm arm has more."""

    name: str
    folds: tuple[tuple[int, ...], ...]
    trainings: int = 1
    level: float = 0.35
    gain: float = 0.08
    sizes: float = 0.8  # deviation of the logarithm of objects' areas within a class
    draws: int = 5
    draw: float = 0.12  # deviation from draw to draw; the others stand in `answers`
    sets: int = 2  # of draws of the first arm
    training: float = 0.02

    @property
    def of_class(self) -> np.ndarray:
        """The class of each query, [queries]."""
        queries = np.concatenate(self.folds)
        return np.repeat(np.arange(len(queries)), queries)

    @property
    def of_fold(self) -> np.ndarray:
        """The fold of each query, [queries]."""
        return np.repeat(np.arange(len(self.folds)), [sum(fold) for fold in self.folds])

    @property
    def levels(self) -> np.ndarray:
        """The IoU of each class, [classes]; the same in every round."""
        return self.level + np.random.default_rng(1).normal(0, 0.12, sum(map(len, self.folds)))


LOW = {"level": 0.0, "gain": 0.05}
SETTINGS = (
    Setting("toy", TOY),
    Setting("toy", TOY, 3),
    Setting("toy, trainings differ twice as much", TOY, 3, training=0.04),
    Setting("toy, low rows", TOY, **LOW),
    Setting("toy, one draw that matters twice as much", TOY, draws=1, draw=0.24),
    Setting("toy, very unequal objects", TOY, sizes=1.5),
    Setting("a fold of coco-mini", COCO_MINI[1:2]),
    Setting("a fold of coco-mini", COCO_MINI[1:2], 3),
    Setting("another, low rows", COCO_MINI[2:3], **LOW),
    Setting("all of coco-mini", COCO_MINI),
    Setting("all of coco-mini", COCO_MINI, 3),
    Setting("all of coco-mini, low rows", COCO_MINI, 3, **LOW),
    Setting("all of coco-mini, very unequal objects", COCO_MINI, 3, sizes=1.5),
    Setting("one class, the fewest queries", ((11,),)),
    Setting("ten classes, the fewest queries", ((2,) * 10,)),
)


# The null test of a sweep on coco-mini: four models, two numbers of supports, and in each fold five draws. Levels and
# draws are set so that half an interval is 4 to 9 points, 6 on average, as it is on the photographs (5 to 7, 6 on
# average). Here the models have draws of their own; there they share them, so chance may do more.
NULLS = tuple(
    Setting("null test", (fold,), level=level, draws=1, draw=draw, sets=5)
    for fold in COCO_MINI
    for level in (0.0, 0.0, 0.05, 0.1)
    for draw in (0.2, 0.12)
)


def answers(
    setting: Setting,
    rng: np.random.Generator,
    level: np.ndarray,
    image: np.ndarray,
    fold: np.ndarray,
    name: np.ndarray,
    trainings: int,
) -> list[Counts]:
    """The pooled counts of the arms random, random drawn again (as often as there are sets of draws), and llm.

    Args:
        level, image, fold, name: of each query, [queries]: its class's IoU, and the numbers of its image, of its
            trainings and of its class.
    """
    n, images, shape = len(level), image.max() + 1, (trainings, fold.max() + 1)
    pixels = np.exp(rng.normal(12, 0.4, images))[image]  # [queries], of the image
    size = rng.normal(0, setting.sizes, n)
    area = pixels * np.minimum(0.1 * np.exp(size), 0.9)
    of_query = level + 0.05 * np.clip(size, -2, 2) + rng.normal(0, 0.1, images)[image] + rng.normal(0, 0.1, n)
    of_training = rng.normal(0, setting.training, shape)  # for both arms
    found = []
    for gain, draw, draws, times in ((0.0, setting.draw, setting.draws, setting.sets), (setting.gain, 0.0, 1, 1)):
        of_arm = of_training + rng.normal(0, setting.training, shape)  # [trainings, folds]
        of_name = rng.normal(0, setting.training, (*shape, name.max() + 1))
        own = rng.normal(0, 0.1, n)  # of the arm
        mean = of_query + gain + own + of_arm[:, fold] + of_name[:, fold, name]  # [trainings, queries]
        for _ in range(times):
            of_draw = rng.normal(0, draw, (draws, 1, n))  # the same for all trainings
            iou = np.clip(mean + of_draw + rng.normal(0, 0.05, (draws, trainings, n)), 0, 1)
            union = np.minimum(area * 2 / (1 + iou), pixels)  # as many pixels are marked as the object has
            found.append(((iou * union).sum(axis=0), union.sum(axis=0)))
    return found


def limit(setting: Setting, queries: int = 20_000) -> np.ndarray:
    """mIoU of the three arms with ever more queries and trainings, [3]."""
    rng, each, one = np.random.default_rng(2), np.arange(queries), np.zeros(queries, int)
    found = [answers(setting, rng, np.full(queries, level), each, each, one, 1) for level in setting.levels]
    return np.mean([[100 * inter.sum() / union.sum() for inter, union in arms] for arms in found], axis=0)


def training_sds(setting: Setting, queries: int = 200) -> tuple[float, float]:
    """The deviation of one fold's row and difference from training to training, in points."""
    classes = len(setting.folds[0])
    name = np.repeat(np.arange(classes), queries)
    one, rng = np.zeros(len(name), int), np.random.default_rng(3)
    random, _, llm = (
        100 * np.mean([i[:, name == c].sum(axis=1) / u[:, name == c].sum(axis=1) for c in range(classes)], axis=0)
        for i, u in answers(setting, rng, setting.levels[name], np.arange(len(name)), one, name, 200)
    )
    return llm.std(), (llm - random).std()


def estimates(setting: Setting, rounds: int) -> Iterator[list[Estimate]]:
    """Round by round: the difference, the null difference, the rows random and llm."""
    rng = np.random.default_rng(zlib.crc32(repr(setting).encode()))  # settings of one shape do not share their luck
    name, fold, image = setting.of_class, setting.of_fold, images_of(setting, rng)
    of_row, of_difference = training_sds(setting) if setting.trainings == 1 else (0.0, 0.0)
    queries = [(f"class {c}", i) for c, i in zip(name, image.tolist(), strict=True)]
    estimator = None
    for _ in range(rounds):
        arms = answers(setting, rng, setting.levels[name], image, fold, name, setting.trainings)
        random, again, llm = ([as_counts(queries, *run) for run in zip(*arm, strict=True)] for arm in arms)
        fold_of = dict(zip([c for c, _ in queries], fold.tolist(), strict=True))
        estimator = estimator or Estimator(random[0], fold_of=fold_of)
        differences = estimator.difference(llm, random, of_difference), estimator.difference(again, random)
        yield [*differences, estimator.row(random, of_row), estimator.row(llm, of_row)]


def images_of(setting: Setting, rng: np.random.Generator) -> np.ndarray:
    """The number of each query's image, [queries]: an image is asked about once, or twice for different classes."""
    name = setting.of_class
    place = rng.permutation(len(name))
    before = name[np.argsort(place)[place - 1]]  # the class of the query at the place before
    return np.unique(place - ((place % 4 == 1) & (before != name)), return_inverse=True)[1]


def null_intervals(setting: Setting, rng: np.random.Generator) -> list[Interval]:
    """The intervals of the differences between any two sets of draws of one arm."""
    name, image = setting.of_class, images_of(setting, rng)
    queries = [(f"class {c}", i) for c, i in zip(name, image.tolist(), strict=True)]
    *sets, _ = answers(setting, rng, setting.levels[name], image, setting.of_fold, name, 1)
    counts = [as_counts(queries, inter[0], union[0]) for inter, union in sets]
    return [Estimator(a).difference([b], [a]).ci95 for a, b in combinations(counts, 2)]


def shares_of_nulls(rounds: int) -> np.ndarray:
    """Round by round, [rounds]: the percentage of the intervals of a sweep's null test that hold zero."""
    rng = np.random.default_rng(4)
    held = [[[low <= 0 <= high for low, high in null_intervals(s, rng)] for s in NULLS] for _ in range(rounds)]
    return 100 * np.mean(held, axis=(1, 2))


def as_counts(queries: list[tuple[str, int]], inter: np.ndarray, union: np.ndarray) -> list[ConfusionCounts]:
    """Counts of one training."""
    pixels = zip(queries, inter.tolist(), union.tolist(), strict=True)
    return [ConfusionCounts(*query, round(i), round(u), 0, 1) for query, i, u in pixels]


def covered(setting: Setting, rounds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each figure in `estimates`, [4]: the percentage of intervals that hold its truth, its truth, its limit."""
    found = list(estimates(setting, rounds))
    values = np.array([[e.value for e in four] for four in found])  # [rounds, 4]
    ends = np.array([[e.ci95 for e in four] for four in found])  # [rounds, 4, 2]
    random, _, llm = limit(setting)
    limits = np.array([llm - random, 0.0, random, llm])
    truths = np.array([*limits[:2], *values.mean(axis=0)[2:]])
    return 100 * ((ends[..., 0] <= truths) & (truths <= ends[..., 1])).mean(axis=0), truths, limits


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500)
    rounds = parser.parse_args().rounds
    print(f"Each percentage is of {rounds} rounds. Its own deviation is {100 * (0.95 * 0.05 / rounds) ** 0.5:.1f}.\n")
    print(
        "| simulated | queries / classes | trainings | rows | difference | null difference | rows | more in the limit |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for s in SETTINGS:
        held, truths, limits = covered(s, rounds)
        shape = f"{len(s.of_class)} / {len(s.levels)} | {s.trainings} | {truths[2]:.0f}, {truths[3]:.0f}"
        lean = f"{limits[2] - truths[2]:+.1f}, {limits[3] - truths[3]:+.1f}"
        print(
            f"| {s.name} | {shape} | {held[0]:.1f} | {held[1]:.1f} | {held[2]:.1f}, {held[3]:.1f} | {lean} |",
            flush=True,
        )
    shares = shares_of_nulls(rounds)
    less = ", ".join(f"{q}% of the rounds have less than {np.percentile(shares, q):.1f}%" for q in (5, 10, 50))
    print(f"\nNull test of a sweep: zero lies in {shares.mean():.1f}% of {10 * len(NULLS)} intervals; {less}.")


if __name__ == "__main__":
    main()
