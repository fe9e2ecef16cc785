"""How `policies.py` chooses thresholds: on base classes, each of which is treated once as if it were novel.

A base class is asked about in its own training images, while only the *other* base classes of the fold may serve (for
`true`, its own images). So the threshold of a row is chosen in each fold without an annotation of a novel class, and
all queries about novel classes can be reported. Every policy is treated alike, `oracle` too: it finds the best base
class on the other questions about the class that is asked for, a base class here and a novel one in the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from llafs_lib.evaluation.arms import Arm
from llafs_lib.evaluation.calibration import pairs_to_ask
from llafs_lib.evaluation.metrics import ConfusionCounts, Curve, best_threshold, miou
from llafs_lib.language.relations import shuffled
from llafs_lib.records import RelatedClasses
from llafs_lib.retrieval.bank import SupportBank

PAIRS = 240  # (image, class) pairs that are asked about in a fold, of 406 to 579 in coco-mini
Curves = Mapping[Arm, Sequence[Curve]]
Thresholds = Mapping[Arm, Sequence[float]]  # one for each fold


def as_if_novel(
    bank: SupportBank, llm: Mapping[str, RelatedClasses], most: int, seed: int
) -> Iterator[tuple[str, list[int], SupportBank, RelatedClasses, RelatedClasses]]:
    """What to ask about each class of a fold's base bank, and what may stand in for it.

    Args:
        bank: of the base classes.
        llm: the language model's answer about each class.
        most: (image, class) pairs, shared out evenly among the classes; `seed` draws them.

    Yields: a class, images that show it, the bank of the other base classes, and among these the classes that look like
        it and those that look like another class ("shuffled").
    """
    known = {c: llm[c].restrict_to(set(bank.classes) - {c}) for c in bank.classes}
    dealt = shuffled(known)
    pairs = pairs_to_ask(bank, seed, most)
    for name in bank.classes:
        images = [i for i, classes in pairs.items() if name in classes]
        if images:
            others = bank.only([c for c in bank.classes if c != name])
            yield name, images, others, known[name], dealt[name]


def best_thresholds(base: Sequence[Curves]) -> dict[Arm, list[float]]:
    """The best threshold of each arm in each fold; `base` are the answers about base classes, fold by fold."""
    return {arm: [best_threshold(of_fold[arm]) for of_fold in base] for arm in base[0]}


def cut(curves: Curves, thresholds: Thresholds, fold_of: Mapping[str, int]) -> dict[Arm, list[ConfusionCounts]]:
    """The masks' counts of all queries, each at the threshold of the fold in which its class is novel."""
    return {arm: [c.at(thresholds[arm][fold_of[c.class_name]]) for c in found] for arm, found in curves.items()}


def moved_by_halving(base: Sequence[Curves], curves: Curves, fold_of: Mapping[str, int]) -> tuple[float, float]:
    """How much mIoU differs, on average over all arms and at most, if thresholds know one half of `base` or the other.

    A threshold that depends on which base questions were drawn would show here.
    """
    halves = [[{arm: of_fold[arm][n::2] or of_fold[arm] for arm in curves} for of_fold in base] for n in (0, 1)]
    one, other = (cut(curves, best_thresholds(half), fold_of) for half in halves)
    differences = [abs(miou(one[arm]) - miou(other[arm])) for arm in curves]
    return float(np.mean(differences)), max(differences)


def cut_scores(curves: Mapping[Arm, Sequence[Curve]]) -> tuple[dict[Arm, list[ConfusionCounts]], dict[Arm, float]]:
    """Choose each arm's threshold on the queries with an even image id, and count the masks of those with an odd one.

    Where all ids are even, or all are odd, every second image of them is taken instead. A single image is counted, at
    a threshold of ½.

    Returns: the counts of the odd half, and the thresholds in [0, 1].
    """
    ids = sorted({c.image_id for asked in curves.values() for c in asked})
    even = {i for i in ids if i % 2 == 0}
    tuned_on = even if 0 < len(even) < len(ids) else set(ids[1::2])
    tuning = {arm: [c for c in asked if c.image_id in tuned_on] for arm, asked in curves.items()}
    thresholds = {arm: best_threshold(own) if own else 0.5 for arm, own in tuning.items()}
    counts = {
        arm: [c.at(thresholds[arm]) for c in asked if c.image_id not in tuned_on] for arm, asked in curves.items()
    }
    return counts, thresholds
