"""How well does a support fit? Class relation × visual similarity × support quality, each in its own function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llafs_lib.retrieval.bank import SupportBank

GOOD_AREA = 0.10  # a mask that covers this share of its picture, or more, is as good as any


def relation_term(bank: SupportBank, scores: Mapping[str, float]) -> np.ndarray:
    """How much each row's class looks like the query class, [N] in [0, 1]; 0 for classes that were not named."""
    by_class = np.array([scores.get(c, 0.0) for c in bank.classes])
    return by_class[bank.class_index]


def visual_term(bank: SupportBank, query: np.ndarray) -> np.ndarray:
    """How much each row's foreground looks like the query picture, [N] in [0, 1]: (1 + cosine) / 2.

    Args:
        query: unit vector [C] of the whole query picture: where the object is, is what we do not know yet.
    """
    return (1 + bank.foreground @ query) / 2


def quality_term(bank: SupportBank) -> np.ndarray:
    """How useful each row's mask is, [N] in (0, 1]: small objects leave few cells to compare with."""
    return np.minimum(bank.area / GOOD_AREA, 1.0)


@dataclass(frozen=True)
class Exponents:
    """How much each term counts; 0 switches it off."""

    relation: float = 2.0
    visual: float = 0.0
    quality: float = 1.0


@dataclass(frozen=True)
class Scores:
    """The terms of every row, and their weighted product `total`; all [N]."""

    relation: np.ndarray
    visual: np.ndarray
    quality: np.ndarray
    total: np.ndarray

    def explain(self, row: int) -> str:
        """One row's score, taken apart."""
        return (
            f"{self.total[row]:.3f} from relation {self.relation[row]:.2f}, visual {self.visual[row]:.2f}, "
            f"quality {self.quality[row]:.2f}"
        )


def score_supports(
    bank: SupportBank, scores: Mapping[str, float], query: np.ndarray, exponents: Exponents = Exponents()
) -> Scores:
    """Score every row of the bank for one query.

    Args:
        scores: class → relation in [0, 1], from the language branch.
        query: embedding of the query picture, unit vector [C].
    """
    relation, visual, quality = relation_term(bank, scores), visual_term(bank, query), quality_term(bank)
    total = relation**exponents.relation * visual**exponents.visual * quality**exponents.quality
    return Scores(relation, visual, quality, total)
