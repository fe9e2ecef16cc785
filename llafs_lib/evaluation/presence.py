"""Is the class in the image at all? A mask is always drawn, so images are ranked by a score of their own.

The score is the mean of the five highest similarities to the prototypes (foreground minus background), before they are
stretched over the image. It is no probability: it orders images, and `auc` says how well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from torch import Tensor

TOP = 5  # positions of the feature map


def presence_score(similarities: Tensor) -> float:
    """The mean of the `TOP` highest values of `vision.prototype.similarity`, [h, w] → a number in [−2, 2]."""
    flat = similarities.flatten()
    return float(flat.topk(min(TOP, len(flat))).values.mean())


def auc(scores: Sequence[float], present: Sequence[bool]) -> float | None:
    """How well scores tell images with the class from those without: the chance that one with it scores higher.

    Ties count half. 1 is perfect, 0.5 is chance; None if there are only images of one kind.

    Args:
        scores: [N] numbers.
        present: [N], whether the class was there.
    """
    there, values = np.asarray(present, bool), np.asarray(scores, float)
    with_it, without = values[there], np.sort(values[~there])
    if not len(with_it) or not len(without):
        return None
    beaten = [np.searchsorted(without, with_it, side).sum() for side in ("left", "right")]  # with and without ties
    return float(sum(beaten) / 2 / (len(with_it) * len(without)))


def mean_auc(scores: Mapping[str, Sequence[tuple[float, bool]]]) -> float | None:
    """The mean over classes of `auc`; None if no class is in some images and not in others.

    Args:
        scores: class → (score, whether the class is there) of each image.
    """
    found = [auc(*zip(*of_class, strict=True)) for of_class in scores.values() if of_class]
    known = [a for a in found if a is not None]
    return float(np.mean(known)) if known else None


def draw_questions(
    shown: Mapping[int, Collection[str]], classes: Sequence[str], count: int, seed: int
) -> list[tuple[int, str, bool]]:
    """Up to `count` questions (image id, class, is it there?), half of them about classes that are absent.

    Args:
        shown: image id → all classes that it shows, however small.
        classes: to ask about.
    """
    rng = np.random.default_rng(seed)
    there = [(i, c, True) for i, names in shown.items() for c in classes if c in names]
    absent = [(i, c, False) for i, names in shown.items() for c in classes if c not in names]
    half = min(count // 2, len(there), len(absent))
    drawn = [pool[n] for pool in (there, absent) for n in rng.choice(len(pool), half, replace=False)]
    return sorted(drawn)
