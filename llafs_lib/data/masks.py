"""A folder of binary mask images, `masks/CLASS/x.png`, beside a folder of images, `images/x.jpg`."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_rle

from llafs_lib.classes import normalise
from llafs_lib.data.finding import folded
from llafs_lib.data.foreign import what_lies_in
from llafs_lib.data.formats import SUFFIXES
from llafs_lib.data.images import as_mask
from llafs_lib.data.labels import Skipped
from llafs_lib.data.tidy import clean_name, refuse_if_most, size_of
from llafs_lib.errors import LlafsError

LAYOUT = "Put each mask into the folder of its class, as masks/zebra/x.png for the image images/x.jpg."
NO_CLASS = "a mask that is in no folder of a class"


def tidy_masks(folder: Path, images: Path, skipped: Skipped) -> dict[str, list[dict]]:
    """The COCO file that a folder of masks stands for (see `tidy.tidy`).

    An annotation has a `mask`, its path, instead of a `segmentation`; `plain_annotation` reads it. Images without a
    mask are not listed. Of the images only the sizes are read, of the masks nothing.

    Raises:
        LlafsError: no class folder with a mask, or most masks fit no image.
    """
    known = _images_by_stem(images.resolve(), folder.resolve())
    listed: dict[str, dict] = {}  # image file → its entry
    classes: dict[str, dict] = {}  # class, normalised → its entry
    annotations: list[dict] = []
    lost: Counter[str] = Counter()
    for path in (masks := _image_files(folder)):
        class_folder, _, rest = path.partition("/") if "/" in path else ("", "", path)
        name, found = clean_name(class_folder), _fitting(rest, known)
        if fault := _why_lost(folder / path, name, found) or _list_image(images, found[0], listed):
            lost[fault] += 1
            skipped.add(fault, path)
            continue
        entry = classes.setdefault(normalise(name) or name, {"id": len(classes) + 1, "name": name})
        made, image = (folder / path).stat(), listed[found[0]]
        annotation = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": entry["id"]}
        annotations.append(annotation | {"mask": str(folder / path), "made": [made.st_size, made.st_mtime_ns]})
    if set(lost) <= {NO_CLASS} and not annotations:
        hint = what_lies_in(folder) or LAYOUT
        raise LlafsError(f"{folder} holds no folder of a class with mask images in it. {hint}")
    refuse_if_most(lost, len(masks), folder, what_lies_in(folder) or LAYOUT)
    return {"images": list(listed.values()), "annotations": annotations, "categories": list(classes.values())}


def _why_lost(mask: Path, class_name: str, found: list[str]) -> str:
    if not class_name:
        return NO_CLASS
    if len(found) != 1:
        return "a mask that fits several images" if found else "a mask without an image of its name"
    return "" if mask.is_file() else "a mask that is a dead link"


def _list_image(images: Path, file: str, listed: dict[str, dict]) -> str:
    """Add the entry of an image unless it is listed. Returns why that failed, or ""."""
    if file not in listed:
        size = size_of(images / file)
        if size is None:
            return "a mask whose image cannot be read"
        listed[file] = {"id": len(listed) + 1, "file_name": file, "height": size[0], "width": size[1]}
    return ""


def plain_annotation(annotation: dict, size: tuple[int, int]) -> dict:
    """An annotation whose `mask`, if it has one, is read into the `segmentation` of COCO.

    Args:
        size: (height, width) of the image, px.

    Raises:
        LlafsError: the mask is of another size, holds several classes, or cannot be read (`images.as_mask`).
    """
    if "mask" not in annotation:
        return annotation
    mask = as_mask(annotation["mask"], size)
    return annotation | {"segmentation": coco_rle.encode(np.asfortranarray(mask.astype(np.uint8)))}


def _images_by_stem(images: Path, masks: Path) -> dict[str, list[str]]:
    """Images by their folded path, with and without its ending, and by the last part of both."""
    known: dict[str, list[str]] = {}
    for path in _image_files(images, masks):
        whole = folded(path)
        stem = whole.rsplit(".", 1)[0]
        for key in {whole, stem, "*/" + whole.rsplit("/", 1)[-1], "*/" + stem.rsplit("/", 1)[-1]}:
            known.setdefault(key, []).append(path)
    return known


def _fitting(mask: str, known: dict[str, list[str]]) -> list[str]:
    stem = folded(mask).rsplit(".", 1)[0]
    return known.get(stem) or known.get("*/" + stem.rsplit("/", 1)[-1]) or []


def _image_files(folder: Path, without: Path | None = None) -> list[str]:
    """The image files in a folder and its subfolders, relative to it, with slashes, in order."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and Path(root, f) != without)
        paths = [Path(root, name).relative_to(folder) for name in sorted(names) if not name.startswith(".")]
        found += [path.as_posix() for path in paths if path.suffix.lower() in SUFFIXES]
    return found
