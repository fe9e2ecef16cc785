"""Images and masks as users have them: files, folders, arrays."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llafs_lib.data.splits import read_rgb
from llafs_lib.errors import LlafsError


def as_rgb(image: str | Path | np.ndarray) -> np.ndarray:
    """An image as [H, W, 3] uint8 RGB."""
    pixels = image if isinstance(image, np.ndarray) else read_rgb(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise LlafsError(f"an image must be [H, W, 3] uint8 RGB, not {list(pixels.shape)} {pixels.dtype}.")
    return pixels


def as_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask as [H, W] bool of `size` (height, width)."""
    if np.shape(mask) != size:
        raise LlafsError(f"the mask is {np.shape(mask)}, its image {size}.")
    return np.asarray(mask) > 0


def find_images(what: str | Path) -> Iterator[Path]:
    """The files of a folder or of a pattern, sorted."""
    path = Path(what)
    return iter(sorted(path.iterdir()) if path.is_dir() else map(Path, sorted(glob.glob(str(what)))))
