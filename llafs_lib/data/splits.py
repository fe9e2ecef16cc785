"""A split of a data set: images, and which class each of their pixels belongs to."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from llafs_lib.data.labels import VOID, DataError, LabelStore

END_OF_JPEG = b"\xff\xd9"
MIN_PIXELS = 2 * 32 * 32  # an object class counts in an image from 2,048 label pixels on (spec §3.3)


class Split:
    """Images with label maps, whatever format they come in.

    Args:
        folder: of the images.
        classes: the class names in index order; label maps hold `index + 1`, 0 is background, 255 void.
        labels: the label maps, as `llafs_lib.data.labels.open_labels` gives them.
    """

    def __init__(self, folder: Path, classes: tuple[str, ...], labels: LabelStore):
        self.folder, self.classes, self._labels = folder, classes, labels

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def image_ids(self) -> tuple[int, ...]:
        """Ascending."""
        return self._labels.image_ids

    @property
    def pixels(self) -> np.ndarray:
        """[images, classes] uint32: how many pixels of each class each image shows, in the order of `image_ids`."""
        return self._labels.pixels

    @property
    def fingerprint(self) -> str:
        """A short hash of image names and label maps: two splits with the same one are the same."""
        return self._labels.fingerprint

    @property
    def skipped(self) -> tuple[str, ...]:
        """What the annotations hold and the label maps do not, one sentence per reason."""
        return self._labels.skipped

    def size(self, image_id: int) -> tuple[int, int]:
        """(height, width) of an image, as its annotations state it."""
        return self._known(image_id).size(image_id)

    def file(self, image_id: int) -> Path:
        """Where an image lies."""
        return self.folder / self._known(image_id).files[image_id]

    def image(self, image_id: int) -> np.ndarray:
        """The image, [H, W, 3] uint8 RGB, at the size its annotations state.

        An image that says it is to be turned (EXIF) is turned, unless it was annotated as it lies.

        Raises:
            DataError: missing, unreadable, or of another size.
        """
        path, size = self.file(image_id), self.size(image_id)
        pixels = read_rgb(path)
        if pixels.shape[:2] == size[::-1] != size:
            pixels = read_rgb(path, turn=False)
        if pixels.shape[:2] != size:
            raise DataError(
                f"{path} is {pixels.shape[1]}×{pixels.shape[0]} px, but was annotated at {size[1]}×{size[0]} px: "
                "image and annotations do not belong together."
            )
        return pixels

    def label_map(self, image_id: int) -> np.ndarray:
        """Which class each pixel belongs to, [H, W] uint8: 0, class index + 1, or 255 (void)."""
        return self._known(image_id).label_map(image_id)

    def mask(self, image_id: int, class_name: str) -> np.ndarray:
        """Where `class_name` is in an image, [H, W] bool."""
        return self.label_map(image_id) == self.classes.index(class_name) + 1

    def void(self, image_id: int) -> np.ndarray:
        """Which pixels are not to be scored, [H, W] bool. COCO has none."""
        return self.label_map(image_id) == VOID

    def images_by_class(self, min_pixels: int = MIN_PIXELS) -> Mapping[str, tuple[int, ...]]:
        """For each class the ids of the images that show at least `min_pixels` of it (spec §3.3), ascending."""
        ids = np.array(self.image_ids)
        return {c: tuple(ids[self.pixels[:, i] >= min_pixels].tolist()) for i, c in enumerate(self.classes)}

    def check_files(self) -> None:
        """Look at every listed image without decoding it: is it there, and does it end as a JPEG ends?

        A file without a proper end is decoded to be sure.

        Raises:
            DataError: names the first bad file, counts the others.
        """
        try:
            there = set(os.listdir(self.folder))
        except FileNotFoundError:
            there = set()
        names = self._labels.files
        missing = [f for f in names.values() if f not in there and not (self.folder / f).is_file()]
        if missing:
            raise DataError(
                f"{len(missing):,} of {len(names):,} images are missing in {self.folder}, the first is {missing[0]}: "
                "run the download again (data_scripts/), it completes what is there."
            )
        cut = [f for f in names.values() if not _ends_well(self.folder / f)]
        for file in cut:
            read_rgb(self.folder / file)

    def _known(self, image_id: int) -> LabelStore:
        if image_id not in self._labels:
            raise DataError(f"image {image_id} is not listed for {self.folder}.")
        return self._labels


class SupportReader:
    """(image id, class) → (image [H, W, 3] uint8, mask [H, W] bool); the images read last stay in memory."""

    def __init__(self, split: Split, keep: int = 256):
        self.split = split
        self._load = functools.lru_cache(keep)(lambda image_id: (split.image(image_id), split.label_map(image_id)))

    def __call__(self, image_id: int, class_name: str) -> tuple[np.ndarray, np.ndarray]:
        image, labels = self._load(image_id)
        return image, labels == self.split.classes.index(class_name) + 1

    def with_masks(self, image_id: int, class_names: Iterable[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """An image [H, W, 3] and the masks [H, W] of some classes in it."""
        image, labels = self._load(image_id)
        return image, {name: labels == self.split.classes.index(name) + 1 for name in class_names}


def read_rgb(path: str | Path, turn: bool = True) -> np.ndarray:
    """Read an image file as [H, W, 3] uint8 RGB: grey, palette, CMYK and alpha converted.

    Args:
        turn: as the EXIF orientation says.

    Raises:
        DataError: the file is missing, is no image, or is cut off.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "JPEG" and image.mode in ("RGB", "L") and data.endswith(END_OF_JPEG):
                # The same pixels as PIL's, a fifth faster. PIL has the rest: OpenCV takes a cut-off file for whole.
                flags = cv2.IMREAD_COLOR_RGB | (0 if turn else cv2.IMREAD_IGNORE_ORIENTATION)
                pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
                if pixels is not None:
                    return pixels
            if turn:
                ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I;16") or image.mode == "I":  # PIL would cut everything above 255 off
                grey = np.clip(np.array(image) >> 8, 0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except (OSError, ValueError, SyntaxError, cv2.error, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image ({error}); replace or download it again.") from error


def _ends_well(path: Path) -> bool:
    """Whether a file ends with JPEG's end-of-image marker; what is no JPEG is not judged."""
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        return True
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - len(END_OF_JPEG)))
        return file.read() == END_OF_JPEG
