"""Intersection over union, as the field counts it (spec §3.8). All figures are in percent.

No metric here looks at borders, and none has a size of its own: `count` compares masks at the size they come in, and
`squashed` brings a mask to the square at which HSNet's figures are counted. `curve` counts a score map at every
threshold at once, so that a threshold can be chosen afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llafs_lib.errors import LlafsError

STEPS = 100  # a curve has the thresholds 0, 1 / STEPS, … 1


@dataclass(frozen=True)
class ConfusionCounts:
    """The pixels that one prediction and one truth share: all that any metric here needs.

    `inter` and `union` count the foreground, `inter_bg` and `union_bg` the background.
    """

    class_name: str
    image_id: int
    inter: int
    union: int
    inter_bg: int
    union_bg: int

    @property
    def iou(self) -> float:
        """Foreground IoU of this one query, 0 (disjoint) to 100 (equal); 100 if both are empty."""
        return 100.0 * self.inter / self.union if self.union else 100.0


def count(
    prediction: np.ndarray,
    truth: np.ndarray,
    class_name: str = "",
    image_id: int = 0,
    void: np.ndarray | None = None,
) -> ConfusionCounts:
    """Compare two masks [H, W] bool; the pixels of `void` [H, W] bool are not looked at (spec §3.8).

    Raises:
        LlafsError: their sizes differ, or every pixel is void.
    """
    _check(prediction, truth, void, image_id)
    pixels = truth.size
    if void is not None and void.any():
        prediction, truth, pixels = prediction & ~void, truth & ~void, pixels - int(np.count_nonzero(void))
    inter, union = (int(np.count_nonzero(m)) for m in (prediction & truth, prediction | truth))
    return ConfusionCounts(class_name, image_id, inter, union, pixels - union, pixels - inter)


def _check(answer: np.ndarray, truth: np.ndarray, void: np.ndarray | None, image_id: int) -> None:
    if void is not None and void.all():
        raise LlafsError(f"every pixel of query {image_id} is void, so there is nothing to score: leave the query out.")
    if answer.shape != truth.shape:
        raise LlafsError(
            f"query {image_id}: the answer is {answer.shape}, the truth {truth.shape}. Bring them to the same size."
        )


@dataclass(frozen=True)
class Curve:
    """One score map's counts at every threshold: `inter` and `union` [STEPS + 1], of `pixels` that are not void."""

    class_name: str
    image_id: int
    inter: np.ndarray
    union: np.ndarray
    pixels: int

    def at(self, threshold: float) -> ConfusionCounts:
        """The counts of the mask `scores >= threshold`, for a threshold in [0, 1] that is a multiple of 1 / STEPS."""
        step = round(threshold * STEPS)
        inter, union = int(self.inter[step]), int(self.union[step])
        return ConfusionCounts(self.class_name, self.image_id, inter, union, self.pixels - union, self.pixels - inter)


def curve(
    scores: np.ndarray, truth: np.ndarray, class_name: str = "", image_id: int = 0, void: np.ndarray | None = None
) -> Curve:
    """Compare a score map [H, W] in [0, 1] with a mask [H, W] bool at every threshold.

    Raises:
        LlafsError: their sizes differ, or every pixel is void.
    """
    _check(scores, truth, void, image_id)
    level = (scores * STEPS).astype(np.int64)  # the highest threshold that each pixel reaches
    level[truth] += STEPS + 1  # so that one count serves both
    if void is not None and void.any():
        level = level[~void]
    counts = np.bincount(level.ravel(), minlength=2 * STEPS + 2).reshape(2, -1)  # [2, STEPS + 1]
    rest, inter = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    return Curve(class_name, image_id, inter, rest + inter[0], level.size)


def best_threshold(curves: Sequence[Curve]) -> float:
    """The threshold in [0, 1] with the highest mIoU, the lowest of several that are equally good.

    A threshold is a setting, so choose it on queries that no result is reported of: those of base classes, say. Curves
    that each name a class of their own weigh the same.

    Raises:
        LlafsError: no truth has foreground.
    """
    if not any(c.inter[0] for c in curves):
        raise LlafsError("a threshold needs score maps with truths, some of them not empty.")
    return int(np.argmax([miou([c.at(step / STEPS) for c in curves]) for step in range(STEPS + 1)])) / STEPS


def squashed(mask: np.ndarray, side: int = 400) -> np.ndarray:
    """A mask [H, W] bool on a square of `side` px, [side, side]: each place takes the nearest pixel.

    HSNet squashes every image to 400 × 400 and scores there. Long objects count differently in a squashed image, so
    the figures of the two sizes cannot be compared. (HSNet resizes logits where this resizes the mask, so borders may
    differ by a pixel.)
    """
    height, width = mask.shape
    rows, columns = (((np.arange(side) + 0.5) * n / side).astype(int) for n in (height, width))
    return mask.take(rows, axis=0).take(columns, axis=1)


def class_ious(counts: Sequence[ConfusionCounts]) -> dict[str, float]:
    """Per class: summed intersections over summed unions, 0 (disjoint) to 100 (equal).

    Large objects weigh more than small ones. The counts of disjoint sets of queries add up, and no mean of means is
    taken.
    """
    sums: dict[str, list[int]] = {}
    for c in counts:
        total = sums.setdefault(c.class_name, [0, 0])
        total[0] += c.inter
        total[1] += c.union
    return {name: 100.0 * inter / max(union, 1) for name, (inter, union) in sums.items()}


def miou(counts: Sequence[ConfusionCounts]) -> float:
    """Mean of `class_ious` over the classes that were asked about, 0 to 100.

    Best 100, worst 0. By chance: marking every pixel scores each class's share of its images, and marking a random
    half of them scores a little less.
    """
    return float(np.mean(list(class_ious(counts).values())))


def fb_iou(counts: Sequence[ConfusionCounts]) -> float:
    """Mean of foreground and background IoU, pooled over all queries and classes, 0 to 100.

    Best 100, worst 0. It flatters: marking nothing scores half of the background's share, which is more than 40 as a
    rule, and no single class can pull it down.
    """
    foreground = sum(c.inter for c in counts) / max(sum(c.union for c in counts), 1)
    background = sum(c.inter_bg for c in counts) / max(sum(c.union_bg for c in counts), 1)
    return 50.0 * (foreground + background)


def marked_where_absent(counts: Sequence[ConfusionCounts]) -> float:
    """The false-positive rate: the mean share of an image that is marked although the class is not in it.

    0 best, 100 worst (every pixel of every image); guessing each pixel with probability p gives 100 p.

    Args:
        counts: of queries about absent classes, against empty truths.

    Raises:
        LlafsError: there are none, or one has foreground in common with its truth, so that its class was there.
    """
    if not counts or any(c.inter for c in counts):
        raise LlafsError("a false-positive rate needs queries about classes that are absent: leave out those present.")
    return 100.0 * float(np.mean([c.union / max(c.union + c.inter_bg, 1) for c in counts]))
