"""How sure we are: intervals of mIoU and of paired differences that include everything that varies.

A class's IoU is the mean of its queries' IoUs, weighted by their unions, and mIoU is the mean over classes. The classes
are fixed. Three things could have come out otherwise:

* **The queries.** Their spread within a class gives the variance of the class's IoU. Questions about one image stay
  together: their deviations are added up before they are squared. A class of n queries shows only (n − 1)/n of its
  variance, and less if one object is much larger than the others. So each deviation is divided by the share that it
  can be expected to show (Bell and McCaffrey, 2002). A class with a single query shows nothing, and is given the mean
  variance of the other classes' queries.
* **The draws of supports.** They are independent from query to query, so the spread between queries holds them already.
  A query's draws are added up beforehand. A level of resampling for draws would count their noise twice.
* **The trainings.** Each fold has its own. The variance between a fold's trainings is added, less what they differ by
  because they answer single queries differently: the spread between queries holds that. One training shows no variance.
  Without a known one (`training_sd`) the interval then says nothing about other trainings.

Nothing is drawn by chance: an interval is the value and Student's quantile times the deviation, for rows on the scale
of log odds, because low rows lean to one side. Few trainings have few degrees of freedom. So the probability of being
farther off is the mean of those that the queries' and the trainings' degrees of freedom give, weighted by variance.

In simulations (`benchmarks/coverage.py`) the intervals hold the truth in 92 to 99 of 100 cases, and in most settings in
93 to 97. A row's truth is the mean over other samples of as many queries. Where large objects are easier, that mean
lies below what ever more queries of each class would give, because the IoU of few queries is hardly weighted. In
differences this cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, stdtr

from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.metrics import ConfusionCounts, miou

FEWEST = 10  # queries beyond one per class, and images beyond one, that an interval needs
Interval = tuple[float, float]
Runs = Sequence[Sequence[ConfusionCounts]]  # one entry per training: counts of the same queries in the same order
Parts = list[tuple[float, float]]  # (variance, its degrees of freedom)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval, in percent or points.

    `ci95` is None where the queries are too few (`Estimator.enough`) or all alike, so that no spread is seen.
    `p` is the two-sided probability of such a difference if there were none: below 0.05 exactly where the interval
    excludes 0. It is None without an interval, and for rows.
    """

    value: float
    ci95: Interval | None
    p: float | None


