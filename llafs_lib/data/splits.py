"""A split of a data set: images, and the class of each of their pixels."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from llafs_lib.classes import did_you_mean
from llafs_lib.data.files import shown
from llafs_lib.data.images import END_OF_JPEG, read_rgb
from llafs_lib.data.labels import LabelStore, LabelView, void_of
from llafs_lib.errors import LlafsError

MIN_PIXELS = 2 * 32 * 32  # an image counts for a class if at least 2,048 of its label pixels are the class (spec §3.3)


class Split:
    """Images with label maps, in whatever format they are stored.

    Args:
        folder: the folder of the images.
        classes: the class names in index order. Label maps hold 0 for background, `index + 1`, or void.
        labels: the label maps, as `llafs_lib.data.labels.open_labels` returns them.

    Attributes:
        image_ids: ascending.
        pixels: [images, classes] uint32, how many pixels of each class each image shows, in the order of `image_ids`.
        fingerprint: a short hash of file names and label maps. Equal splits have equal fingerprints.
        skipped: what the annotations hold but the label maps do not, one sentence per reason.
    """

    remedy = "run the download again (data_scripts/), it completes what is there."  # for missing images

    def __init__(self, folder: Path, classes: tuple[str, ...], labels: LabelStore):
        self.folder, self.classes, self._labels = folder, classes, labels
        self.image_ids, self.pixels = labels.image_ids, labels.pixels
        self.fingerprint, self.skipped = labels.fingerprint, labels.skipped

    def __len__(self) -> int:
        return len(self.image_ids)

    def size(self, image_id: int) -> tuple[int, int]:
        """(height, width) of an image in px, as its annotations state it."""
        return self._known(image_id).size(image_id)

    def file(self, image_id: int) -> Path:
        """The path of an image."""
        return self.folder / self._known(image_id).files[image_id]

    def image(self, image_id: int) -> np.ndarray:
        """The image, [H, W, 3] uint8 RGB, at the size that its annotations state.

        The EXIF orientation is applied, unless the annotations were made without it.

        Raises:
            LlafsError: the image is not listed, missing, unreadable, or has another size.
        """
        path, size = self.file(image_id), self.size(image_id)
        pixels = read_rgb(path)
        if pixels.shape[:2] == size[::-1] != size:
            pixels = read_rgb(path, turn=False)
        if pixels.shape[:2] != size:
            raise LlafsError(
                f"{path} is {pixels.shape[1]}×{pixels.shape[0]} px, but was annotated at {size[1]}×{size[0]} px, so "
                "the image and the annotations do not belong together. Put back the image that was annotated."
            )
        return pixels

    def label_map(self, image_id: int) -> np.ndarray:
        """The class of each pixel, [H, W]: 0 for background, class index + 1, or void (`labels.void_of`).

        It is uint8, in which void is 255; with more than 254 classes it is uint16, in which void is 65535.
        """
        return self._known(image_id).label_map(image_id)

    def mask(self, image_id: int, class_name: str) -> np.ndarray:
        """The pixels of `class_name` in an image, [H, W] bool."""
        return self.label_map(image_id) == self.label_of(class_name)

    def label_of(self, class_name: str) -> int:
        """The value of a class in the label maps: class index + 1.

        Raises:
            LlafsError: the data set has no such class.
        """
        if class_name not in self.classes:
            listed, more = ", ".join(self.classes[:40]), ", …" if len(self.classes) > 40 else ""
            hint = did_you_mean(class_name, self.classes)
            raise LlafsError(f"{class_name!r} is not a class of this data set: choose one of {listed}{more}.{hint}")
        return self.classes.index(class_name) + 1

    def void(self, image_id: int) -> np.ndarray:
        """The pixels that are not scored, [H, W] bool. COCO has none."""
        labels = self.label_map(image_id)
        return labels == void_of(labels)

    def images_by_class(self, min_pixels: int = MIN_PIXELS) -> Mapping[str, tuple[int, ...]]:
        """Class → ids of the images with at least `min_pixels` label pixels of it (spec §3.3), ascending."""
        ids = np.array(self.image_ids)
        return {c: tuple(ids[self.pixels[:, i] >= min_pixels].tolist()) for i, c in enumerate(self.classes)}

    def areas(self) -> np.ndarray:
        """How many pixels each image has, [images], in the order of `image_ids`."""
        return np.array([np.prod(self.size(i)) for i in self.image_ids])

    def part(self, ids: Mapping[int, int], classes: tuple[str, ...] | None = None) -> Split:
        """Some images of this split, as a split of their own.

        Args:
            ids: id in the new split → id in this one, ascending.
            classes: the classes in the new split's order; None keeps this split's. One that this split lacks has no
                pixel in the new one, and a class of this split that is not among them becomes background.
        """
        part, classes = copy.copy(self), self.classes if classes is None else classes
        values = [self.classes.index(c) if c in self.classes else -1 for c in classes]
        part.classes, part._labels = classes, LabelView(self._labels, ids, values)
        part.image_ids, part.pixels = part._labels.image_ids, part._labels.pixels
        part.fingerprint = part._labels.fingerprint
        return part

    def check_files(self) -> None:
        """Check that every listed image is there and ends as a JPEG does, without decoding it.

        Only a file that does not end so is decoded.

        Raises:
            LlafsError: images are missing (the message counts them and names the first), or one cannot be decoded.
        """
        there = set(os.listdir(self.folder)) if self.folder.is_dir() else set()
        names = self._labels.files
        missing = [f for f in names.values() if f not in there and not os.path.isfile(self.folder / f)]
        if missing:
            raise LlafsError(
                f"{len(missing):,} of {len(names):,} images are missing in {self.folder}, the first is "
                f"{shown(missing[0])}: {self.remedy}"
            )
        for file in names.values():
            if not _ends_well(self.folder / file):
                read_rgb(self.folder / file)

    def _known(self, image_id: int) -> LabelStore:
        if image_id not in self._labels:
            raise LlafsError(f"image {image_id} is not listed for {self.folder}: choose one of `image_ids`.")
        return self._labels


class SupportReader:
    """Reads (image [H, W, 3] uint8 RGB, mask [H, W] bool) of an image id and a class.

    The last `keep` images that were read stay in memory.
    """

    def __init__(self, split: Split, keep: int = 256):
        self.split = split
        self._load = functools.lru_cache(keep)(lambda image_id: (split.image(image_id), split.label_map(image_id)))

    def __call__(self, image_id: int, class_name: str) -> tuple[np.ndarray, np.ndarray]:
        image, labels = self._load(image_id)
        return image, labels == self.split.label_of(class_name)

    def with_masks(self, image_id: int, class_names: Iterable[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """An image [H, W, 3] uint8 RGB and the masks [H, W] bool of some classes in it."""
        image, labels = self._load(image_id)
        return image, {name: labels == self.split.label_of(name) for name in class_names}


def _ends_well(path: Path) -> bool:
    """Whether a JPEG ends with the end-of-image marker; True for a file of another format."""
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        return True
    if not path.is_file():  # a pipe waits for ever
        return False
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - len(END_OF_JPEG)))
        return file.read() == END_OF_JPEG
