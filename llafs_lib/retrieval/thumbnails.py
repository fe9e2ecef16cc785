"""Small copies of supports, kept beside a bank so that it can show them without the data set.

thumbnails/000012/12345.jpg      the image with id 12,345, at most `SIDE` px on its longer side
thumbnails/000012/12345.3.png    its mask of class 3 (of the bank's list), at the same size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from llafs_lib.artifacts import replacing
from llafs_lib.data.splits import read_rgb
from llafs_lib.errors import LlafsError

SIDE = 384  # px
_PER_FOLDER = 1000  # images; file systems slow down with folders of millions


class Thumbnails:
    """The thumbnails in a folder.

    Args:
        folder: made when the first one is kept.
        classes: of the bank.
    """

    def __init__(self, folder: Path, classes: Sequence[str]):
        self.folder, self.index = folder, {name: n for n, name in enumerate(classes)}

    def keep(self, image_id: int, image: np.ndarray, masks: Mapping[str, np.ndarray]) -> None:
        """Write the thumbnail of an image [H, W, 3] uint8 and of its masks [H, W] bool by class."""
        small = within(image, SIDE)
        place = self._place(image_id)
        write_image(place.with_name(f"{image_id}.jpg"), small)
        for name, mask in masks.items():
            write_image(place.with_name(f"{image_id}.{self.index[name]}.png"), shrunk(mask, small.shape[:2]))

    def __call__(self, image_id: int, class_name: str) -> tuple[np.ndarray, np.ndarray]:
        """(image [h, w, 3] uint8 RGB, mask [h, w] bool).

        Raises:
            LlafsError: a file is missing or unreadable.
        """
        place = self._place(image_id)
        again = f"remove {self.folder} and make the bank anew with `llafs bank`"
        try:
            image = read_rgb(place.with_name(f"{image_id}.jpg"))
            mask = read_mask(place.with_name(f"{image_id}.{self.index[class_name]}.png"))
        except LlafsError as error:
            raise LlafsError(f"{place.parent}: the thumbnails of image {image_id} cannot be read: {again}.") from error
        if mask.shape != image.shape[:2]:
            raise LlafsError(f"{place.parent}: the thumbnails of image {image_id} differ in size: {again}.")
        return image, mask

    def _place(self, image_id: int) -> Path:
        return self.folder / f"{image_id // _PER_FOLDER:06d}" / str(image_id)


def within(image: np.ndarray, side: int) -> np.ndarray:
    """The image itself, or a smaller copy whose longer side has `side` px."""
    shrink = side / max(image.shape[:2])
    if shrink >= 1:
        return image
    height, width = (max(round(n * shrink), 1) for n in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def shrunk(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask [H, W] bool at `size` (height, width): 255 where it covers half of a pixel or more, else 0; uint8.

    An object that is lost on the way keeps the pixel that it covers most of.
    """
    share = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    limit = min(0.5, float(share.max())) if mask.any() else 0.5
    return np.where(share >= limit, 255, 0).astype(np.uint8)


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write [H, W, 3] or [H, W] uint8 in the format that the file's ending names, whole or not at all."""
    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial, quality=90)


def read_mask(path: Path) -> np.ndarray:
    """A mask that `write_image` wrote, [H, W] bool."""
    return read_rgb(path)[..., 0] > 127
