"""What annotation tools write → the plain COCO file that they mean.

Each tool has its own idea of an id, a size and an outline. `tidy` reads all of them into one dict in which ids are
integers, sizes are pixels, names are files of the image folder, and an outline is a list of polygons or run lengths. It
counts what it leaves out, and gives up where that would be most of the file.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from llafs_lib.classes import normalise
from llafs_lib.data.files import shown
from llafs_lib.data.finding import ImageFolder, same_name
from llafs_lib.data.images import image_size
from llafs_lib.data.labels import Skipped
from llafs_lib.data.outlines import outlines_of
from llafs_lib.errors import LlafsError

NEEDS_OUTLINES = (
    "LLaFS needs masks: draw polygons or brush masks around the objects, or let your annotation tool make them of the "
    "boxes (Segment Anything does that in CVAT, Label Studio and Roboflow), and export as COCO again."
)
EXPORT_AGAIN = "Correct the file, or export it again as COCO instance segmentation."
LOOK_ELSEWHERE = "The images were looked for in {} and its subfolders: name the folder that holds them."
MISSING = "an image that is missing"
FILE_KEYS = ("file_name", "filename", "path", "coco_url")  # the last is where LVIS names the file
JOINERS = "\u200c\u200d"  # what Persian, Hindi and emoji need between two characters
LARGEST = 2**28  # px
STATED = 2**26  # px; what states more is looked at, since a label map takes a few bytes of memory per pixel


def tidy(raw: dict, folder: Path, source: Path, skipped: Skipped) -> dict[str, list[dict]]:
    """The plain COCO file that `raw` means. Images that state their size are not opened.

    Args:
        raw: a parsed annotation file with the lists `images`, `annotations` and `categories`.
        folder: the folder of the images.
        source: the annotation file, for messages.
        skipped: counts what is left out or mended.

    Returns: `images` (id ≥ 0, file_name relative to `folder`, height, width), `annotations` in the order of the file
        (id, image_id, category_id, segmentation, iscrowd), `categories` that have an object (id from 1, name).

    Raises:
        LlafsError: most images are not there, or most objects cannot be used.
    """
    lists = {key: _dicts(raw.get(key), key, skipped) for key in ("categories", "images", "annotations")}
    if not lists["annotations"]:
        raise LlafsError(f"{source} lists no object: export it again, together with its annotations.")
    if not any(_has_outline(a) for a in lists["annotations"]):
        raise LlafsError(f"{source}: no object has an outline ({_without_outline(lists)} only). {NEEDS_OUTLINES}")
    names = _categories(lists["categories"], skipped)
    images, by_id = _images(lists["images"], folder, source, skipped)
    crowds = _keeps_crowds_out(raw, lists["annotations"])
    objects, lost = [], Counter()
    for position, annotation in enumerate(lists["annotations"], 1):
        where = f"annotation {position if annotation.get('id') is None else annotation['id']}"
        try:
            name, image, segments = _object(annotation, names, by_id, skipped, where)
        except _Lost as reason:
            lost[str(reason)] += 1
            skipped.add(str(reason), where)
            continue
        crowd = int(crowds and bool(annotation.get("iscrowd")))
        objects += [(name, image, {"segmentation": segment, "iscrowd": crowd}) for segment in segments]
    missing = lost.most_common(1) and lost.most_common(1)[0][0].endswith(MISSING)
    remedy = LOOK_ELSEWHERE.format(folder) if missing else EXPORT_AGAIN
    refuse_if_most(lost, len(lists["annotations"]), source, remedy)
    return _numbered(objects, images, names, skipped)


class _Lost(Exception):
    """Why an object cannot be used."""


def refuse_if_most(lost: Counter, total: int, source: Path, remedy: str, what: str = "objects") -> None:
    """Raise a `LlafsError` with counts and causes where more than half of the objects, or images, are lost."""
    if 2 * lost.total() > total:
        listed = "; ".join(f"{count:,} × {reason}" for reason, count in lost.most_common())
        raise LlafsError(f"{source}: {lost.total():,} of {total:,} {what} cannot be used ({listed}). {remedy}")


def _dicts(entries: Any, key: str, skipped: Skipped) -> list[dict]:
    """The entries of a list of the file that are objects, as each should be."""
    if not isinstance(entries, list):
        return []
    for position, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            skipped.add(f"an entry of {key!r} that is no JSON object", f"entry {position}")
    return [entry for entry in entries if isinstance(entry, dict)]


def _has_outline(annotation: dict) -> bool:
    def filled(part: Any) -> bool:
        return any(isinstance(p, int | float) or filled(p) for p in part) if isinstance(part, list) else bool(part)

    return filled(annotation.get("segmentation"))


def _without_outline(lists: dict[str, list[dict]]) -> str:
    """`"5 boxes"`: what a file holds instead of outlines."""
    kinds = Counter(
        next((kind for kind in ("bbox", "keypoints", "caption") if a.get(kind)), "object") for a in lists["annotations"]
    )
    words = {"bbox": ("box", "boxes"), "keypoints": ("set of keypoints", "sets of keypoints")}
    named = [f"{n:,} {words.get(kind, (kind, kind + 's'))[n > 1]}" for kind, n in kinds.most_common()]
    return ", ".join(named)


# --- ids -------------------------------------------------------------------------------------------------------------


class _ById:
    """Things by the ids that tools write: "7", 7 and 7.0 are one id, unless the file tells them apart."""

    def __init__(self) -> None:
        self.things: list = []  # in the order of the file
        self._things: dict[Any, list] = {}

    def add(self, value: Any, thing: Any) -> None:
        self.things.append(thing)
        for key in _keys(value):
            known = self._things.setdefault(key, [])
            if not any(thing is k or thing == k for k in known):
                known.append(thing)

    def get(self, value: Any) -> list:
        """What has this id: nothing, one thing, or several if the id is ambiguous."""
        return next((self._things[key] for key in _keys(value) if key in self._things), [])


def _keys(value: Any) -> list[tuple]:
    plain = _plain_id(value)
    return [] if plain is None else [("exactly", isinstance(value, str), str(value).strip()), ("about", plain)]


def _plain_id(value: Any) -> int | str | None:
    """An id as an integer where it is one: 7, 7.0, "7" and "007" → 7. None if it is no id at all."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        number = re.fullmatch(r"([+-]?\d{1,18})(\.0*)?", text, re.ASCII)
        return int(number[1]) if number else text or None
    if isinstance(value, float):
        return str(value) if value == value else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# --- categories and images -------------------------------------------------------------------------------------------


