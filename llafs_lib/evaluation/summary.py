"""From counts to a result: mIoU with intervals, paired differences with theirs, and what becomes of each claim.

A result is a dictionary, as `results.json` holds it: facts of the run, and

    arms[name]      model, policy, k, added (the fields of the `Arm`), draws, miou, ci95, fb_iou, miou_400, per_class, …
    paired["a-b"]   a, b (names among `arms`), diff, ci95, ci95_classes, p
    claims          the six that were chosen beforehand: says, model, a, b, p (Holm's, over the six of a model), verdict
    document        what the source document claims, in the same form
    nulls           model, k, diff, ci95: two draws of random supports compared, which only chance tells apart; of
                    several folds each has its own, with its fold
    spread[name]    model, supports; training, draws, queries: standard deviations in points
    absent[name]    the share of an image that is marked where the class is absent, in percent
    unanswered      the classes about which no language model answered, so that like names stand in
    trained on      the data that the models were trained on, if these are others than they are asked about

`ci95` and `p` are None where there are too few queries for an interval. `tables` reads it back and shows it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from llafs_lib.evaluation.arms import (
    FLOORS,
    Answers,
    Arm,
    Pair,
    claims,
    document_claims,
    document_pairs,
    models_of,
    null_pairs,
    over_draws,
)
from llafs_lib.evaluation.log import Asked
from llafs_lib.evaluation.metrics import ConfusionCounts, class_ious, fb_iou, miou
from llafs_lib.evaluation.runner import counts_of
from llafs_lib.evaluation.statistics import Estimate, Estimator, Interval, holm, pooled

LEVEL = 0.05  # below which a p value, corrected for the number of claims, decides one
PARTS = {"training": 1, "draws": 0}  # of a spread, and which level of (training seed, draw) stays the same
# By how many points a fold's rows and differences deviate from training to training, which a single training cannot
# show: of four folds with three trainings each on photographs ("Where the spread comes from" in docs/appendix.md).
TRAINED = {"HSNet": 2.3, "RePRI": 1.9}
Figures = dict[str, Any]
Results = Mapping[str, Any]


def summarise(
    runs: Sequence[Answers],
    pairs: Iterable[Pair],
    shots: Sequence[int] = (),
    at_400: Sequence[Answers] = (),
    fold_of: Mapping[str, int] | None = None,
    training: Mapping[str, float] | None = None,
) -> Figures:
    """`arms`, `paired`, `nulls` and the claims of a result, in percent and points. An arm's draws count together.

    Args:
        runs: arm → counts, one such mapping for each training; all of the same queries in the same order. The first has
            all arms; another lacks those of models that are not trained, whose answers would be the same.
        pairs: whose differences are wanted.
        shots: the numbers of supports. The claims are about the largest; without any, no claim is judged.
        at_400: the same as `runs`, on squashed images.
        fold_of: class → fold, where there are several: each fold has trainings of its own.
        training: model → how far one training's differences deviate from another's, in points, where only one was made.
    """
    compared = _Compared(runs, fold_of or {}, training or {})
    arms = {arm.name: compared.arm(arm) for arm in compared.pooled[0]}
    for arm, counts in over_trainings(list(map(over_draws, at_400))).items():
        arms[arm.name]["miou_400"] = round(miou(counts), 2)
    paired = {f"{a.name}-{b.name}": compared.pair(a, b) for a, b in pairs}
    families = {"claims": claims, "document": document_claims} if shots else {}
    judged = {name: _judged(family, max(shots), paired, compared.pooled[0]) for name, family in families.items()}
    return {"arms": arms, "paired": paired, "nulls": compared.nulls(), **judged}


def over_trainings(runs: Sequence[Answers]) -> Answers:
    """The answers of several trainings as one: the pixels of all of them are added up, query by query."""
    return {arm: pooled([run[arm] for run in runs if arm in run]) for arm in (runs[0] if runs else ())}


class _Compared:
    """The answers of one or more trainings to the same queries, and what tells them apart."""

    def __init__(self, runs: Sequence[Answers], fold_of: Mapping[str, int], training: Mapping[str, float]):
        self.runs, self.training = runs, training
        self.pooled = [over_draws(run) for run in runs]
        first = next(iter(self.pooled[0].values()))
        self.images = Estimator(first, fold_of=fold_of)
        self.classes_too = Estimator(first, fold_of=fold_of, over_classes=True)
        self.queries_of = dict(Counter(c.class_name for c in first))

    def arm(self, arm: Arm) -> Figures:
        own = [run[arm] for run in self.pooled if arm in run]
        counts, row = pooled(own), self.images.row(own, self.training.get(arm.model, 0.0))
        return {
            **{name: getattr(arm, name) for name in ("model", "policy", "k", "added")},
            "draws": sum(replace(one, draw=0) == arm for one in self.runs[0]),
            "miou": round(row.value, 2),
            "ci95": _rounded(row.ci95),
            "fb_iou": round(fb_iou(counts), 2),
            "per_class": {k: round(v, 2) for k, v in class_ious(counts).items()},
            "queries_of": self.queries_of,
        }

    def pair(self, a: Arm, b: Arm) -> Figures:
        found, wider = (self._difference(by, a, b) for by in (self.images, self.classes_too))
        return {
            "a": a.name,
            "b": b.name,
            "diff": round(found.value, 2),
            "ci95": _rounded(found.ci95),
            "ci95_classes": _rounded(wider.ci95),
            "p": found.p,
        }

    def nulls(self) -> list[Figures]:
        # Both draws are of one arm, so a training moves both alike: `training` is not added.
        found = [(a, self.images.difference(*self._of_runs(self.runs, a, b))) for a, b in null_pairs(self.runs[0])]
        return [{"model": a.model, "k": a.k, "diff": round(e.value, 2), "ci95": _rounded(e.ci95)} for a, e in found]

    def _difference(self, by: Estimator, a: Arm, b: Arm) -> Estimate:
        return by.difference(*self._of_runs(self.pooled, a, b), self.training.get(a.model, 0.0))

    @staticmethod
    def _of_runs(runs: Sequence[Answers], *arms: Arm) -> list[list[Sequence[ConfusionCounts]]]:
        return [[run[arm] for run in runs if run.keys() >= set(arms)] for arm in arms]


def _judged(
    family: Callable[[str, int], Mapping[str, Pair]], k: int, paired: Mapping[str, Figures], arms: Iterable[Arm]
) -> list[Figures]:
    """What becomes of a family of claims, model by model: their p values are corrected for their number (Holm 1979)."""
    judged = []
    for model in models_of(arms):
        names = {says: f"{a.name}-{b.name}" for says, (a, b) in family(model, k).items()}
        found = {says: paired[name] for says, name in names.items() if name in paired}
        for (says, figures), p in zip(found.items(), holm([f["p"] for f in found.values()]), strict=True):
            verdict = _verdict(figures["diff"], p)
            judged.append({"says": says, "model": model, "a": figures["a"], "b": figures["b"], "p": p} | verdict)
    return judged


def _verdict(difference: float, p: float | None) -> Figures:
    if p is None:
        return {"verdict": "too few queries"}
    return {"verdict": "cannot tell" if p >= LEVEL else "holds" if difference > 0 else "contradicted"}


def _rounded(interval: Interval | None) -> list[float] | None:
    return interval and [round(x, 2) for x in interval]


def merged(asked: Mapping[tuple[int, int], Sequence[Asked]], runs: Sequence[Results]) -> Figures:
    """One result of several runs: the classes of all folds stand side by side, and the trainings' answers are pooled.

    Args:
        asked: (training seed, fold) → what that run was asked: in one fold the same queries in the same order for each
            seed, and no class in two folds. The first seed has all arms (see `summarise`).
        runs: the runs' own results.

    Raises:
        LlafsError: the seeds' queries differ.
    """
    fold_of = {a.class_name: fold for (_, fold), own in asked.items() for a in own}
    by_seed: dict[int, list[Asked]] = {}
    for (seed, _), own in asked.items():
        by_seed.setdefault(seed, []).extend(own)
    counts, at_400 = ([counts_of(own, small) for own in by_seed.values()] for small in (False, True))
    shots = runs[0]["shots"]
    known = TRAINED if len(by_seed) == 1 else None
    found = summarise(counts, document_pairs(counts[0], shots), shots, at_400, fold_of, known)
    return {
        **{fact: runs[0][fact] for fact in ("shots", "backbone", "budget")},
        "n_queries": len(next(iter(counts[0].values()))),
        **found,
        "nulls": [null | {"fold": fold} for fold in dict.fromkeys(fold_of.values()) for null in _nulls(asked, fold)],
        "spread": spreads(dict(zip(by_seed, counts, strict=True))),
        "absent": pd.DataFrame([run["absent"] for run in runs]).mean().round(1).to_dict(),
        "unanswered": sorted({c for run in runs for c in run.get("unanswered", ())}),
        "trained on": sorted({run["trained on"] for run in runs if run.get("trained on")}),
    }


def _nulls(asked: Mapping[tuple[int, int], Sequence[Asked]], fold: int) -> list[Figures]:
    """`nulls` of one fold. Over all folds at once, what chance does in one of them would be averaged away."""
    return _Compared([counts_of(own) for (_, own_fold), own in asked.items() if own_fold == fold], {}, {}).nulls()


def spreads(runs: Mapping[int, Answers]) -> dict[str, Figures]:
    """`spread` of a result: where the spread of each arm's mIoU comes from, in points.

    "training" is the deviation between trainings with the same draw, "draws" that between draws with the same training,
    and "queries" that of the pooled answers. None stands where there is one value only, or too few queries.

    Args:
        runs: training seed → arm → counts, of the same queries.
    """
    first = next(iter(runs.values()))
    estimator, found = Estimator(next(iter(first.values()))), {}
    for arm in dict.fromkeys(replace(arm, draw=0) for arm in first if arm not in FLOORS):
        answers = {(s, a.draw): run[a] for s, run in runs.items() for a in run if replace(a, draw=0) == arm}
        mious = pd.Series({key: miou(counts) for key, counts in answers.items()})  # by (training seed, draw)
        ends = estimator.row([pooled(list(answers.values()))]).ci95
        spread = {part: mious.groupby(level=same).var().mean() ** 0.5 for part, same in PARTS.items()}
        spread |= {"queries": (ends[1] - ends[0]) / 2 / 1.96 if ends else math.nan}
        shown = {part: None if math.isnan(value) else round(float(value), 2) for part, value in spread.items()}
        found[arm.name] = {"model": arm.model, "supports": arm.supports} | shown
    return found
