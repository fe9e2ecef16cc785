"""How long and how to train: one preset per model, budget and data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llafs_lib.classes import did_you_mean
from llafs_lib.errors import LlafsError
from llafs_lib.vision.timm_nets import CHOICES


@dataclass(frozen=True)
class Recipe:
    """What decides a training beside its data and its seed.

    size: side of the images, px; rate: the learning rate at the start; it follows a cosine to `last_rate`.
    """

    size: int
    epochs: int
    batch: int
    samples: int = 0  # per epoch: episodes drawn (HSNet), images (RePRI's base network); 0 takes every image once
    optimizer: str = "adam"  # or "sgd": momentum 0.9, Nesterov's, weight decay 1e-4
    rate: float = 1e-3
    last_rate: float = 0.0
    dice: float = 0.0  # weights of the losses that the source document adds to cross-entropy
    contrastive: float = 0.0
    whole: bool = False  # the backbone is trained as well
    upside_down: bool = False  # base images are mirrored at random; also from top to bottom, as published?
    label_stride: int = 1  # every n-th pixel is taught, on both axes


COCO_RELEASES = ("coco-20i", "coco-20i-2017", "coco-blocks", "coco-blocks-2017")
RELEASES = (*COCO_RELEASES, "pascal-5i")
OWN = "any other photographs"  # trained as coco-mini, which has as few
PHOTOGRAPHS = ("coco-mini", OWN, *RELEASES)

# `tiny` proves that everything runs; `small` is for two CPU cores; `full` is as published. HSNet's (spec §1.9): Adam at
# a constant 1e-3; an epoch of fold 0 is 62,040 draws on COCO-20i, 11,394 on PASCAL-5i; training was stopped by hand.
_TINY = Recipe(size=129, epochs=2, batch=4, samples=40, dice=1.0)
_SMALL = Recipe(size=225, epochs=20, batch=8, samples=1000, rate=5e-4, dice=1.0)
_FULL = Recipe(size=400, epochs=350, batch=40, samples=62040, last_rate=1e-3)
HSNET: dict[str, dict[str, Recipe]] = {
    "tiny": dict.fromkeys(("toy", *PHOTOGRAPHS), _TINY),
    "small": {
        "toy": replace(_SMALL, size=161, epochs=7, batch=4, samples=200, rate=1e-3),
        **dict.fromkeys(("coco-mini", OWN), replace(_SMALL, epochs=9, batch=4, samples=500)),
        **dict.fromkeys(RELEASES, _SMALL),
    },
    "full": {
        **dict.fromkeys(COCO_RELEASES, _FULL),
        "pascal-5i": replace(_FULL, batch=20, samples=11394),
    },
}

# The base network that RePRI reads (spec §2.2). On `toy` it is trained whole, from scratch, and its backbone serves the
# other models too; on photographs the small budgets train the head alone.
_BASE_TINY = Recipe(size=129, epochs=2, batch=12, samples=96, optimizer="sgd", rate=1e-2, label_stride=4)
_BASE_SMALL = replace(_BASE_TINY, size=385, epochs=10, samples=0)
_BASE_FULL = Recipe(417, 20, 12, optimizer="sgd", rate=2.5e-3, last_rate=1e-6, whole=True, upside_down=True)
BASE: dict[str, dict[str, Recipe]] = {
    "tiny": {
        "toy": replace(_BASE_TINY, batch=4, samples=100, optimizer="adam", rate=1e-3, whole=True),
        **dict.fromkeys(PHOTOGRAPHS, _BASE_TINY),
    },
    "small": {
        "toy": Recipe(161, 10, 4, rate=1e-3, whole=True, label_stride=4),
        **dict.fromkeys(PHOTOGRAPHS, _BASE_SMALL),
    },
    "full": {
        **dict.fromkeys(COCO_RELEASES, _BASE_FULL),
        "pascal-5i": replace(_BASE_FULL, epochs=100),
    },
}


# The comparison of losses: three of them, three seeds each.
_ABLATION = Recipe(size=129, epochs=3, batch=4, samples=160)
ABLATION: dict[str, dict[str, Recipe]] = {
    "tiny": dict.fromkeys(("toy", *PHOTOGRAPHS), replace(_ABLATION, epochs=1, samples=8)),
    "small": dict.fromkeys(("toy", *PHOTOGRAPHS), _ABLATION),
    "full": dict.fromkeys(RELEASES, replace(_ABLATION, size=225, epochs=10, batch=8, samples=2000)),
}


def recipe_for(budget: str, dataset: str, presets: Mapping[str, Mapping[str, Recipe]] = HSNET) -> Recipe:
    """The preset for a budget on a data set, among `HSNET`, `BASE` or `ABLATION`; of data that none names, `OWN`'s.

    Raises:
        LlafsError: there is none.
    """
    of_budget = presets.get(budget, {})
    if dataset not in of_budget and OWN not in of_budget:
        known = ", ".join(f"{b} ({', '.join(presets[b])})" for b in presets)
        hint = "" if budget in presets else did_you_mean(budget, presets)
        raise LlafsError(f"no recipe for budget={budget!r} on dataset={dataset!r}: there are {known}.{hint}")
    return of_budget.get(dataset, of_budget.get(OWN))


def size_compared(backbone: str) -> int:
    """The side, px, of photographs whose unit features are compared: in banks, by prototypes and by INSID3."""
    plain = backbone.partition("@")[0]
    return CHOICES[plain].size if plain in CHOICES else 417