class Estimator:
    """Estimates rows and paired differences from the counts of the same queries.

    `enough` says whether the queries can carry an interval: there must be ten more of them than classes, more than ten
    images, and more classes with several queries than with a single one.

    Args:
        counts: those of any arm, to know the queries.
        over_classes: the interval says how it would be with other images *and* other classes.
        fold_of: class → fold; without it all classes belong to one.
    """

    def __init__(
        self,
        counts: Sequence[ConfusionCounts],
        over_classes: bool = False,
        fold_of: Mapping[str, int] | None = None,
    ):
        self.queries, self._over_classes = queries_of(counts), over_classes
        classes, self._class = np.unique([name for name, _ in self.queries], return_inverse=True)  # _class: [queries]
        self._image = np.unique([image for _, image in self.queries], return_inverse=True)[1]  # [queries]
        fold_of_class = np.unique([fold_of[name] if fold_of else 0 for name in classes], return_inverse=True)[1]
        self._fold = fold_of_class[self._class]  # [queries]
        self._share = np.bincount(fold_of_class) / len(classes)  # [folds], of the classes
        self._members = [np.flatnonzero(self._class == c) for c in range(len(classes))]
        several = sum(len(own) > 1 for own in self._members)
        beyond = min(len(self.queries) - len(classes), self._image.max())
        self.enough = bool(beyond >= FEWEST and several > len(classes) / 2)

    def row(self, runs: Runs, training_sd: float = 0.0) -> Estimate:
        """mIoU of one arm, its trainings pooled.

        Args:
            runs: counts by training, each with the estimator's queries in their order.
            training_sd: of one fold's mIoU from training to training, in points, if known. It counts where there is one
                training; several show their own.

        Raises:
            LlafsError: other queries, or in another order.
        """
        value, parts = miou(pooled(runs)), self._parts([runs], training_sd)
        if not parts:
            return Estimate(value, None, None)
        half = _half(parts)
        if not 0 < value < 100:
            return Estimate(value, (max(value - half, 0.0), min(value + half, 100.0)), None)
        share = value / 100
        low, high = expit(logit(share) + np.array([-half, half]) / 100 / (share * (1 - share))) * 100
        return Estimate(value, (float(low), float(high)), None)

    def difference(self, a_runs: Runs, b_runs: Runs, training_sd: float = 0.0) -> Estimate:
        """mIoU(a) − mIoU(b) of the same queries and trainings; arguments and errors as in `row`."""
        value, parts = miou(pooled(a_runs)) - miou(pooled(b_runs)), self._parts([a_runs, b_runs], training_sd)
        if not parts:
            alike = self.enough and value == 0
            return Estimate(value, (0.0, 0.0) if alike else None, 1.0 if alike else None)
        half = _half(parts)
        return Estimate(value, (value - half, value + half), _beyond(abs(value), parts))

    def _parts(self, arms: Sequence[Runs], training_sd: float) -> Parts:
        """What the variance of a row, or of the first row minus the second, is made of; empty if none is to be seen."""
        if not self.enough:
            return []
        if len({len(runs) for runs in arms}) > 1:
            raise LlafsError("a paired comparison needs the same trainings in both arms.")
        (deviations, ious), *others = [self._deviations(runs) for runs in arms]
        for other, other_ious in others:
            deviations, ious = deviations - other, ious - other_ious
        weights = np.mean([self._weights(runs) for runs in arms], axis=0)  # [queries]
        n = len(deviations)
        of_queries = deviations.sum(axis=0)  # [queries]
        if self._over_classes:
            first = self._of_classes(of_queries, ious, weights)
        else:
            first = float(self._variance(of_queries, weights)), self._freedom(weights)
        squares = self._share**2  # [folds]
        if n == 1:
            trainings = training_sd**2 * squares.sum(), np.inf
        else:
            answers = deviations - weights * self._in_class(deviations) - of_queries / n  # to single queries
            of_trainings = (_sums(deviations, self._fold) ** 2).sum() - self._variance(answers, weights).sum()
            freedom = (n - 1) * squares.sum() ** 2 / (squares**2).sum()
            trainings = max(float(of_trainings), 0.0) * n / (n - 1), freedom
        return [part for part in (first, trainings) if part[0] > 0]

    def _pixels(self, runs: Runs, part: str) -> np.ndarray:
        if any(queries_of(run) != self.queries for run in runs):
            raise LlafsError("a comparison needs the same queries in the same order in every arm.")
        return np.array([[getattr(c, part) for c in run] for run in runs], float)  # [trainings, queries]

    def _weights(self, runs: Runs) -> np.ndarray:
        """Each query's share of its class's union, [queries]."""
        union = self._pixels(runs, "union").sum(axis=0)
        return union / np.maximum(self._in_class(union), 1)

    def _deviations(self, runs: Runs) -> tuple[np.ndarray, np.ndarray]:
        """The points of mIoU that each answer adds to its class's, [trainings, queries], and the IoUs, [queries]."""
        inter, union = self._pixels(runs, "inter"), self._pixels(runs, "union")
        of_class = np.maximum(self._in_class(union.sum(axis=0)), 1)  # [queries]
        iou = self._in_class(inter.sum(axis=0)) / of_class  # [queries], of the query's class
        return 100 * (inter - iou * union) / of_class / len(self._members), 100 * iou

    def _variance(self, deviations: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Variance of mIoU that the queries' deviations [..., queries] show, [...]."""
        shown, alone, borrowed = self._shown(weights)
        scaled = np.where(alone, 0, deviations / np.sqrt(np.where(alone, 1, shown)))
        each = np.where(alone | (weights == 0), 0, deviations / np.where(weights == 0, 1, weights))
        return (_sums(scaled, self._image) ** 2).sum(axis=-1) + borrowed * (each**2).sum(axis=-1)

    def _shown(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """The share of its variance that each query shows; which show nothing; these, per query that shows its own."""
        shown = 1 - 2 * weights + self._in_class(weights**2)  # 1 − 1/n for n equal weights
        alone = shown < 1e-9
        return shown, alone, alone.sum() / max(shown[~alone].sum(), 1e-9)

    def _freedom(self, weights: np.ndarray) -> float:
        """Degrees of freedom of `_variance`, were all queries equally uncertain; at most those of the images."""
        shown, alone, borrowed = self._shown(weights)
        factor = np.where(alone, 0, weights**2 / np.where(alone, 1, shown) + borrowed)
        trace = squares = 0.0
        for own in self._members:
            w = weights[own]
            form = factor[own] * (np.eye(len(own)) - w[:, None] - w + (w**2).sum())  # [n, n]
            trace, squares = trace + np.trace(form), squares + (form * form.T).sum()
        return min(trace**2 / squares, float(self._image.max()))

    def _of_classes(self, deviations: np.ndarray, ious: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
        """The variance between classes, which holds that of their queries, and what classes share by their images."""
        n = len(self._members)
        between = np.var([ious[own[0]] for own in self._members], ddof=1) / n
        shared = (_sums(deviations, self._image) ** 2).sum() - (deviations**2).sum()
        return max(float(between + shared), float(self._variance(deviations, weights))), n - 1.0

    def _in_class(self, values: np.ndarray) -> np.ndarray:
        """The sum over the query's class, for values [..., queries]."""
        return _sums(values, self._class)[..., self._class]


def _sums(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sums of the values [..., n] that share a label, [..., labels]."""
    return np.apply_along_axis(lambda row: np.bincount(labels, row), -1, values)


def _beyond(distance: float, parts: Parts) -> float:
    """The probability of lying farther off than `distance`, on either side."""
    variance = sum(part for part, _ in parts)
    each = [part / variance * 2 * stdtr(freedom, -distance / variance**0.5) for part, freedom in parts]
    return float(min(sum(each), 1.0))


def _half(parts: Parts) -> float:
    """Half the 95% interval: the distance that is exceeded in 5 of 100 cases, found by halving."""
    low, high = 0.0, 100 * sum(part for part, _ in parts) ** 0.5  # of one degree of freedom it is 12.7 deviations
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _beyond(middle, parts) > 0.05 else (low, middle)
    return high


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values corrected for their number (Holm, 1979), in their order; None stays None and is not counted."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = corrected[i] = max(highest, min(p * (len(known) - rank), 1.0))
    return corrected


class Bootstrap:
    """Resamples query images, to be looked at; `Estimator` needs no resamples.

    The same resamples serve every arm. The difference of two arms is therefore a paired one: the spread that the choice
    of queries gives to both of them cancels.

    Args:
        counts: those of any arm; all arms must list the same queries in the same order.
    """

    def __init__(self, counts: Sequence[ConfusionCounts], resamples: int = 2000, seed: int = 0):
        self.queries = queries_of(counts)
        images, image = np.unique([c.image_id for c in counts], return_inverse=True)
        self.classes, class_index = np.unique([c.class_name for c in counts], return_inverse=True)
        self._one_hot = np.eye(len(self.classes))[class_index]  # [queries, classes]
        drawn = np.random.default_rng(seed).multinomial(len(images), np.full(len(images), 1 / len(images)), resamples)
        self._weights = drawn[:, image]  # [resamples, queries], how often each was drawn

    def class_ious(self, counts: Sequence[ConfusionCounts]) -> np.ndarray:
        """IoU of each class in every resample, [resamples, classes], percent.

        A class keeps its observed IoU in a resample that drew none of its queries.

        Raises:
            LlafsError: other queries than the bootstrap's, or in another order.
        """
        if queries_of(counts) != self.queries:
            raise LlafsError("a paired comparison needs the same queries in the same order in every arm.")
        inter = self._one_hot * np.array([[c.inter] for c in counts])  # [queries, classes]
        union = self._one_hot * np.array([[c.union] for c in counts])
        resampled = 100.0 * (self._weights @ inter) / np.maximum(self._weights @ union, 1)  # [resamples, classes]
        observed = 100.0 * inter.sum(axis=0) / np.maximum(union.sum(axis=0), 1)  # [classes]
        return np.where(self._weights @ self._one_hot > 0, resampled, observed)

    def miou(self, counts: Sequence[ConfusionCounts]) -> np.ndarray:
        """mIoU of one arm in every resample, [resamples], percent."""
        return self.class_ious(counts).mean(axis=1)


def queries_of(counts: Sequence[ConfusionCounts]) -> list[tuple[str, int]]:
    """The (class, image id) of each query, in order."""
    return [(c.class_name, c.image_id) for c in counts]


def pooled(runs: Runs) -> list[ConfusionCounts]:
    """Several runs' answers to the same queries as one: the pixels of all runs are added up.

    Raises:
        LlafsError: the runs were not asked the same queries in the same order.
    """
    if any(queries_of(run) != queries_of(runs[0]) for run in runs):
        raise LlafsError("only answers to the same queries, in the same order, can be pooled.")
    parts = ("inter", "union", "inter_bg", "union_bg")
    return [
        ConfusionCounts(same[0].class_name, same[0].image_id, *(sum(getattr(c, part) for c in same) for part in parts))
        for same in zip(*runs, strict=True)
    ]
