"""Is the class in the image at all? A mask is always drawn, so how far to trust it is a number of its own.

The evidence is how sure the model is where it is surest. A logistic curve turns it into a probability. The curve is
fitted on base classes that are treated as if they were novel, so no annotation of a novel class goes into it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from llafs_lib.errors import LlafsError

TOP_SHARE = 0.01  # of the pixels: the surest ones
_BOUND = 1e-4  # evidence of 0 or 1 has no finite logit


def evidence(probability: np.ndarray) -> float:
    """The mean of the surest hundredth of a probability map [H, W], in [0, 1]; at least one pixel."""
    flat = probability.ravel()
    k = max(int(flat.size * TOP_SHARE), 1)
    return float(np.partition(flat, flat.size - k)[-k:].mean())


@dataclass(frozen=True)
class Presence:
    """confidence = σ(slope · logit(evidence) + intercept)."""

    slope: float
    intercept: float

    def confidence(self, probability: np.ndarray) -> float:
        """How likely it is that the class is there, in [0, 1], for a probability map [H, W]."""
        return float(self.of(evidence(probability)))

    def of(self, evidence: float | np.ndarray) -> np.ndarray:
        """The same from evidence, one or [N]."""
        return expit(self.slope * logit(np.clip(evidence, _BOUND, 1 - _BOUND)) + self.intercept)


def fit_presence(evidence: Sequence[float], present: Sequence[bool]) -> Presence:
    """Fit the likeliest curve. A weak pull of the slope towards 1 keeps it finite on separable data.

    Args:
        evidence: [N] in [0, 1].
        present: [N], whether the class was there. The confidence is calibrated for the share of present classes in
            these data, so it should be the share that is expected later.

    Raises:
        LlafsError: the two differ in length, or all classes were present, or none was.
    """
    x, y = logit(np.clip(np.asarray(evidence, float), _BOUND, 1 - _BOUND)), np.asarray(present, bool)
    if x.shape != y.shape or y.all() or not y.any():
        raise LlafsError("a presence curve needs as many truths as evidence, some present and some absent.")

    def loss(parameters: np.ndarray) -> float:
        z = parameters[0] * x + parameters[1]
        return float(np.logaddexp(0, np.where(y, -z, z)).sum() + 0.5 * (parameters[0] - 1) ** 2)

    slope, intercept = minimize(loss, np.array([1.0, 0.0])).x
    return Presence(float(slope), float(intercept))


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


def calibration_error(confidence: Sequence[float], present: Sequence[bool]) -> float:
    """Expected calibration error in [0, 1], 0 best: how far the share present is from the confidence, on average.

    The answers are sorted into ten bins that hold equally many.
    """
    order = np.argsort(confidence, kind="stable")
    c, y = np.asarray(confidence, float)[order], np.asarray(present, float)[order]
    parts = [p for p in np.array_split(np.arange(len(c)), 10) if len(p)]
    return float(sum(len(p) * abs(c[p].mean() - y[p].mean()) for p in parts) / len(c))
