"""From counts to tables: mIoU with intervals, paired differences with theirs, and where the spread comes from.

A result is a dictionary, `results.json`: facts of the run, and

    arms[name]      miou, ci95, fb_iou, miou_400, per_class, queries_of
    paired["a-b"]   a, b, diff, ci95, ci95_classes
    spread[name]    training, draws, queries: standard deviations in points

with names such as "everything" or "HSNet: llm 5".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from llafs_lib.evaluation.arms import ADDED
from llafs_lib.evaluation.metrics import ConfusionCounts, class_ious, fb_iou, miou
from llafs_lib.evaluation.statistics import Bootstrap, deviations

FEW = 8  # queries; a class with fewer proves nothing by itself
POLICY_LABELS = {
    "true": "true supports (annotated)",
    "random": "random base supports",
    "llm": "LLM base supports",
    "shuffled": "another class's LLM list (control)",
    "all": "every base support (control)",
}
FLOORS = {"everything": "predict everything (floor)", "centre prior": "centre prior (floor)"}


def split_name(name: str) -> tuple[str, str]:
    """("HSNet", "llm 5") of "HSNet: llm 5"; ("", "everything") of a floor."""
    model, _, arm = name.rpartition(": ")
    return model, arm


def label(arm: str) -> str:
    """How an arm is called in a table: "llm 5" → "LLM base supports, 5"."""
    if arm in FLOORS:
        return FLOORS[arm]
    shown, _, draw = arm.partition(", ")
    policy, k, *added = shown.split(" ")
    text = f"{POLICY_LABELS.get(policy, policy)}, {k}"
    if added:
        text = f"{k} true + {added[2]} {POLICY_LABELS.get(added[1], added[1])}"
    return f"{text}, {draw}" if draw else text


def summarise(
    counts: Mapping[str, Sequence[ConfusionCounts]],
    pairs: Iterable[tuple[str, str]],
    seed: int,
    at_400: Mapping[str, Sequence[ConfusionCounts]] | None = None,
) -> dict[str, Any]:
    """`arms` and `paired` of a result, percent points.

    Args:
        counts: arm → counts, all of the same queries in the same order; `at_400` the same on squashed images.
        pairs: whose differences are wanted.
        seed: of the resampling.
    """
    first = next(iter(counts.values()))
    bootstrap, with_classes = Bootstrap(first, seed=seed), Bootstrap(first, seed=seed, over_classes=True)
    asked = dict(Counter(c.class_name for c in first))
    arms, paired = {}, {}
    for name, c in counts.items():
        arms[name] = {
            "miou": round(miou(c), 2),
            "ci95": _rounded(bootstrap.interval(c)),
            "fb_iou": round(fb_iou(c), 2),
            "per_class": {k: round(v, 2) for k, v in class_ious(c).items()},
            "queries_of": asked,
        }
        if at_400:
            arms[name]["miou_400"] = round(miou(at_400[name]), 2)
    for a, b in pairs:
        paired[f"{a}-{b}"] = {
            "a": a,
            "b": b,
            "diff": round(miou(counts[a]) - miou(counts[b]), 2),
            "ci95": _rounded(bootstrap.paired_interval(counts[a], counts[b])),
            "ci95_classes": _rounded(with_classes.paired_interval(counts[a], counts[b])),
        }
    return {"arms": arms, "paired": paired}


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(x, 2) for x in interval]


def document_pairs(names: Sequence[str], shots: Sequence[int]) -> list[tuple[str, str]]:
    """The differences that decide the document's claims, with their controls, of every model among `names`."""
    pairs: list[tuple[str, str]] = []
    for k in shots:
        pairs += [(f"{a} {k}", f"random {k}") for a in ("llm", "shuffled")]
        pairs += [(f"random {k}, other draw", f"random {k}"), (f"llm {k}", f"true {k}"), (f"random {k}", f"true {k}")]
        pairs += [(f"true {k} + {p} {ADDED}", f"true {k}") for p in ("random", "llm")]
        pairs += [(f"true {k} + llm {ADDED}", f"true {k} + random {ADDED}")]
        pairs += [(f"{a} {k}", floor) for a in ("llm", "true") for floor in FLOORS]
    pairs += [("llm all", "all all"), ("shuffled all", "all all"), ("all all", f"random {max(shots)}")]
    pairs += [(f"llm {k}", "true 1") for k in ("all", *shots) if k != 1]
    models = list(dict.fromkeys(split_name(n)[0] for n in names if split_name(n)[0]))
    full = [(f"{m}: {a}", b if b in FLOORS else f"{m}: {b}") for m in models for a, b in dict.fromkeys(pairs)]
    return [pair for pair in full if set(pair) <= set(names)]


