"""The parameters of a run, each declared here and nowhere else: its default, what it may be, and what it means.

The options of `llafs` are made from these declarations. The Makefile's list, README's table and the notebooks'
parameter cells are tested against them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from llafs_lib.artifacts import RunFolder
from llafs_lib.classes import DATASETS, N_FOLDS, did_you_mean
from llafs_lib.errors import LlafsError

NOVEL_IN_TRAIN = ("background", "ignore", "drop")
SEGMENTERS = ("hsnet", "repri", "prototype")
LLM_MODES = ("auto", "replay", "refresh")
METHODS = ("hsnet", "prototypes")  # of `LLaFS` and of `llafs segment`; no notebook has it as a parameter

_DATA, _TRAINING = "data and model", "training (notebook 02)"
_EVALUATION, _LLM = "evaluation (notebook 05)", "language model"
_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


def unknown(value: object, known: Iterable[object]) -> str:
    """The sentence that refuses `value` and lists what is known; it suggests the closest word, if one is close."""
    words = [str(k) for k in known]
    return f"{value!r} is unknown: choose one of {', '.join(words)}.{did_you_mean(str(value), words)}"


def parameter(default: Any, group: str, help: str, choices: Iterable[Any] = (), low: float | None = None) -> Any:
    """A field of a dataclass that is also an option of `llafs`.

    Args:
        default: also says of which type every value is: bool, int, float or str.
        group, help: the heading and the text of the option in `llafs --help`.
        choices: the possible values; without any, all.
        low: the least value.
    """
    return field(default=default, metadata={"group": group, "help": help, "choices": tuple(choices), "low": low})


def check_parameters(chosen: Any) -> None:
    """Look at every field that `parameter` declared.

    Raises:
        LlafsError: a value of another type than the default's, below the least, or none of the choices.
    """
    for declared in fields(chosen):
        name, value = declared.name, getattr(chosen, declared.name)
        kind, low, choices = type(declared.default), declared.metadata["low"], declared.metadata["choices"]
        of_kind = type(value) is kind or (kind is float and type(value) is int)
        if not of_kind or (low is not None and not low <= value < float("inf")):
            least = "" if low is None else f" of at least {low}"
            raise LlafsError(f"{name} must be {_KINDS[kind]}{least}, not {value!r}.")
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

    dataset: str = parameter("toy", _DATA, f"one of {', '.join(DATASETS)}", choices=DATASETS)
    fold: int = parameter(0, _DATA, "which quarter of the classes is novel, 0 to 3", choices=range(N_FOLDS))
    shots: int = parameter(5, _DATA, "supports per query", low=1)
    seed: int = parameter(0, _DATA, "of training and of draws; notebook 05 asks the same for every seed", low=0)
    backbone: str = parameter("auto", _DATA, "small (for toy), mobilenet_v2, resnet50 …; auto: by data set")
    runs: str = parameter("runs", _DATA, "folder of all runs")
    budget: str = parameter("small", _TRAINING, "tiny (does it run?), small (two CPU cores) or full (as published)")
    novel_in_train: str = parameter(
        "background", _TRAINING, "novel objects in training images: background, ignore or drop", choices=NOVEL_IN_TRAIN
    )
    hold_out: bool = parameter(True, _TRAINING, "keep a few base classes out of training to choose a model on")
    compare_losses: bool = parameter(False, _TRAINING, "train with three losses and compare them: minutes more")
    segmenters: str = parameter(",".join(SEGMENTERS), _EVALUATION, "the models to ask, separated by commas")
    queries: int = parameter(150, _EVALUATION, "how many queries to ask at most; 0 asks all", low=0)
    llm: str = parameter("", _LLM, "the model to ask which classes look alike; without one, recorded answers serve")
    llm_mode: str = parameter(
        "auto", _LLM, "auto: ask for what is not recorded; replay: never ask; refresh: ask anew", choices=LLM_MODES
    )
    llm_budget: float = parameter(
        0.0, _LLM, "stop before this run's questions cost more US dollars than this; 0: no limit", low=0
    )

    def __post_init__(self) -> None:
        check_parameters(self)
        for name in self.segmenters.split(","):
            if name not in SEGMENTERS:
                raise LlafsError(f"segmenters: {unknown(name, SEGMENTERS)}")
        if self.llm_mode == "refresh" and not self.llm:
            raise LlafsError("llm_mode 'refresh' asks a model anew: name one as llm (--llm).")
        if self.backbone == "auto":
            object.__setattr__(self, "backbone", "small" if self.dataset == "toy" else "mobilenet_v2")
        if self.backbone == "small" and self.dataset != "toy":
            raise LlafsError("backbone 'small' is trained on toy; photographs need one with ImageNet weights.")

    @property
    def run(self) -> RunFolder:
        """The run folder of these settings."""
        return RunFolder(self.runs, self.dataset, self.fold)

    @property
    def model(self) -> dict[str, Any]:
        """What decides the trained model: its manifest records this, and later notebooks require it."""
        return {k: getattr(self, k) for k in ("dataset", "fold", "seed", "backbone", "budget")}
