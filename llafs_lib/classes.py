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

N_FOLDS = 4  # of every published benchmark, and the most of any data set

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
    """A data set's classes, and how its folds take them (spec §3.1). A class is novel in exactly one fold.

    `interleaved`: fold *f* holds the classes whose index modulo the number of folds is *f*. `blocks`: it holds the
    *f*-th part of the list. Numbers of the one cannot be compared with numbers of the other.

    There are four folds, or fewer where fewer classes than four can be asked about: two classes make two folds.

    Args:
        classes: at least two.
        folds: "interleaved" or "blocks".
        askable: the classes that have images to train on and to test on. They are dealt first, so that every fold has
            one. None means all, as in every published benchmark.
    """

    classes: tuple[str, ...]
    folds: str = "interleaved"
    askable: tuple[str, ...] | None = None

    @property
    def order(self) -> tuple[str, ...]:
        """The classes in the order in which they are dealt to the folds: their own, but those to be asked first."""
        first = self.classes if self.askable is None else self.askable
        return (*first, *(c for c in self.classes if c not in set(first)))

    @property
    def n_folds(self) -> int:
        """How many folds the classes fill: 4, 3 or 2.

        Raises:
            LlafsError: there is only one class.
        """
        if len(self.classes) < 2:
            raise LlafsError(
                f"one class alone ({', '.join(map(repr, self.classes))}) makes no fold, because a fold needs a novel "
                "class and a base class: annotate a second class."
            )
        asked = len(self.classes if self.askable is None else self.askable)
        return min(N_FOLDS, max(asked, 2))

    def novel(self, fold: int) -> tuple[str, ...]:
        """The novel classes of a fold.

        Raises:
            LlafsError: there is no such fold.
        """
        n = self.n_folds
        if fold not in range(n):
            known = f"fold must be {', '.join(map(str, range(n - 1)))} or {n - 1}, not {fold!r}."
            raise LlafsError(known if n == N_FOLDS else f"the classes fill only {n} folds, so {known}")
        if self.folds == "interleaved":
            return self.order[fold::n]
        return tuple(c for i, c in enumerate(self.order) if i * n // len(self.order) == fold)

    def base(self, fold: int) -> tuple[str, ...]:
        """The classes of a fold that may be seen in training: all that are not novel."""
        novel = set(self.novel(fold))
        return tuple(c for c in self.classes if c not in novel)

    def validation(self, fold: int) -> tuple[str, ...]:
        """Base classes to choose a model on, held out of its training: 5 of COCO's 60, 2 of PASCAL's and `toy`'s 15.

        The field chooses its checkpoints on the very classes that it reports (spec §6.1). To choose on classes that are
        neither trained on nor reported, every fourth of the next fold's novel classes is set aside. Of fewer than four
        base classes none can be spared.
        """
        return self.novel((fold + 1) % self.n_folds)[::4] if len(self.base(fold)) >= 4 else ()


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
