"""From counts to tables: mIoU with intervals, paired differences with theirs, and where the spread comes from.

A result is a dictionary, as `results.json` holds it: facts of the run, and

    arms[name]      model, policy, k, added, draw (the fields of the `Arm`), miou, ci95, fb_iou, miou_400, per_class, …
    paired["a-b"]   a, b (names among `arms`), diff, ci95, ci95_classes
    spread[name]    the fields of the `Arm`; training, draws, queries: standard deviations in points
    absent[name]    the share of an image that is marked where the class is absent, in percent
    unanswered      the classes about which no language model answered, so that like names stand in

`arms_in` and `pairs_in` read it back into values: no code takes a name apart.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import pandas as pd

from llafs_lib.evaluation.arms import FLOORS, LABELS, UNANSWERED, Arm, document_pairs, null_pair
from llafs_lib.evaluation.log import Asked
from llafs_lib.evaluation.metrics import ConfusionCounts, class_ious, fb_iou, miou
from llafs_lib.evaluation.runner import counts_of
from llafs_lib.evaluation.statistics import Bootstrap, deviations, pooled

FEW = 8  # queries; a class with fewer proves nothing by itself
Results = Mapping[str, Any]
Figures = dict[str, Any]


def summarise(
    counts: Mapping[Arm, Sequence[ConfusionCounts]],
    pairs: Iterable[tuple[Arm, Arm]],
    seed: int = 0,
    at_400: Mapping[Arm, Sequence[ConfusionCounts]] | None = None,
) -> Figures:
    """`arms` and `paired` of a result, in percent and points.

    Args:
        counts: arm → counts, all of the same queries in the same order; `at_400` the same on squashed images.
        pairs: whose differences are wanted.
        seed: of the resampling.
    """
    first = next(iter(counts.values()))
    bootstrap, with_classes = Bootstrap(first, seed=seed), Bootstrap(first, seed=seed, over_classes=True)
    asked = dict(Counter(c.class_name for c in first))
    arms, paired = {}, {}
    for arm, c in counts.items():
        arms[arm.name] = asdict(arm) | {
            "miou": round(miou(c), 2),
            "ci95": _rounded(bootstrap.interval(c)),
            "fb_iou": round(fb_iou(c), 2),
            "per_class": {k: round(v, 2) for k, v in class_ious(c).items()},
            "queries_of": asked,
        }
        if at_400:
            arms[arm.name]["miou_400"] = round(miou(at_400[arm]), 2)
    for a, b in pairs:
        paired[f"{a.name}-{b.name}"] = {
            "a": a.name,
            "b": b.name,
            "diff": round(miou(counts[a]) - miou(counts[b]), 2),
            "ci95": _rounded(bootstrap.paired_interval(counts[a], counts[b])),
            "ci95_classes": _rounded(with_classes.paired_interval(counts[a], counts[b])),
        }
    return {"arms": arms, "paired": paired}


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(x, 2) for x in interval]


def merged(asked: Mapping[int, Sequence[Asked]], runs: Sequence[Results]) -> Figures:
    """One result of several runs: the classes of all folds stand side by side, and the answers of trainings are pooled.

    Args:
        asked: training seed → what its runs were asked in all folds, the same queries in the same order for each seed.
        runs: the runs' own results.

    Raises:
        LlafsError: the seeds' queries differ.
    """
    counts, at_400 = ({seed: counts_of(own, small) for seed, own in asked.items()} for small in (False, True))
    arms = list(next(iter(counts.values())))
    together, together_400 = ({arm: pooled([c[arm] for c in by.values()]) for arm in arms} for by in (counts, at_400))
    return {
        **{fact: runs[0][fact] for fact in ("shots", "backbone", "budget")},
        "n_queries": len(together[arms[0]]),
        **summarise(together, document_pairs(arms, runs[0]["shots"]), at_400=together_400),
        "spread": spreads(counts),
        "absent": pd.DataFrame([run["absent"] for run in runs]).mean().round(1).to_dict(),
        "unanswered": sorted({c for run in runs for c in run.get("unanswered", ())}),
    }


def spreads(runs: Mapping[int, Mapping[Arm, Sequence[ConfusionCounts]]], seed: int = 0) -> dict[str, Figures]:
    """`spread` of a result: where the spread of each arm's mIoU comes from, in points.

    Args:
        runs: training seed → arm → counts, of the same queries. None stands where there is one value only.
    """
    first = next(iter(runs.values()))
    bootstrap = Bootstrap(next(iter(first.values())), seed=seed)
    found = {}
    for arm in first:
        if arm in FLOORS or arm.draw:
            continue
        draws = [a for a in (arm, replace(arm, draw=1)) if a in first]
        by_run = {(seed, a.draw): run[a] for seed, run in runs.items() for a in draws}
        values = deviations(by_run, bootstrap)
        found[arm.name] = asdict(arm) | {k: None if math.isnan(v) else round(v, 2) for k, v in values.items()}
    return found


# --- reading a result back --------------------------------------------------------------------------------------------


def arms_in(results: Results) -> dict[Arm, Figures]:
    """The arms of a result and their figures."""
    return {_arm(found): found for found in results["arms"].values()}


def pairs_in(results: Results) -> dict[tuple[Arm, Arm], Figures]:
    """The pairs of arms of a result and the figures of their difference, first minus second."""
    arms = {name: _arm(found) for name, found in results["arms"].items()}
    return {(arms[p["a"]], arms[p["b"]]): p for p in results["paired"].values()}


def _arm(found: Figures) -> Arm:
    return Arm(**{field.name: found[field.name] for field in fields(Arm)})


def no_llm(results: Results) -> bool:
    """Whether no language model answered about any class that was asked about."""
    asked = {c for found in results["arms"].values() for c in found["per_class"]}
    return bool(asked) and asked <= set(results.get("unanswered", ()))


def label(arm: Arm, results: Results) -> str:
    """The supports of an arm as a table of these results calls them; it says so where no language model answered."""
    return arm.labelled(UNANSWERED if no_llm(results) else LABELS)


# --- as tables --------------------------------------------------------------------------------------------------------


def arms_table(results: Results) -> pd.DataFrame:
    """One row per arm and model: mIoU with its interval at the images' size, mIoU at 400 × 400, FB-IoU."""
    rows = [
        {
            "model": arm.model,
            "supports": label(arm, results),
            "mIoU": f"{found['miou']:.1f}",
            "95% interval": interval(found["ci95"]),
            "at 400 px": f"{found['miou_400']:.1f}" if "miou_400" in found else "",
            "FB-IoU": f"{found['fb_iou']:.1f}",
        }
        for arm, found in arms_in(results).items()
    ]
    return pd.DataFrame(rows).set_index(["model", "supports"])


