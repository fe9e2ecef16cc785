"""The parameters of a run, each declared here and nowhere else: its default, what it may be, and what it means.

The options of `llafs` are made from these declarations. The Makefile's list, README's table and the notebooks'
parameter cells are tested against them.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from llafs_lib.artifacts import RunFolder
from llafs_lib.classes import DATASETS, N_FOLDS, did_you_mean
from llafs_lib.errors import LlafsError, told

NOVEL_IN_TRAIN = ("background", "ignore", "drop")
SEGMENTERS = ("hsnet", "repri", "prototype", "insid3")
LLM_MODES = ("auto", "replay", "refresh")
PHOTOGRAPHS_BACKBONE = "efficientnet_lite2"  # where nothing else is asked for
METHODS = ("hsnet", "prototypes")  # of `LLaFS` and of `llafs segment`; no notebook has it as a parameter

MOST = 1_000_000  # what a number of a run is at most, if nothing else is said
MOST_SHOTS, LAST_SEED = 1000, 2**32 - 1  # NumPy and scikit-learn take no greater seed

_DATA, _TRAINING = "data and model", "training (notebooks 02 and 02b)"
_EVALUATION, _LLM = "evaluation (notebook 05)", "language model"
_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


def unknown(value: object, known: Iterable[object]) -> str:
    """The sentence that refuses `value` and lists what is known; it suggests the closest word, if one is close."""
    words = [str(k) for k in known]
    hint = did_you_mean(value, words) if isinstance(value, str) else ""
    return f"{told(value)} is unknown: choose one of {', '.join(words)}.{hint}"


def parameter(
    default: Any, group: str, help: str, choices: Iterable[Any] = (), low: float | None = None, high: float = MOST
) -> Any:
    """A field of a dataclass that is also an option of `llafs`.

    Args:
        default: also says of which type every value is: bool, int, float or str.
        group, help: the heading and the text of the option in `llafs --help`.
        choices: the possible values; without any, all.
        low, high: the least value, and where there is one the greatest.
    """
    about = {"group": group, "help": help, "choices": tuple(choices), "low": low, "high": high}
    return field(default=default, metadata=about)


def check_parameters(chosen: Any) -> None:
    """Look at every field that `parameter` declared.

    Raises:
        LlafsError: a value of another type than the default's, out of its range, or none of the choices.
    """
    for declared in fields(chosen):
        name, value = declared.name, getattr(chosen, declared.name)
        kind, low, choices = type(declared.default), declared.metadata["low"], declared.metadata["choices"]
        of_kind, high = type(value) is kind or (kind is float and type(value) is int), declared.metadata["high"]
        if not of_kind or (low is not None and not low <= value <= high):
            span = "" if low is None else f" of at least {low} and at most {high:,}"
            raise LlafsError(f"{name} must be {_KINDS[kind]}{span}, not {told(value)}.")
        if choices and value not in choices:
            raise LlafsError(f"{name}: {unknown(value, choices)}")


@dataclass(frozen=True)
class Settings:
    """The parameters of a run, checked. Every notebook takes those it needs.

    Names of backbones and budgets belong to `vision`, which this floor must not import: `tools.tutorial.checked`
    looks at those two.

    Raises:
        LlafsError: an impossible value; the message lists the possible ones.
    """

    dataset: str = parameter("toy", _DATA, f"one of {', '.join(DATASETS)}, or a COCO file of your own: my/objects.json")
    images: str = parameter("", _DATA, "the folder of your own images; without it, they lie beside the COCO file")
    val: str = parameter("", _DATA, "a second COCO file of your own, to test on; without it, a fifth of the images")
    min_area: float = parameter(
        0.0, _DATA, "share of one of your own images that a class must cover to count; 0: 1/150", low=0, high=1
    )
    fold: int = parameter(0, _DATA, "which part of the classes is novel, 0 to 3", choices=range(N_FOLDS))
    shots: int = parameter(5, _DATA, "supports per query", low=1, high=MOST_SHOTS)
    seed: int = parameter(
        0, _DATA, "of training and of draws; notebook 05 asks the same for every seed", low=0, high=LAST_SEED
    )
    backbone: str = parameter("auto", _DATA, "small (for toy), efficientnet_lite2, resnet50 …; auto: by data set")
    runs: str = parameter("runs", _DATA, "folder of all runs")
    budget: str = parameter("small", _TRAINING, "tiny (does it run?), small (two CPU cores) or full (as published)")
    novel_in_train: str = parameter(
        "background", _TRAINING, "novel objects in training images: background, ignore or drop", choices=NOVEL_IN_TRAIN
    )
    hold_out: bool = parameter(True, _TRAINING, "keep a few base classes out of training to choose a model on")
    compare_losses: bool = parameter(False, _TRAINING, "train with three losses and compare them: minutes more")
    segmenters: str = parameter(
        "hsnet,repri,prototype", _EVALUATION, f"the models to ask, with commas between: {', '.join(SEGMENTERS)}"
    )
    queries: int = parameter(60, _EVALUATION, "how many queries to ask at most; 0 asks all", low=0)
    llm: str = parameter("", _LLM, "the model to ask which classes look alike; without one, recorded answers serve")
    llm_mode: str = parameter(
        "auto", _LLM, "auto: ask for what is not recorded; replay: never ask; refresh: ask anew", choices=LLM_MODES
    )
    llm_budget: float = parameter(
        0.0, _LLM, "stop before this run's questions cost more US dollars than this; 0: no limit", low=0
    )

    def __post_init__(self) -> None:
        check_parameters(self)
        self._check_data()
        for name in self.segmenters.split(","):
            if name not in SEGMENTERS:
                raise LlafsError(f"segmenters: {unknown(name, SEGMENTERS)}")
        if self.llm_mode == "refresh" and not self.llm:
            raise LlafsError("llm_mode 'refresh' asks a model anew: name one as llm (--llm).")
        if self.backbone == "auto":
            object.__setattr__(self, "backbone", "small" if self.dataset == "toy" else PHOTOGRAPHS_BACKBONE)
        if self.backbone == "small" and self.dataset != "toy":
            raise LlafsError("backbone 'small' is trained on toy; photographs need one with ImageNet weights.")

    def _check_data(self) -> None:
        """Look at what says which data to use, and bring the paths of one's own to one form."""
        if self.own:
            if not _is_path(self.dataset):
                raise LlafsError(f"dataset: {unknown(self.dataset, DATASETS)} A file of your own ends in .json.")
            if self.min_area >= 1:
                raise LlafsError(f"min_area is a share of the image, below 1, not {self.min_area!r}.")
            for name in ("dataset", "images", "val"):
                if path := getattr(self, name):
                    object.__setattr__(self, name, _absolute(path))
            return
        for name in ("images", "val", "min_area"):
            if getattr(self, name):
                raise LlafsError(
                    f"{name} is for a COCO file of your own: {self.dataset} brings its images, its validation images "
                    f"and its rule (2,048 px) along. Leave {name} out, or give a file as dataset."
                )

    @property
    def own(self) -> bool:
        """Whether `dataset` is a file of one's own rather than a name."""
        return self.dataset not in DATASETS

    @property
    def run(self) -> RunFolder:
        """The run folder of these settings."""
        return RunFolder(self.runs, data_name(self.dataset), self.fold)

    @property
    def model(self) -> dict[str, Any]:
        """What decides the trained model: its manifest records this, and later notebooks require it."""
        chosen = {k: getattr(self, k) for k in ("fold", "seed", "backbone", "budget")}
        return {"dataset": data_name(self.dataset), **chosen}


def data_name(dataset: str) -> str:
    """What a data set is called: its name, or for a path a short one with a hash, such as "objects-3f2a".

    However a path is spelled, its name is the same.
    """
    if dataset in DATASETS:
        return dataset
    path = _absolute(dataset)
    digest = hashlib.sha256(unicodedata.normalize("NFC", path).encode(errors="surrogateescape")).hexdigest()
    stem = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", Path(path).stem)).strip("-._")[:40]
    return f"{stem or 'data'}-{digest[:4]}"


def _is_path(dataset: str) -> bool:
    try:
        looks_so = dataset.lower().endswith(".json") or Path(dataset).name != dataset
        return bool(dataset) and (looks_so or Path(dataset).exists())
    except OSError:  # a name longer than any file's
        return False


def _absolute(path: str) -> str:
    try:
        return Path(path).expanduser().resolve().as_posix()
    except (OSError, RuntimeError, ValueError) as error:  # ~nobody, a zero byte, a link to itself
        raise LlafsError(f"{path!r} is no path of a file ({error}): correct it.") from None
