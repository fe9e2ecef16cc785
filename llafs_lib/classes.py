"""Class names, aliases, super-categories and fold membership: facts, no I/O.

Sources: the 80 COCO categories and their super-categories as in the official annotation files; the PASCAL VOC order;
the folds as spec §3.1 collects them from the papers' code.
"""

from __future__ import annotations

import csv
import difflib
import functools
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Benchmark:
    """A data set's classes, and how its four folds take them.

    `interleaved`: fold *f* holds the classes whose index modulo 4 is *f*. `blocks`: it holds the *f*-th quarter of the
    list. Numbers of the one cannot be compared with numbers of the other.
    """

    classes: tuple[str, ...]
    folds: str = "interleaved"


DATASETS: dict[str, Benchmark] = {
    "toy": Benchmark(TOY_CLASSES),
    "coco-mini": Benchmark(COCO_CLASSES),
    # COCO-20i as HSNet, RePRI and PFENet (`use_split_coco`) define it, on the release that they use, and on 2017's,
    # whose validation images are others.
    "coco-20i": Benchmark(COCO_CLASSES),
    "coco-20i-2017": Benchmark(COCO_CLASSES),
    # The other benchmark that some call COCO-20i (PANet's setting: 20 classes in a row). Never mix the two.
    "coco-blocks": Benchmark(COCO_CLASSES, "blocks"),
    "coco-blocks-2017": Benchmark(COCO_CLASSES, "blocks"),
    "pascal-5i": Benchmark(PASCAL_CLASSES, "blocks"),
}

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
    "human": "person",
    "human being": "person",
    "phone": "cell phone",
    "telephone": "cell phone",
    "television set": "tv",
    "tv set": "tv",
    "tennis racquet": "tennis racket",
    "stoplight": "traffic light",
    "traffic signal": "traffic light",
    "racket": "tennis racket",
}


def normalise(name: str) -> str:
    """Fold case, Unicode form, underscores, hyphens and runs of white space: `" Cell-Phone "` → `"cell phone"`."""
    text = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(text.replace("_", " ").replace("-", " ").split())


def find_class(name: str, vocabulary: Sequence[str]) -> str | None:
    """The class of `vocabulary` that `name` means: as written, else through normalisation and aliases, else None."""
    text = normalise(name)
    by_name, by_canonical = _index(tuple(vocabulary))
    # An alias works both ways round: "sofa" finds COCO's "couch", "couch" finds PASCAL's "sofa".
    return by_name.get(name) or by_name.get(text) or by_canonical.get(ALIASES.get(text, text))


@functools.lru_cache(maxsize=64)
def _index(vocabulary: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Two tables of the classes: by their name, also normalised, and by the name that their aliases lead to."""
    normalised = {normalise(c): c for c in reversed(vocabulary)}  # of classes with one normal form the first has it
    by_canonical: dict[str, str] = {}
    for known in map(normalise, vocabulary):
        by_canonical.setdefault(ALIASES.get(known, known), normalised[known])
    return normalised | {c: c for c in vocabulary}, by_canonical


def split_names(text: str) -> list[str]:
    """`"okapi, lion"` → `["okapi", "lion"]`. A name with a comma stands in double quotes: `'"salt, pepper",lion'`.

    Raises:
        LlafsError: there is a line break in it.
    """
    try:
        (row,) = csv.reader([text], skipinitialspace=True)
    except (csv.Error, ValueError):
        raise LlafsError(f"{text!r} is no list of names: leave out the line break.") from None
    return [name.strip() for name in row if name.strip()]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'giraffe'?"` for "girafe"; empty if nothing known is close. Compared as `normalise` has them."""
    by_form = {normalise(k): k for k in known}
    close = difflib.get_close_matches(normalise(name), by_form, n=1, cutoff=0.7)
    return f" Did you mean {by_form[close[0]]!r}?" if close else ""


def novel_classes(dataset: str, fold: int) -> tuple[str, ...]:
    """The novel classes of a fold of a data set: a quarter of its classes (spec §3.1).

    Raises:
        LlafsError: `fold` is not 0, 1, 2 or 3.
    """
    if fold not in range(N_FOLDS):
        raise LlafsError(f"fold must be 0, 1, 2 or 3, not {fold!r}")
    benchmark = DATASETS[dataset]
    if benchmark.folds == "interleaved":
        return benchmark.classes[fold::N_FOLDS]
    size = len(benchmark.classes) // N_FOLDS
    return benchmark.classes[fold * size : (fold + 1) * size]


def base_classes(dataset: str, fold: int) -> tuple[str, ...]:
    """The classes of a fold that may be seen in training: all that are not novel."""
    novel = set(novel_classes(dataset, fold))
    return tuple(c for c in DATASETS[dataset].classes if c not in novel)


def validation_classes(dataset: str, fold: int) -> tuple[str, ...]:
    """Base classes to choose a model on, held out of its training: 5 of COCO's 60, 2 of PASCAL's and `toy`'s 15.

    The field chooses its checkpoints on the very classes that it reports (spec §6.1). To choose on classes that are
    neither trained on nor reported, every fourth of the next fold's novel classes is set aside.
    """
    return novel_classes(dataset, (fold + 1) % N_FOLDS)[::4]
