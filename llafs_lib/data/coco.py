"""Pictures and masks of a data set in COCO format.

Masks come from the official annotation JSON alone. They are painted into one label map per picture exactly as the
COCO-20i lists were made (spec §3.3): only non-crowd annotations, in file order, a later object over an earlier one,
polygons filled with OpenCV's `fillPoly` after cutting their vertices to integers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as coco_rle
from pycocotools.coco import COCO

from llafs_lib.errors import LlafsError
from llafs_lib.progress import track

MIN_PIXELS = 2 * 32 * 32  # an object class counts in a picture from 2,048 label pixels on (spec §3.3)


class DataError(LlafsError):
    """A data set, picture or annotation that cannot be used; the message names the file."""


class CocoSplit:
    """One split (training or validation) of a COCO-format data set.

    Args:
        images: the folder of the pictures.
        annotations: the `instances_*.json` file.
        classes: the class names in index order; label maps hold `index + 1`, 0 is background.

    Raises:
        DataError: a missing folder or file, broken JSON, or a class that the file does not know.
    """

    def __init__(self, images: str | Path, annotations: str | Path, classes: tuple[str, ...]):
        self.folder, self.annotations, self.classes = Path(images), Path(annotations), classes
        self._coco = _open_annotations(self.folder, self.annotations)
        by_name = {c["name"]: c["id"] for c in self._coco.cats.values()}
        unknown = [c for c in classes if c not in by_name]
        if unknown:
            raise DataError(f"{self.annotations} has no category named {', '.join(unknown)}: is it the right file?")
        self._index = {by_name[name]: i for i, name in enumerate(classes)}
        self.image_ids: tuple[int, ...] = tuple(sorted(self._coco.imgs))

    @property
    def categories(self) -> list[dict]:
        """The file's categories: id, name, supercategory."""
        return list(self._coco.cats.values())

    def __len__(self) -> int:
        return len(self.image_ids)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hash of the annotation file: two data sets with the same one are the same."""
        return hashlib.sha256(self.annotations.read_bytes()).hexdigest()[:16]

    def size(self, image_id: int) -> tuple[int, int]:
        """(height, width) of a picture, as the annotation file states it."""
        info = self._info(image_id)
        return info["height"], info["width"]

    def image(self, image_id: int) -> np.ndarray:
        """The picture, [H, W, 3] uint8 RGB."""
        pixels = read_rgb(self.folder / self._info(image_id)["file_name"])
        if pixels.shape[:2] != self.size(image_id):
            raise DataError(
                f"{self.folder / self._info(image_id)['file_name']} is {pixels.shape[1]}×{pixels.shape[0]} px, but "
                f"{self.annotations.name} says {self.size(image_id)[::-1]}: they do not belong together."
            )
        return pixels

    def annotations_of(self, image_id: int) -> list[dict]:
        """The picture's annotations as the file has them, in file order, crowds included."""
        return self._coco.imgToAnns.get(image_id, [])

    def label_map(self, image_id: int) -> np.ndarray:
        """Which class each pixel belongs to, [H, W] uint8: 0 background, class index + 1 otherwise."""
        canvas = np.zeros(self.size(image_id), np.uint8)
        for annotation in self.annotations_of(image_id):
            index = self._index.get(annotation["category_id"])
            if index is not None and not annotation.get("iscrowd", 0):
                _paint(canvas, annotation["segmentation"], index + 1)
        return canvas

    def mask(self, image_id: int, class_name: str) -> np.ndarray:
        """Where `class_name` is in a picture, [H, W] bool."""
        return self.label_map(image_id) == self.classes.index(class_name) + 1

    def images_by_class(self, min_pixels: int = MIN_PIXELS) -> Mapping[str, tuple[int, ...]]:
        """For each class the ids of the pictures that show at least `min_pixels` of it. Paints every label map."""
        found: dict[str, list[int]] = {c: [] for c in self.classes}
        for image_id in track(self.image_ids, f"label maps, {self.folder.name}", "picture"):
            counts = np.bincount(self.label_map(image_id).ravel(), minlength=len(self.classes) + 1)
            for index in np.flatnonzero(counts[1:] >= min_pixels):
                found[self.classes[index]].append(image_id)
        return {c: tuple(ids) for c, ids in found.items()}

    def _info(self, image_id: int) -> dict:
        try:
            return self._coco.imgs[image_id]
        except KeyError:
            raise DataError(f"picture {image_id} is not listed in {self.annotations}") from None


def read_rgb(path: str | Path) -> np.ndarray:
    """Read a picture file as [H, W, 3] uint8 RGB: EXIF rotation applied, grey, palette, CMYK and alpha converted.

    Raises:
        DataError: the file is missing, is no picture, or is cut off.
    """
    path = Path(path)
    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} is not a readable picture ({error}); replace or download it again.") from error


def _open_annotations(images: Path, annotations: Path) -> COCO:
    for path, kind in ((annotations, "annotation file"), (images, "picture folder")):
        if not path.exists():
            raise DataError(
                f"the {kind} {path} does not exist. LLAFS_DATA names the folder that holds coco/ in the "
                "official layout (coco/train2017, coco/val2017, coco/annotations); its default is ./data."
            )
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            return COCO(str(annotations))
    except (ValueError, KeyError, AssertionError) as error:
        raise DataError(f"{annotations} is not a readable COCO annotation file ({error}).") from error


def _paint(canvas: np.ndarray, segmentation: list | dict, value: int) -> None:
    """Paint one object into a label map in place; polygons as spec §3.3 says, run lengths as they stand."""
    if isinstance(segmentation, dict):
        canvas[_decode(segmentation).astype(bool)] = value
        return
    for polygon in segmentation:
        vertices = np.asarray(polygon).reshape(-1, 2)  # [x0, y0, x1, y1, …] → [n, 2]
        cv2.fillPoly(canvas, [vertices.astype(np.int32)], value)


def _decode(segmentation: dict) -> np.ndarray:
    if isinstance(segmentation["counts"], list):
        segmentation = coco_rle.frPyObjects(segmentation, *segmentation["size"])
    return coco_rle.decode(segmentation)