def _categories(entries: list[dict], skipped: Skipped) -> _ById:
    """Id → class name, "" if it has none. Names that differ in case, blanks or hyphens only are one class."""
    names, spelling = _ById(), {}
    for entry in entries:
        where, name = f"category {entry.get('id')}", clean_name(entry.get("name"))
        if not name:
            skipped.add("a category without a name", where)
        elif (normalise(name) or name) in spelling:
            skipped.add("a category with the name of another one: the two are one class", where)
        names.add(entry.get("id"), spelling.setdefault(normalise(name) or name, name))
    return names


def clean_name(name: Any) -> str:
    """The name of a class as it is shown: composed Unicode, single blanks, nothing invisible; "" if it is none."""
    if isinstance(name, bool) or not isinstance(name, str | int | float):
        return ""
    text = unicodedata.normalize("NFC", str(name)).encode("utf-8", "replace").decode()
    kinds = {"Cc": " ", "Cf": ""}  # line ends and other controls; marks without a width
    return " ".join("".join(c if c in JOINERS else kinds.get(unicodedata.category(c), c) for c in text).split())


def _images(entries: list[dict], folder: Path, source: Path, skipped: Skipped) -> tuple[list[dict], _ById]:
    """The images as dicts of id, name (the file's), file_name (found), height, width and, if unusable, `lost`: why."""
    finder, images, by_id, by_file = ImageFolder(folder), [], _ById(), {}
    for entry in entries:
        name = str(next((entry[key] for key in FILE_KEYS if entry.get(key)), ""))
        image = {"id": entry.get("id"), "name": name, "file_name": finder.find(name) if name else None}
        image |= {side: _pixels(entry.get(side)) for side in ("height", "width")}
        if (image["height"] or 0) * (image["width"] or 0) > STATED:
            image |= {"height": None, "width": None}
        rivals = by_file.setdefault(image["file_name"] or ("missing", name), [])
        twin = next((r for r in rivals if same_name(r["name"], name)), None)
        if twin:
            skipped.add("an image listed twice", f"image {entry.get('id')}")
            if any(twin[side] != image[side] for side in ("height", "width")):
                twin |= {"height": None, "width": None}
        else:
            rivals.append(image)
            images.append(image)
        by_id.add(entry.get("id"), twin or image)
    for image in images:
        image["lost"] = _why_lost(image, by_file, by_id) or _complete(image, folder, skipped)
        if image["lost"]:
            skipped.add(image["lost"], f"image {image['id']} ({shown(image['name'])})")
    _refuse_if_most_are_lost(images, folder, source)
    return images, by_id