def spreads(
    runs: Mapping[int, Mapping[str, Sequence[ConfusionCounts]]], seed: int
) -> dict[str, dict[str, float | None]]:
    """`spread` of a result: where each arm's mIoU's spread comes from, in points.

    Args:
        runs: training seed → arm → counts, of the same queries. None stands where there is one value only.
    """
    first = next(iter(runs.values()))
    bootstrap = Bootstrap(next(iter(first.values())), seed=seed)
    found = {}
    for name in first:
        redrawn = f"{name}, other draw"
        if split_name(name)[0] and not name.endswith("other draw"):
            drawn = [name, *([redrawn] if redrawn in first else [])]
            by_run = {(s, d): run[n] for s, run in runs.items() for d, n in enumerate(drawn)}
            values = deviations(by_run, bootstrap)
            found[name] = {k: None if math.isnan(v) else round(v, 2) for k, v in values.items()}
    return found


# --- as tables -------------------------------------------------------------------------------------------------------


def arms_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """One row per arm and model: mIoU with its interval at the images' size, mIoU at 400 × 400, FB-IoU."""
    rows = []
    for name, found in results["arms"].items():
        model, arm = split_name(name)
        rows.append(
            {
                "model": model,
                "supports": label(arm),
                "mIoU": f"{found['miou']:.1f}",
                "95% interval": _interval(found["ci95"]),
                "at 400 px": f"{found['miou_400']:.1f}" if "miou_400" in found else "",
                "FB-IoU": f"{found['fb_iou']:.1f}",
            }
        )
    return pd.DataFrame(rows).set_index(["model", "supports"])


def overview(results: Mapping[str, Any]) -> pd.DataFrame:
    """One row per arm, one column per model: mIoU with its 95% interval."""
    cells: dict[str, dict[str, str]] = {}
    for name, found in results["arms"].items():
        model, arm = split_name(name)
        cells.setdefault(label(arm), {})[model or "no model"] = f"{found['miou']:.1f} {_interval(found['ci95'])}"
    return pd.DataFrame(cells).T.fillna("").rename_axis("supports")


def paired_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """One row per paired difference, what its interval allows one to say, and beside it the same model's null test."""
    rows = []
    for p in results["paired"].values():
        model, arm = split_name(p["a"])
        null = results["paired"].get(_null_of(model, arm))
        rows.append(
            {
                "model": model,
                "difference": f"{arm} − {split_name(p['b'])[1]}",
                "points": f"{p['diff']:+.1f}",
                "95% interval": _interval(p["ci95"], "+.1f"),
                "other classes too": _interval(p["ci95_classes"], "+.1f"),
                "two random draws": f"{null['diff']:+.1f}" if null else "",
                "reading": reading(p["ci95"]),
            }
        )
    return pd.DataFrame(rows).set_index(["model", "difference"])


def _null_of(model: str, arm: str) -> str:
    """The difference of two random draws with as many supports: what chance alone makes."""
    k = next((word for word in arm.replace(",", "").split(" ") if word.isdigit()), "5")
    return f"{model}: random {k}, other draw-{model}: random {k}"


def spread_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """Standard deviations of mIoU in points, by where they come from, of arms that more than the queries may change."""
    rows = {
        split_name(name): {k: "" if v is None else f"{v:.1f}" for k, v in found.items()}
        for name, found in results.get("spread", {}).items()
        if found["training"] is not None or found["draws"] is not None
    }
    table = pd.DataFrame(rows.values(), columns=["training", "draws", "queries"])
    table.index = pd.MultiIndex.from_tuples(rows, names=["model", "arm"]) if rows else table.index
    return table


def reading(interval: Sequence[float]) -> str:
    """What a 95% interval of a difference says, in words."""
    low, high = interval
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "not told apart"


def _interval(ends: Sequence[float], form: str = ".1f") -> str:
    return "[" + ", ".join(format(end, form) for end in ends) + "]"


def long_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """Every figure in one table, as `results.csv` has it: a row per arm and one per paired difference."""
    arms = [
        {"kind": "arm", "name": n, "value": a["miou"], "low": a["ci95"][0], "high": a["ci95"][1]}
        | {"fb_iou": a["fb_iou"], "miou_400": a.get("miou_400")}
        for n, a in results["arms"].items()
    ]
    paired = [
        {"kind": "difference", "name": n, "value": p["diff"], "low": p["ci95"][0], "high": p["ci95"][1]}
        | {"low_classes": p["ci95_classes"][0], "high_classes": p["ci95_classes"][1]}
        for n, p in results["paired"].items()
    ]
    facts = {k: results[k] for k in ("dataset", "budget", "backbone", "n_queries") if k in results}
    return pd.DataFrame([facts | row for row in arms + paired])


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown."""
    flat = table.reset_index()
    rows = [list(flat.columns), ["---"] * len(flat.columns), *flat.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def latex(table: pd.DataFrame) -> str:
    """A table as LaTeX, with booktabs' rules."""
    return table.reset_index().replace("−", "$-$", regex=True).to_latex(index=False, escape=False).replace("%", r"\%")
