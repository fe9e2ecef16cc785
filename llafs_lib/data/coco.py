"""COCO: label maps from the official annotation JSON alone.

The objects of an image are painted into one label map by the rule that made the lists of COCO-20i (spec §3.3). Crowds
are left out. Objects are painted in the order of the file, a later one over an earlier one. The vertices of a polygon
are truncated to integers, and OpenCV's `fillPoly` fills it.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_rle
from pycocotools.coco import COCO

from llafs_lib.data.labels import Painted, Skipped, label_type, open_labels
from llafs_lib.data.splits import Split
from llafs_lib.errors import LlafsError
from llafs_lib.progress import track


class CocoSplit(Split):
    """One split (training or validation) of a COCO-format data set.

    The annotation file is parsed only when its label maps are not in the cache yet, or when `annotations_of` or
    `categories` is used.

    Args:
        images: the folder of the images.
        annotations: the `instances_*.json` file.
        classes: the class names in index order. Objects of the file's other categories are left out.
        also: what else decides the label maps (`open_labels`).

    Raises:
        LlafsError: a missing folder or file, broken JSON, a class that the file does not list, or an image that it
            lists twice with different facts.
    """

    def __init__(self, images: str | Path, annotations: str | Path, classes: tuple[str, ...], also: object = None):
        images, self.annotations = Path(images), Path(annotations)
        for path, kind in ((self.annotations, "annotation file"), (images, "image folder")):
            if not path.exists():
                raise LlafsError(
                    f"the {kind} {path} does not exist. LLAFS_DATA names the folder that holds coco/ in the official "
                    "layout (coco/train2017, coco/val2017, coco/annotations); its default is ./data."
                )
        self.classes = classes
        labels = open_labels(images.name, [self.annotations], classes, self._paint_all, also=also)
        super().__init__(images, classes, labels)
        self.__dict__.pop("_coco", None)  # for the full releases it takes gigabytes, and it is hardly ever needed again

    @property
    def categories(self) -> list[dict]:
        """The file's categories: id, name, supercategory."""
        return list(self._coco.cats.values())

    def annotations_of(self, image_id: int) -> list[dict]:
        """The annotations of an image as they are in the file and in its order, crowds included."""
        return self._coco.imgToAnns.get(image_id, [])

    @functools.cached_property
    def _coco(self) -> COCO:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
                return COCO(str(self.annotations))
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise LlafsError(
                f"{self.annotations} is not a readable COCO annotation file ({error}); download it again."
            ) from error

    def _paint_all(self, skipped: Skipped) -> Iterator[Painted]:
        index = self._index_of_category()
        images = self._images(skipped)
        self._look_for_strays(images, skipped)
        for image_id in track(sorted(images), f"label maps, {self.annotations.stem}", "image"):
            info = images[image_id]
            canvas = np.zeros((info["height"], info["width"]), label_type(len(self.classes)))
            for annotation in self.annotations_of(image_id):
                value = index.get(annotation["category_id"])
                if value is not None:
                    self._paint(canvas, annotation, value, skipped)
            yield Painted(image_id, info["file_name"], canvas)

    def _index_of_category(self) -> dict[int, int]:
        """Category id → value in the label maps."""
        by_name = {c["name"]: c["id"] for c in self.categories}
        unknown = [c for c in self.classes if c not in by_name]
        if unknown:
            raise LlafsError(f"{self.annotations} has no category named {', '.join(unknown)}: is it the right file?")
        return {by_name[name]: value for value, name in enumerate(self.classes, start=1)}

    def _images(self, skipped: Skipped) -> dict[int, dict]:
        images: dict[int, dict] = {}
        for info in self._coco.dataset.get("images", []):
            sides = info.get("height"), info.get("width")
            if not info.get("file_name") or not all(isinstance(s, int) and s > 0 for s in sides):
                raise LlafsError(
                    f"{self.annotations}: image {info.get('id')} lacks a file name, or a height and width in px."
                )
            if images.setdefault(info["id"], info) is not info:
                if images[info["id"]] != info:
                    raise LlafsError(f"{self.annotations} lists image {info['id']} twice, with different facts.")
                skipped.add("an image listed twice", f"image {info['id']}")
        return images

    def _look_for_strays(self, images: dict[int, dict], skipped: Skipped) -> None:
        for annotation in self._coco.anns.values():
            if annotation["image_id"] not in images:
                skipped.add("an annotation of an image that is not listed", f"annotation {annotation['id']}")
            elif annotation["category_id"] not in self._coco.cats:
                skipped.add("an annotation of a category that is not listed", f"annotation {annotation['id']}")

    def _paint(self, canvas: np.ndarray, annotation: dict, value: int, skipped: Skipped) -> None:
        """Paint one object into a label map in place: polygons by the rule of spec §3.3, run lengths as they are."""
        segmentation, where = annotation.get("segmentation"), f"annotation {annotation['id']}"
        if annotation.get("iscrowd", 0):
            skipped.add("a crowd annotation, which no label map shows (spec §3.3)", where)
        elif not segmentation:
            skipped.add("an object without any outline", where)
        elif isinstance(segmentation, dict):
            try:
                mask = decode(segmentation)
            except (KeyError, TypeError, ValueError) as error:
                raise LlafsError(
                    f"{self.annotations}, {where}: unreadable run lengths ({error}). Correct or remove it."
                ) from error
            if mask.shape != canvas.shape:
                raise LlafsError(
                    f"{self.annotations}, {where}: run lengths of {mask.shape[1]}×{mask.shape[0]} px in an image of "
                    f"{canvas.shape[1]}×{canvas.shape[0]} px. Correct or remove it."
                )
            canvas[mask] = value
        else:
            for polygon in segmentation:
                vertices = np.asarray(polygon, np.float64)
                if vertices.size == 0 or vertices.size % 2 or not np.isfinite(vertices).all():
                    skipped.add("a polygon that is not a list of x, y pairs", where)
                else:
                    fill(canvas, vertices, value)


def fill(canvas: np.ndarray, polygon: np.ndarray, value: int) -> None:
    """Fill a polygon [2·n] x0, y0, x1, y1, … of a label map [H, W] in place, by the rule of spec §3.3."""
    vertices = polygon.reshape(-1, 2)  # [2·n] → [n, 2]
    cv2.fillPoly(canvas, [vertices.astype(np.int32)], value)


def decode(run_lengths: dict) -> np.ndarray:
    """Run lengths {"size": [H, W], "counts": a list or COCO's compressed string} → [H, W] bool."""
    if isinstance(run_lengths["counts"], list):
        run_lengths = coco_rle.frPyObjects(run_lengths, *run_lengths["size"])
    return coco_rle.decode(run_lengths).astype(bool)
