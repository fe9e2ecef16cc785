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
from pathlib import Path, PureWindowsPath
from typing import Any

import cv2
import numpy as np
from pycocotools.coco import COCO

from llafs_lib.data.foreign import read_coco_json
from llafs_lib.data.labels import Painted, Skipped, label_type, open_labels
from llafs_lib.data.outlines import EMPTY, FARTHEST, NO_PAIRS, as_numbers, decode, run_lengths
from llafs_lib.data.splits import Split
from llafs_lib.errors import LlafsError, told
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
        LlafsError: a missing folder or file, broken JSON, a field that is not what COCO says (`FIELDS`), a class that
            the file does not list, or an image or a category that it lists twice with different facts.
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
        content = read_coco_json(self.annotations)
        check_fields(content, self.annotations)
        return indexed(content)

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
        listed = self._coco.dataset["categories"]
        if not len(by_name) == len(self.categories) == len(listed):
            raise LlafsError(f"{self.annotations} lists an id or a name of a category twice: download it again.")
        unknown = [c for c in self.classes if c not in by_name]
        if unknown:
            raise LlafsError(f"{self.annotations} has no category named {', '.join(unknown)}: is it the right file?")
        return {by_name[name]: value for value, name in enumerate(self.classes, start=1)}

    def _images(self, skipped: Skipped) -> dict[int, dict]:
        images: dict[int, dict] = {}
        for info in self._coco.dataset.get("images", []):
            if images.setdefault(info["id"], info) is not info:
                if images[info["id"]] != info:
                    raise LlafsError(
                        f"{self.annotations} lists image {info['id']} twice, with different facts: correct it, or "
                        "download it again."
                    )
                skipped.add("an image listed twice", f"image {info['id']}")
        return images

    def _look_for_strays(self, images: dict[int, dict], skipped: Skipped) -> None:
        for annotation in self._coco.dataset["annotations"]:
            if self._coco.anns[annotation["id"]] is not annotation:
                skipped.add(
                    "an annotation with the id of a later one, painted as well", f"annotation {annotation['id']}"
                )
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
            plain, fault = run_lengths(segmentation, canvas.shape)
            if plain:
                canvas[decode(plain)] = value
            elif fault != EMPTY:
                raise LlafsError(f"{self.annotations}, {where}: {fault}. Correct or remove it.")
        else:
            for polygon in segmentation if isinstance(segmentation, list) else [segmentation]:
                vertices = as_numbers(polygon)
                if vertices is None or vertices.size % 2 or not (np.abs(vertices) <= FARTHEST).all():
                    skipped.add(NO_PAIRS, where)
                else:
                    fill(canvas, vertices, value)


def fill(canvas: np.ndarray, polygon: np.ndarray, value: int) -> None:
    """Fill a polygon [2·n] x0, y0, x1, y1, … of a label map [H, W] in place, by the rule of spec §3.3."""
    vertices = polygon.reshape(-1, 2)  # [2·n] → [n, 2]
    cv2.fillPoly(canvas, [vertices.astype(np.int32)], value)


def indexed(dataset: dict) -> COCO:
    """A parsed annotation file as pycocotools' object."""
    coco = COCO()
    coco.dataset = {"categories": [], "images": [], "annotations": []} | dataset
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco.createIndex()
    return coco


# --- what a field may be ---------------------------------------------------------------------------------------------

LARGEST = 2**26  # px of an image of a data set; the largest of COCO's has 2**19


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _is_side(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _is_inside(name: Any) -> bool:
    """Whether it names a file in a folder, on any system."""
    path = PureWindowsPath(name if isinstance(name, str) else "")
    return bool(path.parts) and not path.anchor and ".." not in path.parts and "\0" not in name


_ID = (_is_whole, "a whole number from 0 on")
_SIDE = (_is_side, "a whole number of px")
FIELDS = {  # list → field → whether a value is right, and what it must be
    "categories": {"id": _ID, "name": (lambda v: isinstance(v, str) and v, "a text")},
    "images": {"id": _ID, "file_name": (_is_inside, "a file in the image folder"), "height": _SIDE, "width": _SIDE},
    "annotations": {
        **{"id": _ID, "image_id": _ID, "category_id": _ID},
        "iscrowd": (lambda v: v is None or (isinstance(v, int) and v in (0, 1)), "0 or 1"),
    },
}


def check_fields(content: dict, source: Path) -> None:
    """Refuse an annotation file of a data set with a field that is not what COCO says.

    Raises:
        LlafsError: the message names the file, the entry and the field.
    """
    for kind, rules in FIELDS.items():
        entries = content.get(kind, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise LlafsError(f"{source}: {kind!r} is not a list of objects. Download the file again.")
        for number, entry in enumerate(entries, 1):
            for field, (is_right, wanted) in rules.items():
                if not is_right(entry.get(field)):
                    raise LlafsError(
                        f"{source}, entry {number} of {kind!r}: {field!r} must be {wanted}, not "
                        f"{told(entry.get(field))}. Correct it, or download the file again."
                    )
            if kind == "images" and entry["height"] * entry["width"] > LARGEST:
                raise LlafsError(
                    f"{source}, entry {number} of {kind!r} states {told(entry['width'])} × {told(entry['height'])} px, "
                    f"which is more than {LARGEST:,} px. Correct it, or download the file again."
                )
