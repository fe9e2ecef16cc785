"""A folder of binary mask images, `masks/CLASS/x.png`, beside a folder of images, `images/x.jpg`."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_rle

from llafs_lib.classes import normalise
from llafs_lib.data.finding import folded
from llafs_lib.data.foreign import what_lies_in
from llafs_lib.data.labels import Skipped
from llafs_lib.data.tidy import clean_name, refuse_if_most, size_of
from llafs_lib.errors import LlafsError

LAYOUT = "Put each mask into the folder of its class, as masks/zebra/x.png for the image images/x.jpg."


def tidy_masks(folder: Path, images: Path, skipped: Skipped) -> dict[str, list[dict]]:
    """The COCO file that a folder of masks stands for (see `tidy.tidy`).

    An annotation has a `mask`, its path, instead of a `segmentation`; `with_run_lengths` reads it. Images without a
    mask are not listed. Of masks and images only the sizes are read.

    Raises:
        LlafsError: no class folder with a mask, or most masks fit no image.
    """
    known = _images_by_stem(images, folder)
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
            fault = "a mask whose image cannot be opened"
        elif size_of(folder / path) != size:
            fault = "a mask of another size than its image, or one that cannot be opened"
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


def with_run_lengths(annotation: dict) -> dict:
    """An annotation whose `mask` is read into the `segmentation` of COCO."""
    run_lengths = coco_rle.encode(np.asfortranarray(read_mask(Path(annotation["mask"])).astype(np.uint8)))
    return annotation | {"segmentation": run_lengths}


def read_mask(path: Path) -> np.ndarray:
    """A binary mask image of any mode → [H, W] bool. Soft edges are cut at the half.

    Transparent pixels are background. Otherwise what is not black is foreground.

    Raises:
        LlafsError: it cannot be read, or it holds more than two values that are no soft edge.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
                image = image.convert("RGBA")
                values = np.array(image.getchannel("A"))
                if values.min() == 255:
                    values = np.array(image.convert("L"))
            else:
                values = np.array(image.convert("L") if image.mode in ("RGB", "P", "CMYK", "YCbCr") else image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise LlafsError(f"{path} is not a readable mask ({error}); export it again.") from error
    levels = np.unique(values)
    if len(levels) > 2 and levels[-1] not in (1.0, 255, 65535):
        raise LlafsError(
            f"{path} is not a binary mask: it holds {len(levels)} values. Export one black and white mask per class."
        )
    return values > (0 if len(levels) <= 2 and levels[0] == 0 else levels[-1] / 2)


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
    endings, found = Image.registered_extensions(), []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(
            f for f in folders if not f.startswith(".") and (without is None or not _same(Path(root, f), without))
        )
        found += [
            Path(root, n).relative_to(folder).as_posix() for n in sorted(names) if Path(n).suffix.lower() in endings
        ]
    return found


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
