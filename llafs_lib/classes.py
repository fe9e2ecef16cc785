"""Class names, aliases, super-categories and fold membership: facts, no I/O.

Sources: the 80 COCO categories and their super-categories as in the official annotation files; the PASCAL VOC order;
COCO-20i folds as HSNet, RePRI and PFENet (`use_split_coco`) define them: index modulo 4.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

from llafs_lib.errors import LlafsError

N_FOLDS = 4

# super-category → the categories in it, in the order of their official ids
COCO_SUPERCATEGORIES: dict[str, tuple[str, ...]] = {
    "person": ("person",),
    "vehicle": ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    "outdoor": ("traffic light", "fire hydrant", "stop sign", "parking meter", "bench"),
    "animal": ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    "accessory": ("backpack", "umbrella", "handbag", "tie", "suitcase"),
    "sports": (
        "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard",
        "surfboard", "tennis racket",
    ),
    "kitchen": ("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    "food": (
        "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake",
    ),
    "furniture": ("chair", "couch", "potted plant", "bed", "dining table", "toilet"),
    "electronic": ("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    "appliance": ("microwave", "oven", "toaster", "sink", "refrigerator"),
    "indoor": ("book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
}  # fmt: skip

COCO_CLASSES: tuple[str, ...] = tuple(name for names in COCO_SUPERCATEGORIES.values() for name in names)

# Official ids run from 1 to 90 with ten of them unused.
_UNUSED_COCO_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS: dict[str, int] = dict(zip(COCO_CLASSES, (i for i in range(1, 91) if i not in _UNUSED_COCO_IDS), strict=True))

PASCAL_CLASSES: tuple[str, ...] = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

# `toy`: five families of four look-alikes. The order within a family is the order of the folds, so that
# "index modulo 4" makes exactly one member of each family novel, as it does for COCO-20i's 80 classes.
TOY_FAMILIES: dict[str, tuple[str, str, str, str]] = {
    "animal": ("giraffe", "horse", "zebra", "cow"),
    "vehicle": ("bus", "truck", "car", "train"),
    "vessel": ("cup", "bottle", "wine glass", "vase"),
    "screen": ("tv", "laptop", "microwave", "oven"),
    "ball": ("orange", "apple", "donut", "sports ball"),
}
TOY_CLASSES: tuple[str, ...] = tuple(name for family in TOY_FAMILIES.values() for name in family)

DATASETS: dict[str, tuple[str, ...]] = {"toy": TOY_CLASSES, "coco-mini": COCO_CLASSES, "coco-20i": COCO_CLASSES}

# What people (and language models) also call the COCO classes.
ALIASES: dict[str, str] = {
    "aeroplane": "airplane",
    "plane": "airplane",
    "bike": "bicycle",
    "motorbike": "motorcycle",
    "sofa": "couch",
    "settee": "couch",
    "tvmonitor": "tv",
    "television": "tv",
    "tv monitor": "tv",
    "monitor": "tv",
    "diningtable": "dining table",
    "table": "dining table",
    "pottedplant": "potted plant",
    "houseplant": "potted plant",
    "plant": "potted plant",
    "fridge": "refrigerator",
    "mobile phone": "cell phone",
    "cellphone": "cell phone",
    "smartphone": "cell phone",
    "hairdryer": "hair drier",
    "hair dryer": "hair drier",
    "doughnut": "donut",
    "hotdog": "hot dog",
    "wineglass": "wine glass",
    "ball": "sports ball",
    "mug": "cup",
    "stove": "oven",
    "computer mouse": "mouse",
    "remote control": "remote",
    "hydrant": "fire hydrant",
    "purse": "handbag",
    "rucksack": "backpack",
    "necktie": "tie",
    "lorry": "truck",
}


def normalise(name: str) -> str:
    """Fold case, Unicode form, underscores, hyphens and runs of white space: `" Cell-Phone "` → `"cell phone"`."""
    text = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(text.replace("_", " ").replace("-", " ").split())


def find_class(name: str, vocabulary: tuple[str, ...]) -> str | None:
    """The class of `vocabulary` that `name` means, through normalisation and aliases; None if there is none."""
    text = normalise(name)
    by_name = {normalise(c): c for c in vocabulary}
    if text in by_name:
        return by_name[text]
    # An alias works both ways round: "sofa" finds COCO's "couch", "couch" finds PASCAL's "sofa".
    canonical = ALIASES.get(text, text)
    for known, original in by_name.items():
        if ALIASES.get(known, known) == canonical:
            return original
    return None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'giraffe'?"` for "girafe"; empty if nothing known is close."""
    close = difflib.get_close_matches(normalise(name), list(known), n=1, cutoff=0.7)
    return f" Did you mean {close[0]!r}?" if close else ""


def novel_classes(classes: tuple[str, ...], fold: int) -> tuple[str, ...]:
    """The novel classes of a fold: every class whose index modulo 4 is `fold` (spec §3.1; HSNet's COCO-20i).

    Raises:
        LlafsError: if `fold` is not 0, 1, 2 or 3.
    """
    if fold not in range(N_FOLDS):
        raise LlafsError(f"fold must be 0, 1, 2 or 3, not {fold!r}")
    return classes[fold::N_FOLDS]


def base_classes(classes: tuple[str, ...], fold: int) -> tuple[str, ...]:
    """The classes of a fold that may be seen in training: all that are not novel."""
    novel = set(novel_classes(classes, fold))
    return tuple(c for c in classes if c not in novel)
