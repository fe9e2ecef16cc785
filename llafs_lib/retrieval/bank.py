"""The support bank: one row for every annotated (picture, base class) pair of a fold."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from llafs_lib.errors import LlafsError
from llafs_lib.progress import track


class BankError(LlafsError):
    """A support bank that cannot be read."""


@dataclass(frozen=True)
class SupportBank:
    """What may serve as a support, and how it looks to the backbone.

    `image_ids` [N] and `class_index` [N] (into `classes`) say which pair a row is; `foreground` [N, C] is the mean
    feature inside the mask and `whole` [N, C] that of the whole picture, both of unit length; `area` [N] is the mask's
    share of the picture, in (0, 1].
    """

    classes: tuple[str, ...]
    image_ids: np.ndarray
    class_index: np.ndarray
    foreground: np.ndarray
    whole: np.ndarray
    area: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)

    def class_of(self, row: int) -> str:
        return self.classes[self.class_index[row]]

    def rows_of(self, class_name: str) -> np.ndarray:
        """The rows of one class; empty if the bank has none."""
        if class_name not in self.classes:
            return np.empty(0, int)
        return np.flatnonzero(self.class_index == self.classes.index(class_name))

    def counts(self) -> dict[str, int]:
        """How many supports each class has."""
        return {c: int((self.class_index == i).sum()) for i, c in enumerate(self.classes)}

    def save(self, path: str | Path) -> None:
        arrays = {f: getattr(self, f) for f in ("image_ids", "class_index", "foreground", "whole", "area")}
        save_file(arrays, path, {"classes": json.dumps(self.classes)})

    @classmethod
    def load(cls, path: str | Path) -> SupportBank:
        """Read a file written by `save`.

        Raises:
            BankError: it is cut off, or not a support bank.
        """
        try:
            with safe_open(path, framework="np") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}
                return cls(classes=tuple(json.loads(file.metadata()["classes"])), **arrays)
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
            raise BankError(f"{path} is not a readable support bank ({error}): run notebook 04 again.") from error


def embed(taps: Sequence[Tensor], mask: np.ndarray | None = None) -> np.ndarray:
    """The mean of the deepest tap over a mask, as a unit vector.

    Args:
        taps: of one picture, shallow to deep, each [C, h, w].
        mask: [H, W] bool or share of each pixel; None means the whole picture.

    Returns: [C] float32; a mask too small to reach a cell weighs the cells by their overlap, however small.
    """
    deep = taps[-1].cpu().numpy()  # [C, h, w]
    weights = np.ones(deep.shape[1:]) if mask is None else cell_shares(mask, deep.shape[1:])
    mean = (deep * weights).sum(axis=(1, 2)) / max(weights.sum(), 1e-12)
    return (mean / max(np.linalg.norm(mean), 1e-12)).astype(np.float32)


def cell_shares(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Which share of each grid cell a mask [H, W] covers: → [h, w] in [0, 1]."""
    rows = np.linspace(0, mask.shape[0], grid[0] + 1).astype(int)[:-1]
    columns = np.linspace(0, mask.shape[1], grid[1] + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(mask.astype(float), rows, axis=0), columns, axis=1)
    ones = np.add.reduceat(np.add.reduceat(np.ones(mask.shape), rows, axis=0), columns, axis=1)
    return sums / ones


def build_bank(
    pairs: Sequence[tuple[int, str]],
    classes: tuple[str, ...],
    read: Callable[[int, str], tuple[np.ndarray, np.ndarray]],
    features: Callable[[np.ndarray], list[Tensor]],
) -> SupportBank:
    """Embed every (picture id, class) pair.

    Args:
        pairs: what goes into the bank, best sorted by picture, so that each picture's features are computed once.
        read: (picture id, class) → (image [H, W, 3] uint8, mask [H, W] bool).
        features: image → taps.
    """
    rows = []
    for image_id, name in track(pairs, "support bank", "pair"):
        image, mask = read(image_id, name)
        taps = features(image)
        rows.append((embed(taps, mask), embed(taps), mask.mean()))
    return SupportBank(
        classes=classes,
        image_ids=np.array([i for i, _ in pairs], np.int64),
        class_index=np.array([classes.index(c) for _, c in pairs], np.int64),
        foreground=np.stack([r[0] for r in rows]),
        whole=np.stack([r[1] for r in rows]),
        area=np.array([r[2] for r in rows], np.float32),
    )