def overview(results: Results) -> pd.DataFrame:
    """One row per arm, one column per model: mIoU with its 95% interval."""
    cells: dict[str, dict[str, str]] = {}
    for arm, found in arms_in(results).items():
        cells.setdefault(label(arm, results), {})[arm.model or "no model"] = (
            f"{found['miou']:.1f} {interval(found['ci95'])}"
        )
    return pd.DataFrame(cells).T.fillna("").rename_axis("supports")


def paired_table(results: Results) -> pd.DataFrame:
    """One row per paired difference and what its interval allows one to say; beside it the same model's null test."""
    pairs = pairs_in(results)
    most = max((arm.k for arm in arms_in(results) if arm.k != "all"), default=0)  # "all" is compared with the most
    rows = []
    for (a, b), found in pairs.items():
        null = pairs.get(null_pair(replace(a, k=most) if a.k == "all" else a))
        rows.append(
            {
                "model": a.model,
                "difference": f"{a.supports} − {b.supports}",
                "points": f"{found['diff']:+.1f}",
                "95% interval": interval(found["ci95"], "+.1f"),
                "other classes too": interval(found["ci95_classes"], "+.1f"),
                "two random draws": f"{null['diff']:+.1f}" if null else "",
                "reading": reading(found["ci95"]),
            }
        )
    return pd.DataFrame(rows).set_index(["model", "difference"])


def spread_table(results: Results) -> pd.DataFrame:
    """Standard deviations of mIoU in points, by where they come from, of arms that more than the queries may change.

    Empty where every arm had one training and one draw.
    """
    parts = ["training", "draws", "queries"]
    rows = [
        {"model": f["model"], "supports": _arm(f).supports}
        | {part: "" if f[part] is None else f"{f[part]:.1f}" for part in parts}
        for f in results.get("spread", {}).values()
        if f["training"] is not None or f["draws"] is not None
    ]
    return pd.DataFrame(rows, columns=["model", "supports", *parts]).set_index(["model", "supports"])


def reading(ends: Sequence[float]) -> str:
    """What the 95% interval of a difference says, in words."""
    low, high = ends
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "not told apart"


def interval(ends: Sequence[float], form: str = ".1f") -> str:
    """An interval as text: "[8.7, 16.9]"."""
    return "[" + ", ".join(format(end, form) for end in ends) + "]"


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown."""
    flat = table.reset_index()
    rows = [list(flat.columns), ["---"] * len(flat.columns), *flat.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)
