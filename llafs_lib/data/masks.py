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


def tidy_masks(folder: Path, images: Path, skipped: Skipped) -> dict[str, list[dict]]:
    """The COCO file that a folder of masks stands for (see `tidy.tidy`).

    An annotation has a `mask`, its path, instead of a `segmentation`; `plain_annotation` reads it. Images without a
    mask are not listed. Of the images only the sizes are read, of the masks nothing.

    Raises:
        LlafsError: no class folder with a mask, or most masks fit no image.
    """
    known = _images_by_stem(images.resolve(), folder.resolve())
    listed: dict[str, dict] = {}  # image file → its entry
    numbers: dict[str, int] = {}  # class, folded → its number
    plain: dict[str, list[dict]] = {"images": [], "annotations": [], "categories": []}
    lost: Counter[str] = Counter()
    masks = list(_image_files(folder))
    for path in masks:
        fault = ""
        class_name, rest = clean_name(path.split("/", 1)[0]), path.split("/", 1)[-1]
        if rest == path:
            fault = "a mask that is in no folder of a class"
        elif len(found := _fitting(rest, known)) != 1:
            fault = "a mask that fits several images" if found else "a mask without an image of its name"
        elif (size := size_of(images / found[0])) is None:
            fault = "a mask whose image cannot be read"
        if fault:
            lost[fault] += 1
            skipped.add(fault, path)
            continue
        if normalise(class_name) not in numbers:
            numbers[normalise(class_name)] = len(numbers) + 1
            plain["categories"].append({"id": len(numbers), "name": class_name})
        if found[0] not in listed:
            listed[found[0]] = {"id": len(listed) + 1, "file_name": found[0], "height": size[0], "width": size[1]}
            plain["images"].append(listed[found[0]])
        state = (folder / path).stat()
        plain["annotations"].append(
            {
                "id": len(plain["annotations"]) + 1,
                "image_id": listed[found[0]]["id"],
                "category_id": numbers[normalise(class_name)],
                "mask": str(folder / path),
                "made": [state.st_size, state.st_mtime_ns],
            }
        )
    if not masks or set(lost) == {"a mask that is in no folder of a class"}:
        raise LlafsError(
            f"{folder} holds no folder of a class with mask images in it. {what_lies_in(folder) or LAYOUT}"
        )
    refuse_if_most(lost, len(masks), folder, what_lies_in(folder) or LAYOUT)
    return plain


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
