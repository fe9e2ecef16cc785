"""Intersection over union, as the field counts it (spec §3.8). All figures are in percent points."""

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
    if void is not None:
        prediction, truth = prediction[~void], truth[~void]
    inter, union = int((prediction & truth).sum()), int((prediction | truth).sum())
    return ConfusionCounts(class_name, image_id, inter, union, truth.size - union, truth.size - inter)


def class_ious(counts: Sequence[ConfusionCounts]) -> dict[str, float]:
    """Per class: summed intersections over summed unions, 0 to 100. Large objects weigh more than small ones."""
    sums: dict[str, list[int]] = {}
    for c in counts:
        total = sums.setdefault(c.class_name, [0, 0])
        total[0] += c.inter
        total[1] += c.union
    return {name: 100.0 * inter / max(union, 1) for name, (inter, union) in sums.items()}


def miou(counts: Sequence[ConfusionCounts]) -> float:
    """Mean of `class_ious` over the classes that were asked about, 0 to 100.

    Best 100, worst 0; marking every pixel scores each class's mean share of its pictures.
    """
    return float(np.mean(list(class_ious(counts).values())))


def fb_iou(counts: Sequence[ConfusionCounts]) -> float:
    """Mean of foreground and background IoU, pooled over all queries and classes, 0 to 100.

    Marking nothing already scores about half of the background's share: a flattering metric.
    """
    foreground = sum(c.inter for c in counts) / max(sum(c.union for c in counts), 1)
    background = sum(c.inter_bg for c in counts) / max(sum(c.union_bg for c in counts), 1)
    return 50.0 * (foreground + background)
