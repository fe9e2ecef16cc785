"""Intersection over union, as the field counts it (spec §3.8). All figures are in percent points.

No metric here looks at borders, and none has a size of its own: `count` compares masks at the size they come in,
`squashed` brings one to the square at which HSNet's figures are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ConfusionCounts:
    """Pixels of one prediction against one truth: all that any metric here needs.

    `inter` and `union` are those of the foreground; `inter_bg` and `union_bg` those of the background.
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
        ValueError: their sizes differ, or every pixel is void.
    """
    if void is not None and void.all():
        raise ValueError(f"every pixel of query {image_id} is void: there is nothing to score")
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} must have the same size")
    pixels = truth.size
    if void is not None and void.any():
        prediction, truth, pixels = prediction & ~void, truth & ~void, pixels - int(np.count_nonzero(void))
    inter, union = (int(np.count_nonzero(m)) for m in (prediction & truth, prediction | truth))
    return ConfusionCounts(class_name, image_id, inter, union, pixels - union, pixels - inter)


def squashed(mask: np.ndarray, side: int = 400) -> np.ndarray:
    """A mask [H, W] bool on a square of `side` px, [side, side], each place taking the nearest pixel.

    HSNet squashes every image to 400 × 400 and scores there. Long objects count differently in a squashed image, so
    figures of the two sizes do not compare. (HSNet resizes logits where this resizes the mask: borders may differ by a
    pixel.)
    """
    height, width = mask.shape
    rows, columns = (((np.arange(side) + 0.5) * n / side).astype(int) for n in (height, width))
    return mask.take(rows, axis=0).take(columns, axis=1)


def class_ious(counts: Sequence[ConfusionCounts]) -> dict[str, float]:
    """Per class: summed intersections over summed unions, 0 (disjoint) to 100 (equal).

    Large objects weigh more than small ones. Counts of disjoint sets of queries add up: no mean of means is taken.
    """
    sums: dict[str, list[int]] = {}
    for c in counts:
        total = sums.setdefault(c.class_name, [0, 0])
        total[0] += c.inter
        total[1] += c.union
    return {name: 100.0 * inter / max(union, 1) for name, (inter, union) in sums.items()}


def miou(counts: Sequence[ConfusionCounts]) -> float:
    """Mean of `class_ious` over the classes that were asked about, 0 to 100.

    Best 100, worst 0. Chance: marking every pixel scores each class's share of its images, marking a random half of
    them a little less.
    """
    return float(np.mean(list(class_ious(counts).values())))


def fb_iou(counts: Sequence[ConfusionCounts]) -> float:
    """Mean of foreground and background IoU, pooled over all queries and classes, 0 to 100.

    Best 100, worst 0. Chance: marking nothing scores half of the background's share, more than 40 as a rule, and no
    class can pull it down: a flattering metric.
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
        ValueError: one of them has foreground in common with its truth, so the class was there; or there are none.
    """
    if not counts or any(c.inter for c in counts):
        raise ValueError("a false-positive rate needs queries about classes that are absent")
    return 100.0 * float(np.mean([c.union / max(c.union + c.inter_bg, 1) for c in counts]))
