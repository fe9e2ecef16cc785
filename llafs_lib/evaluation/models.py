"""Models as the evaluation asks them: one query, several sets of supports, one mask each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from llafs_lib.records import Support
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.policies import Choice
from llafs_lib.vision.prototype import PrototypeSegmenter, combine
from llafs_lib.vision.segmenter import Segmenter


class Model(Protocol):
    """What can be asked. `takes_all`: whether it can be shown every support of a bank at once."""

    takes_all: bool

    def masks(self, image: np.ndarray, shown: Sequence[Sequence[Choice]], class_name: str) -> list[np.ndarray]:
        """image [H, W, 3] uint8 and sets of supports → a mask [H, W] bool for each set."""
        ...


class ShownImages:
    """A segmenter that is shown images with masks: HSNet, RePRI.

    Args:
        read: (image id, class) → (image [H, W, 3] uint8, mask [H, W] bool).
    """

    takes_all = False

    def __init__(self, segmenter: Segmenter, read: Callable[[int, str], tuple[np.ndarray, np.ndarray]]):
        self.segmenter, self.read = segmenter, read

    def masks(self, image: np.ndarray, shown: Sequence[Sequence[Choice]], class_name: str) -> list[np.ndarray]:
        pairs = {(c.image_id, c.class_name) for choices in shown for c in choices}
        seen = {pair: self.read(*pair) for pair in pairs}  # once for all sets: a segmenter tells supports apart by it
        sets = [
            [Support(c.image_id, c.class_name, c.score, *seen[c.image_id, c.class_name], c.weight) for c in choices]
            for choices in shown
        ]
        return [p.mask for p in self.segmenter.segment_each(image, sets, class_name)]


class BankPrototypes:
    """Prototypes made of rows of support banks: any number of supports, none of whose images is read again.

    Args:
        segmenter: says how prototypes are used.
        banks: where the rows are looked for: the base classes', and the novel classes' own for true supports. They must
            have been described by the segmenter's features.
    """

    takes_all = True

    def __init__(self, segmenter: PrototypeSegmenter, banks: Sequence[SupportBank]):
        self.segmenter, self.banks = segmenter, banks
        self._row = {  # (image id, class) → (bank, row)
            (int(i), bank.class_of(row)): (bank, row) for bank in banks for row, i in enumerate(bank.image_ids)
        }

    def masks(self, image: np.ndarray, shown: Sequence[Sequence[Choice]], class_name: str) -> list[np.ndarray]:
        return [self._mask(image, choices, class_name) for choices in shown]

    def _mask(self, image: np.ndarray, choices: Sequence[Choice], class_name: str) -> np.ndarray:
        found = [self._row[c.image_id, c.class_name] for c in choices]
        weights, parts = [], []
        for bank in self.banks:
            rows = np.array([row for b, row in found if b is bank], int)
            weights += [c.weight for c, (b, _) in zip(choices, found, strict=True) if b is bank]
            parts.append([bank.foreground[rows], bank.background[rows], bank.area[rows]])
        made = combine(*map(np.concatenate, zip(*parts, strict=True)), np.array(weights), self.segmenter.plain)
        return self.segmenter.mark(image, *made, class_name).mask
