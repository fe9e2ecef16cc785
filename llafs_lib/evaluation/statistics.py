"""How sure we are: bootstrap intervals that respect how the queries were drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llafs_lib.evaluation.metrics import ConfusionCounts

Interval = tuple[float, float]


class Bootstrap:
    """Resamples query *pictures*, so that several questions about one picture stay together.

    The same resamples serve every arm: the difference of two arms is a paired one, free of the spread that the choice
    of queries gives both.

    Args:
        counts: those of any arm; all arms must list the same queries in the same order.
        resamples: how many.
        seed: of the resampling.
    """

    def __init__(self, counts: Sequence[ConfusionCounts], resamples: int = 2000, seed: int = 0):
        self.queries = [(c.class_name, c.image_id) for c in counts]
        pictures, picture = np.unique([c.image_id for c in counts], return_inverse=True)
        self.classes, class_index = np.unique([c.class_name for c in counts], return_inverse=True)
        self._one_hot = np.eye(len(self.classes))[class_index]  # [queries, classes]
        rng = np.random.default_rng(seed)
        draws = rng.multinomial(len(pictures), np.full(len(pictures), 1 / len(pictures)), size=resamples)
        self._weights = draws[:, picture]  # [resamples, queries]: how often each query was drawn

    def miou(self, counts: Sequence[ConfusionCounts]) -> np.ndarray:
        """mIoU of one arm in every resample, [resamples], percent. Classes that were not drawn do not count."""
        if [(c.class_name, c.image_id) for c in counts] != self.queries:
            raise ValueError("a paired comparison needs the same queries in the same order in every arm")
        inter = self._weights @ (self._one_hot * np.array([[c.inter] for c in counts]))  # [resamples, classes]
        union = self._weights @ (self._one_hot * np.array([[c.union] for c in counts]))
        drawn = (self._weights @ self._one_hot) > 0
        ious = np.where(drawn, inter / np.maximum(union, 1), np.nan)
        return 100.0 * np.nanmean(ious, axis=1)

    def interval(self, counts: Sequence[ConfusionCounts]) -> Interval:
        """95% interval of one arm's mIoU."""
        return _percentiles(self.miou(counts))

    def paired_interval(self, a: Sequence[ConfusionCounts], b: Sequence[ConfusionCounts]) -> Interval:
        """95% interval of mIoU(a) − mIoU(b) on the same queries."""
        return _percentiles(self.miou(a) - self.miou(b))


def _percentiles(values: np.ndarray) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
