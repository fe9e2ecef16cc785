"""The support bank: one row for every annotated (image, base class) pair of a fold, on disk, mapped into memory.

    support_bank.safetensors   the arrays; rows of one class lie together, so that a class is one slice of the file
    support_bank.json          the index: classes, images and their files, and what the bank was made from

It is filled in place, image by image, so memory does not grow with the number of images. What is filled stays
filled after a kill, and several processes may fill it at once, each its own share.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from torch import Tensor

from llafs_lib.artifacts import write_json
from llafs_lib.errors import LlafsError
from llafs_lib.progress import track
from llafs_lib.retrieval.mapped import Shapes, create, open_mapped
from llafs_lib.vision.features import masked_means
from llafs_lib.vision.prototype import combine


class BankError(LlafsError):
    """A support bank that cannot be read, or that was made from something else."""


@dataclass(frozen=True)
class SupportBank:
    """What may serve as a support, and how it looks to the backbone.

    Rows are sorted by class. `image_ids` [N] and `class_index` [N] (into `classes`) say which pair a row is.
    `foreground` and `background` [N, C] are the mean unit features inside and outside its mask: as they are, of length
    at most 1, since a prototype is a sum of them. `area` [N] in [0, 1] is the share of the feature map that the mask
    covers, and `box` [N, 4] the mask's top, left, bottom and right in shares of the image.
    """

    classes: tuple[str, ...]
    image_ids: np.ndarray
    class_index: np.ndarray
    foreground: np.ndarray = field(repr=False)
    background: np.ndarray = field(repr=False)
    area: np.ndarray = field(repr=False)
    box: np.ndarray = field(repr=False)
    files: Mapping[int, str] = field(default_factory=dict, repr=False)  # image id → path
    made_from: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.image_ids)

    def class_of(self, row: int) -> str:
        """The class that a row's mask shows."""
        return self.classes[self.class_index[row]]

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.searchsorted(self.class_index, np.arange(len(self.classes) + 1))

    def rows_of(self, class_name: str) -> np.ndarray:
        """The rows of one class; empty if the bank has none."""
        if class_name not in self.classes:
            return np.empty(0, int)
        i = self.classes.index(class_name)
        return np.arange(self._starts[i], self._starts[i + 1])

    def counts(self) -> dict[str, int]:
        """How many supports each class has."""
        return dict(zip(self.classes, np.diff(self._starts).tolist(), strict=True))

    def whole(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The mean features of the whole image, [M, C]: they follow from those inside and outside the mask."""
        area = self.area[rows][..., None]
        return area * self.foreground[rows] + (1 - area) * self.background[rows]

    def prototypes(self, rows: np.ndarray, weights: np.ndarray, plain: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Foreground and background prototype, each [C], of some rows with their weights [M]; see `combine`."""
        return combine(self.foreground[rows], self.background[rows], self.area[rows], weights, plain)

    def only(self, classes: Sequence[str]) -> SupportBank:
        """The bank of these classes alone, in their order (a copy in memory)."""
        rows = np.concatenate([self.rows_of(c) for c in classes] or [np.empty(0, int)])
        index = np.repeat(np.arange(len(classes)), [len(self.rows_of(c)) for c in classes])
        taken = {n: getattr(self, n)[rows] for n in ("image_ids", "foreground", "background", "area", "box")}
        return SupportBank(tuple(classes), class_index=index, files=self.files, made_from=self.made_from, **taken)

    @classmethod
    def load(cls, path: str | Path, **expected: Any) -> SupportBank:
        """Open a finished bank; its arrays stay on disk and are read where they are looked at.

        Args:
            expected: what it must have been made from, for instance `fold=0`.

        Raises:
            BankError: the file or its index is missing, cut off or no support bank, or it was made from something else.
        """
        path = Path(path)
        try:
            index = json.loads(index_of(path).read_text(encoding="utf-8"))
            arrays = open_mapped(path)
            bank = cls(
                classes=tuple(index["classes"]),
                files={int(i): file for i, file in index["files"].items()},
                made_from=index["made_from"],
                **{name: arrays[name] for name in _shapes(0, 0)},
            )
            consistent = len({len(a) for a in arrays.values()}) == 1 and bank._starts[-1] == len(bank)
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise BankError(f"{path} is not a readable support bank ({error}): run notebook 04 again.") from error
        if not consistent:
            raise BankError(f"{path} is not a readable support bank (its parts do not match): run notebook 04 again.")
        for name, value in expected.items():
            if bank.made_from.get(name) != value:
                made = bank.made_from.get(name)
                raise BankError(f"{path} is stale: made with {name}={made!r}, not {value!r}. Run notebook 04 again.")
        return bank


def index_of(path: str | Path) -> Path:
    """Where the index of the bank at `path` lies."""
    return Path(path).with_suffix(".json")


# --- filling ---------------------------------------------------------------------------------------------------------


def build_bank(
    path: str | Path,
    images: Mapping[int, Sequence[str]],
    classes: Sequence[str],
    read: Callable[[int], tuple[np.ndarray, Mapping[str, np.ndarray]]],
    describe: Callable[[np.ndarray], Tensor],
    made_from: Mapping[str, Any],
    files: Mapping[int, str] | None = None,
    part: tuple[int, int] = (0, 1),
) -> SupportBank | None:
    """Describe every (image, class) pair and write the bank to `path`; go on where an earlier call was cut off.

    Args:
        images: image id → the classes that it is a support of.
        read: image id → (image [H, W, 3] uint8, class → mask [H, W] bool).
        describe: image → unit features [C, h, w] (`vision.features.unit_features`).
        made_from: all that decides the rows: data set, fold, hash of the backbone's weights, size.
        files: image id → path, for the index.
        part: (i, n): describe the i-th of n shares, so that n processes can share the work.

    Returns: the bank; None if other parts are still to be described.
    """
    path, ids = Path(path), sorted(images)
    rows = {pair: row for row, pair in enumerate((c, i) for c in classes for i in ids if c in images[i])}
    paths = {str(i): str(file) for i, file in (files or {}).items()}
    index = {"classes": list(classes), "made_from": dict(made_from), "files": paths}
    partial, done_file = _begun(path, index, rows, ids, describe)
    arrays, done = open_mapped(partial, "r+"), np.memmap(done_file, np.uint8, "r+")
    for n in track([n for n in range(part[0], len(ids), part[1]) if not done[n]], "support bank", "image"):
        image, masks = read(ids[n])
        features = describe(image)  # [C, h, w]
        for name in images[ids[n]]:
            row = rows[name, ids[n]]
            described = (*masked_means(features, masks[name]), bounding_box(masks[name]))
            for array, value in zip(("foreground", "background", "area", "box"), described, strict=True):
                arrays[array][row] = value
        done[n] = 1  # after its rows: a kill in between has them described again
    if not done.all():
        return None
    write_json(index_of(path), index)
    if partial.is_file():  # unless another part was the last one too, and faster
        os.replace(partial, path)
        done_file.unlink(missing_ok=True)
    return SupportBank.load(path)


def _begun(path: Path, index: Mapping, rows: Mapping, ids: Sequence[int], describe: Callable) -> tuple[Path, Path]:
    """The file to fill and the one that says which images are done: an earlier call's for the same bank, or new ones.

    Their names carry a hash of what the bank is made from: a bank of something else is begun anew.
    """
    described = json.dumps([index, list(rows)], sort_keys=True).encode()
    partial = path.with_name(f".{path.stem}.{hashlib.sha256(described).hexdigest()[:16]}.partial")
    done_file = partial.with_suffix(".done")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(partial.with_suffix(".lock")):
        if not (partial.is_file() and done_file.is_file()):
            create(partial, _shapes(len(rows), len(describe(np.zeros((64, 64, 3), np.uint8)))))
            arrays = open_mapped(partial, "r+")
            arrays["image_ids"][:] = [i for _, i in rows]
            arrays["class_index"][:] = [index["classes"].index(c) for c, _ in rows]
            done_file.write_bytes(bytes(len(ids)))
    return partial, done_file


def _shapes(n: int, width: int) -> Shapes:
    integers = {name: ((n,), np.int64) for name in ("image_ids", "class_index")}
    vectors = {name: ((n, width), np.float32) for name in ("foreground", "background")}
    return integers | vectors | {"area": ((n,), np.float32), "box": ((n, 4), np.float32)}


def bounding_box(mask: np.ndarray) -> np.ndarray:
    """[H, W] bool → top, left, bottom, right in shares of the image; zeros for an empty mask."""
    if not mask.any():
        return np.zeros(4, np.float32)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    ends = (rows[0] / height, columns[0] / width, (rows[-1] + 1) / height, (columns[-1] + 1) / width)
    return np.array(ends, np.float32)
