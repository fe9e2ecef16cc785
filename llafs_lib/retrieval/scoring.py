"""How well does a support fit? Class relation × visual similarity × support quality, each in its own function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llafs_lib.retrieval.bank import SupportBank

GOOD_AREA = 0.10  # a mask that covers this share of its image, or more, is as good as any
BLOCK = 65_536  # rows that are looked at together, so that memory does not grow with the bank


def relation_term(bank: SupportBank, rows: np.ndarray, scores: Mapping[str, float]) -> np.ndarray:
    """How much each row's class looks like the query class, [M] in [0, 1]; 0 for classes that were not named."""
    by_class = np.array([scores.get(c, 0.0) for c in bank.classes])
    return by_class[bank.class_index[rows]]


def visual_term(bank: SupportBank, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """How much each row's foreground looks like the query image, [M] in [0, 1]: (1 + cosine) / 2.

    Args:
        query: unit vector [C] of the whole query image: where the object is, is what we do not know yet.
    """
    cosine = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        inside = bank.foreground[as_slice(rows[block])]
        cosine[block] = inside @ query / np.maximum(np.sqrt(np.einsum("nc,nc->n", inside, inside)), 1e-12)
    return (1 + cosine) / 2


def quality_term(bank: SupportBank, rows: np.ndarray) -> np.ndarray:
    """How useful each row's mask is, [M] in [0, 1]: small objects leave few cells to compare with."""
    return np.minimum(bank.area[rows] / GOOD_AREA, 1.0)


def as_slice(rows: np.ndarray) -> np.ndarray | slice:
    """Rows that follow one another as a slice, which is read where it lies; others as they are, which are copied."""
    consecutive = len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all()
    return slice(int(rows[0]), int(rows[-1]) + 1) if consecutive else rows


@dataclass(frozen=True)
class Exponents:
    """How much each term counts; 0 switches it off."""

    relation: float = 2.0
    visual: float = 0.0
    quality: float = 1.0


@dataclass(frozen=True)
class Scores:
    """The terms of some rows of a bank, and their weighted product `total`; all [M]."""

    rows: np.ndarray
    relation: np.ndarray
    visual: np.ndarray
    quality: np.ndarray
    total: np.ndarray

    def explain(self, i: int) -> str:
        """The i-th row's score, taken apart."""
        return (
            f"{self.total[i]:.3f} from relation {self.relation[i]:.2f}, visual {self.visual[i]:.2f}, "
            f"quality {self.quality[i]:.2f}"
        )


def score_supports(
    bank: SupportBank,
    scores: Mapping[str, float],
    query: np.ndarray,
    exponents: Exponents = Exponents(),
    rows: np.ndarray | None = None,
) -> Scores:
    """Score supports for one query.

    Args:
        scores: class → relation in [0, 1], from the language branch.
        query: embedding of the query image, unit vector [C].
        rows: which ones; by default all.
    """
    rows = np.arange(len(bank)) if rows is None else rows
    terms = relation_term(bank, rows, scores), visual_term(bank, rows, query), quality_term(bank, rows)
    total = np.ones(len(rows))
    for term, exponent in zip(terms, (exponents.relation, exponents.visual, exponents.quality), strict=True):
        total = total * term**exponent
    return Scores(rows, *terms, total)


def nearest(bank: SupportBank, query: np.ndarray, k: int, rows: np.ndarray | None = None) -> np.ndarray:
    """The `k` rows whose foreground looks most like the query, best first, among all or among `rows`; exact."""
    rows = np.arange(len(bank)) if rows is None else rows
    likeness = visual_term(bank, rows, query)
    best = np.argpartition(-likeness, k - 1)[:k] if k < len(rows) else np.arange(len(rows))
    return rows[best[np.argsort(-likeness[best], kind="stable")]]
