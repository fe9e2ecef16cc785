"""Supports that a user has corrected and put back: the next images have true supports beside the look-alikes.

Each lies in a folder of its own, is written whole or not at all, and can be removed by its number:

    added/3/image.jpg, mask.png      at most 1,024 px on the longer side
    added/3/about.json               its class, the name of the file it came from, and hashes of both images
    added/3/features.npz             its row: the mean features inside and outside the mask, and the mask's share
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from llafs_lib.artifacts import file_hash, replacing
from llafs_lib.data.splits import read_rgb
from llafs_lib.errors import LlafsError, told, why
from llafs_lib.records import Support
from llafs_lib.retrieval.thumbnails import read_mask, shrunk, within, write_image
from llafs_lib.seals import read_sealed, write_sealed
from llafs_lib.sharing import held
from llafs_lib.vision.features import masked_means

SIDE = 1024  # px
_FILES, _COLUMNS = ("image.jpg", "mask.png"), ("inside", "outside", "area")


@dataclass(frozen=True)
class Correction:
    """One added support: `number` is its name, `inside` and `outside` [C] and `area` in [0, 1] are its row."""

    number: int
    class_name: str
    source: str
    inside: np.ndarray = field(repr=False)
    outside: np.ndarray = field(repr=False)
    area: float
    folder: Path = field(repr=False)

    def __str__(self) -> str:
        return f"{self.number}: {self.class_name}, from {self.source or 'an array'}"

    def support(self) -> Support:
        """It as a support to show. Its id is below −1, because no image of a data set has such an id."""
        image, mask = read_rgb(self.folder / "image.jpg"), read_mask(self.folder / "mask.png")
        return Support(-1 - self.number, self.class_name, 1.0, image, mask)


class Corrections:
    """The added supports of a bank.

    Args:
        folder: where they are kept.
        describe: image [H, W, 3] uint8 → unit features [C, h, w].
        described_by: what the features depend on (`retrieval.bank.described_by`). A support that something else
            described is described anew.
    """

    def __init__(self, folder: Path, describe: Callable[[np.ndarray], Tensor], described_by: Mapping[str, Any]):
        self.folder, self.describe, self.described_by = folder, describe, dict(described_by)
        self.listed = [self._read(n) for n in self._numbers()]

    def of(self, class_name: str) -> list[Correction]:
        """Those of one class, the oldest first."""
        return [c for c in self.listed if c.class_name == class_name]

    def add(self, image: np.ndarray, mask: np.ndarray, class_name: str, source: str = "") -> int:
        """Keep an image [H, W, 3] uint8 with its mask [H, W] bool; returns its number.

        Raises:
            LlafsError: the mask is empty, or the folder cannot be written.
        """
        if not mask.any():
            raise LlafsError(f"the mask of {class_name!r} is empty, so it would show nothing: mark the object in it.")
        image = within(image, SIDE)
        mask = shrunk(mask, image.shape[:2])
        with held(self.folder, wait=True):  # else two processes would take the same number
            number = max(self._numbers(), default=0) + 1
            with replacing(self.folder / str(number)) as new:
                new.mkdir()
                write_image(new / "image.jpg", image)
                write_image(new / "mask.png", mask)
                files = {name: file_hash(new / name) for name in _FILES}
                write_sealed(new / "about.json", {"class_name": class_name, "source": source, **files})
        self.listed.append(self._read(number))
        return number

    def remove(self, number: int) -> None:
        """Forget a support.

        Raises:
            LlafsError: there is none of that number, or the folder cannot be written.
        """
        known = {c.number for c in self.listed} | set(self._numbers())  # another process may have added one
        if number not in known:
            there = ", ".join(map(str, sorted(known))) or "none"
            raise LlafsError(f"no added support has the number {told(number)}; there are: {there}.")
        there, removed = self.folder / str(number), self.folder / f".{number}.removed"
        shutil.rmtree(removed, ignore_errors=True)  # of an earlier call that was killed
        try:
            os.replace(there, removed)  # first, so that no kill leaves half of it
        except FileNotFoundError:
            pass  # somebody else was faster
        except OSError as error:
            raise LlafsError(f"{there} cannot be removed ({why(error)}): change the folder's permissions.") from error
        shutil.rmtree(removed, ignore_errors=True)
        self.listed = [c for c in self.listed if c.number != number]

    def _numbers(self) -> list[int]:
        return sorted(int(p.name) for p in self.folder.glob("*") if p.name.isdecimal())

    def _read(self, number: int) -> Correction:
        folder = self.folder / str(number)
        about = read_sealed(folder / "about.json")
        if not about or not all((folder / n).is_file() and file_hash(folder / n) == about[n] for n in _FILES):
            raise LlafsError(f"{folder} is not readable as an added support any more: remove that folder.")
        row = self._row(folder, [about[name] for name in _FILES])
        return Correction(number, about["class_name"], about["source"], *row, folder)

    def _row(self, folder: Path, files: Sequence[str]) -> tuple[np.ndarray, np.ndarray, float]:
        """The row that is stored; described now where none is, or one of other files or by something else.

        Args:
            files: hashes of image and mask.
        """
        stored, key = folder / "features.npz", json.dumps({**self.described_by, "files": files}, sort_keys=True)
        try:
            with np.load(stored, allow_pickle=False) as found:
                if str(found["described_by"]) == key:
                    inside, outside, area = (found[name] for name in _COLUMNS)
                    return inside, outside, float(area)
        except Exception:  # numpy raises half a dozen types for a file that is cut off, and the row is only a cache
            pass
        row = masked_means(self.describe(read_rgb(folder / "image.jpg")), read_mask(folder / "mask.png"))
        # a folder that may only be read keeps no row, nor does one where something else is called so
        with contextlib.suppress(OSError, LlafsError), replacing(stored) as partial, partial.open("wb") as file:
            np.savez(file, described_by=key, **dict(zip(_COLUMNS, row, strict=True)))
        return row
