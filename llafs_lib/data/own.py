"""A user's own annotated images: a COCO file from any annotation tool, or a folder of masks."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from llafs_lib.data.coco import CocoSplit, indexed
from llafs_lib.data.files import path_of, shown
from llafs_lib.data.foreign import read_coco_json
from llafs_lib.data.labels import Painted, Skipped
from llafs_lib.data.masks import plain_annotation, tidy_masks
from llafs_lib.data.tidy import EXPORT_AGAIN, tidy
from llafs_lib.errors import LlafsError

MIN_AREA = 2048 / (640 * 480)  # COCO-20i's 2,048 pixels (spec §3.3), as a share of a 640 × 480 image


def open_own(annotations: str | Path, images: str | Path | None = None) -> OwnSplit:
    """A user's own annotated images as a split.

    Args:
        annotations: a COCO JSON file, or a folder `masks/CLASS/x.png` of binary mask images beside a folder of images
            (`images/x.jpg`).
        images: the folder of the images. None looks beside the annotations: `images/`, else the folder of the
            annotation file itself.

    Raises:
        LlafsError: files that are not there or not of these kinds, most images missing, or most objects unusable.
    """
    annotations = path_of(annotations, "annotations")
    if not os.path.exists(annotations):
        raise LlafsError(
            f"the annotations {shown(annotations)} do not exist: name a COCO JSON file or a folder of masks."
        )
    folder = images_of(annotations, images)
    if (annotations / "masks").is_dir():
        annotations = annotations / "masks"
    if not os.path.isdir(folder):
        kind = "is a file" if os.path.exists(folder) else "does not exist"
        raise LlafsError(f"the image folder {shown(folder)} {kind}: name the folder that holds the images.")
    return OwnSplit(folder, annotations)


def images_of(annotations: Path, images: str | Path | None = None) -> Path:
    """The folder of the images that go with annotations, as `open_own` looks for it."""
    if images is not None:
        return path_of(images, "images")
    if (annotations / "masks").is_dir():
        annotations = annotations / "masks"
    beside = [annotations.parent / "images"]
    if annotations.parent.name == "annotations":  # where CVAT and COCO put the file
        beside.append(annotations.parent.parent / "images")
    return next((folder for folder in beside if folder.is_dir()), annotations.parent)


class OwnSplit(CocoSplit):
    """A user's own images and masks, with the classes that have an object, in the order of the file.

    Brush masks that a tool exported as crowds count as objects. `skipped` also says what was mended.

    Args:
        images: the folder of the images.
        annotations: a COCO JSON file, or a folder of masks (`open_own`).
    """

    remedy = "put them back, or open the annotations again without them."

    def __init__(self, images: Path, annotations: Path):
        self.folder, self.annotations, self._left_out = images, annotations, Skipped()
        self._unusable: list[tuple[str, str]] = []  # masks, and why
        plain = self._coco.dataset
        classes = tuple(category["name"] for category in plain["categories"])
        # What is not in the annotation file itself: which images are there, sizes read from them, files of masks.
        found = [plain["images"], [a for a in plain["annotations"] if "mask" in a]]
        super().__init__(images, annotations, classes, also=found)
        if not self.pixels.any():
            raise LlafsError(f"{annotations}: no mask shows a single pixel. Export the annotations again.")

    @functools.cached_property
    def _coco(self) -> COCO:
        skipped = self._left_out = Skipped()
        if self.annotations.is_dir():
            plain = tidy_masks(self.annotations, self.folder, skipped)
        else:
            try:
                plain = tidy(read_coco_json(self.annotations), self.folder, self.annotations, skipped)
            except RecursionError:
                raise LlafsError(f"{self.annotations} holds lists that are nested too deep. {EXPORT_AGAIN}") from None
        return indexed(plain)

    def annotations_of(self, image_id: int) -> list[dict]:
        """The objects of an image as plain COCO annotations, in the order of the file. Unusable masks are left out."""
        info, found = self._coco.imgs.get(image_id, {}), []
        for annotation in super().annotations_of(image_id):
            try:
                found.append(plain_annotation(annotation, (info["height"], info["width"])))
            except LlafsError as error:
                self._unusable.append((annotation["mask"], str(error)))
        return found

    def _paint_all(self, skipped: Skipped) -> Iterator[Painted]:
        self._unusable, total = [], len(self._coco.anns)
        skipped.include(self._left_out)
        yield from super()._paint_all(skipped)
        for mask, _ in self._unusable:
            skipped.add("a mask that is none of one class, in the size of its image", mask)
        if 2 * len(self._unusable) > total:
            raise LlafsError(
                f"{self.annotations}: {len(self._unusable):,} of {total:,} masks cannot be used. {self._unusable[0][1]}"
            )

    def shown(self, min_area: float = MIN_AREA) -> dict[int, tuple[str, ...]]:
        """Image id → the classes whose mask covers at least the share `min_area` of the image, in [0, 1].

        A class of which no image reaches that keeps its largest object. Images that show no class so are left out.
        """
        areas = np.array([np.prod(self.size(i)) for i in self.image_ids])
        shares = self.pixels / areas[:, None]  # [images, classes]
        enough = (shares >= min_area) & (self.pixels > 0)
        for column in np.flatnonzero(~enough.any(axis=0) & self.pixels.any(axis=0)):
            enough[shares[:, column].argmax(), column] = True
        names = np.array(self.classes, object)
        return {i: tuple(names[row]) for i, row in zip(self.image_ids, enough, strict=True) if row.any()}
