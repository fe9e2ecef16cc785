"""How well does a support fit? Class relation, visual similarity and support quality, each in its own function.

`llafs_lib.retrieval.policies` multiplies those that a policy goes by.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llafs_lib.records import RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank

GOOD_AREA = 0.10  # a mask that covers this share of its image, or more, is as good as any
BLOCK = 65_536  # rows that are looked at together, so that memory does not grow with the bank


def relation_term(bank: SupportBank, rows: np.ndarray, scores: Mapping[str, float]) -> np.ndarray:
    """How much each row's class looks like the query class, [M] in [0, 1]; 0 for classes that were not named.

    Args:
        scores: class → relation in [0, 1], as `RelatedClasses.scores` gives it.
    """
    by_class = np.array([scores.get(c, 0.0) for c in bank.classes])
    return by_class[bank.class_index[rows]]


def visual_term(bank: SupportBank, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """How much each row's foreground looks like the query image, [M] in [0, 1]: (1 + cosine) / 2.

    Args:
        query: unit vector [C] of the whole query image, because we do not know yet where the object is.
    """
    cosine = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        inside = bank.foreground[_as_slice(rows[block])]
        cosine[block] = inside @ query / np.maximum(np.sqrt(np.einsum("nc,nc->n", inside, inside)), 1e-12)
    return (1 + cosine) / 2


def quality_term(bank: SupportBank, rows: np.ndarray) -> np.ndarray:
    """How useful each row's mask is, [M] in [0, 1]: small objects leave few cells to compare with."""
    return np.minimum(bank.area[rows] / GOOD_AREA, 1.0)


def by_looks(bank: SupportBank, class_name: str, most: int = 5) -> RelatedClasses:
    """The classes of a bank whose foregrounds look most like those of `class_name`, which must be one of them.

    It needs annotated images of the class, so it serves to calibrate and to compare, not to segment a new class. Scores
    are cosines in (0, 1] of the classes' mean foregrounds, each relative to the mean of all classes. Where none is
    positive, the nearest class stands alone.
    """
    rows = [bank.rows_of(name) for name in bank.classes]
    means = np.stack([_mean_foreground(bank, r) for r in rows])  # [classes, C]
    known = np.array([len(r) > 0 for r in rows])
    means[known] -= means[known].mean(axis=0)
    unit = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit[bank.classes.index(class_name)]
    others = [n for n in np.argsort(-cosine, kind="stable") if known[n] and bank.classes[n] != class_name]
    alike = [n for n in others if cosine[n] > 0][:most] or others[:1]
    ranked = tuple(RelatedClass(bank.classes[n], float(np.clip(cosine[n], 0.01, 1.0))) for n in alike)
    return RelatedClasses(class_name, ranked, "looks", "likeness of the supports' features")


def _mean_foreground(bank: SupportBank, rows: np.ndarray) -> np.ndarray:
    if not len(rows):
        return np.zeros(bank.foreground.shape[1], np.float32)
    return bank.area[rows] @ bank.foreground[rows] / max(float(bank.area[rows].sum()), 1e-12)


def _as_slice(rows: np.ndarray) -> np.ndarray | slice:
    """Rows that follow one another as a slice, which numpy reads without a copy; other rows as they are."""
    consecutive = len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all()
    return slice(int(rows[0]), int(rows[-1]) + 1) if consecutive else rows