def _why_lost(image: dict, by_file: dict[str, list[dict]], by_id: _ById) -> str:
    if not image["name"]:
        return "an image without a file name"
    if image["file_name"] is None:
        return MISSING
    if len(by_file[image["file_name"]]) > 1 and not same_name(image["name"], image["file_name"]):
        return "an image whose name fits the file of another one"
    return "an image with the id of another one" if len(by_id.get(image["id"])) > 1 else ""


def _complete(image: dict, folder: Path, skipped: Skipped) -> str:
    """Read the size of an image from its file where the annotations do not state it. Returns why that failed, or ""."""
    if image["height"] and image["width"]:
        return ""
    size = size_of(folder / image["file_name"])
    if size is None:
        return "an image without a size that cannot be read"
    if size[0] * size[1] > LARGEST:
        return "an image that is too large"
    image["height"], image["width"] = size
    skipped.add("an image without a size, which was read from the image", f"image {image['id']}")
    return ""


def size_of(path: Path) -> tuple[int, int] | None:
    """(height, width) of an image as it is shown, px; None if it cannot be read."""
    try:
        return image_size(path)
    except LlafsError:
        return None


def _pixels(value: Any) -> int | None:
    """A side in pixels, from 640, 640.0 or "640"; None if it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and 0 < number < 2**31 and not isinstance(value, bool) else None


def _refuse_if_most_are_lost(images: list[dict], folder: Path, source: Path) -> None:
    if not images:
        raise LlafsError(f"{source} lists no image, so nobody knows where its objects are. Export it again.")
    lost = [image for image in images if image["lost"]]
    if lost:
        reasons = Counter(image["lost"] for image in lost)
        first = shown(lost[0]["name"]) or f"image {lost[0]['id']}"
        remedy = LOOK_ELSEWHERE.format(folder) if MISSING in reasons else EXPORT_AGAIN
        refuse_if_most(reasons, len(images), source, f"The first is {first}. {remedy}", "images")


# --- objects ---------------------------------------------------------------------------------------------------------


def _object(annotation: dict, names: _ById, by_id: _ById, skipped: Skipped, where: str) -> tuple[str, dict, list]:
    """The class, the image and the plain outlines of an object: polygons, or run lengths.

    Raises:
        _Lost: it cannot be used.
    """
    if not _has_outline(annotation):
        raise _Lost("a box without an outline" if annotation.get("bbox") else "an object without any outline")
    name = _the_one(names.get(annotation.get("category_id")), "category")
    image = _the_one(by_id.get(annotation.get("image_id")), "image")
    if not name:
        raise _Lost("an object of a category without a name")
    if image["lost"]:
        raise _Lost("an object of " + image["lost"])
    segments, faults = outlines_of(annotation["segmentation"], (image["height"], image["width"]))
    if not segments:
        raise _Lost(faults[0] if faults else "an object without any outline")
    for fault in faults:  # a part of the object is left
        skipped.add(fault, where)
    return name, image, segments


def _the_one(found: list, what: str) -> Any:
    if len(found) != 1:
        raise _Lost(f"an object whose {what} is not listed" if not found else f"an object whose {what} id is ambiguous")
    return found[0]


def _keeps_crowds_out(raw: dict, annotations: list[dict]) -> bool:
    """Whether `iscrowd` means a crowd, as in COCO's own files and in parts of them; for tools it means a brush mask."""
    crowds = sum(bool(a.get("iscrowd")) for a in annotations)
    return "cocodataset.org" in str(raw.get("info")) and 20 * crowds < len(annotations)


def _numbered(objects: list[tuple[str, dict, dict]], images: list[dict], names: _ById, skipped: Skipped) -> dict:
    """Images, objects and the classes that have one, with ids that are integers."""
    keys = [_plain_id(image["id"]) for image in images]
    whole = all(isinstance(key, int) and 0 <= key < 2**62 for key in keys) and len(set(keys)) == len(keys)
    seen: set = set()
    for position, (key, image) in enumerate(zip(keys, images, strict=True), 1):
        if not whole and (not isinstance(key, int) or key < 0 or key in seen):
            skipped.add("an image whose id is no whole number of its own: all were numbered from 1", f"image {key}")
        seen.add(key)
        image["id"] = key if whole else position
    used = {name for name, _, _ in objects}
    listed = dict.fromkeys(name for name in names.things if name)
    for name in listed:
        if name not in used:
            skipped.add("a category without a usable object, which is no class", repr(name))
    number = {name: value for value, name in enumerate((c for c in listed if c in used), 1)}
    return {
        "images": [{k: i[k] for k in ("id", "file_name", "height", "width")} for i in images if not i["lost"]],
        "annotations": [
            {"id": position, "image_id": image["id"], "category_id": number[name], **outline}
            for position, (name, image, outline) in enumerate(objects, 1)
        ],
        "categories": [{"id": value, "name": name} for name, value in number.items()],
    }
