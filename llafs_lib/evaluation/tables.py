"""A result as tables that people read, and back as values. `summary` says what a result is."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from llafs_lib.evaluation.arms import LABELS, UNANSWERED, Arm, Pair, models_of
from llafs_lib.evaluation.summary import Figures, Results

FEW = 8  # queries; a class with fewer proves nothing by itself
TOO_FEW = "too few queries"  # for an interval


# --- reading a result back --------------------------------------------------------------------------------------------


def arms_in(results: Results) -> dict[Arm, Figures]:
    """The arms of a result and their figures, in the order in which tables list them."""
    found = {_arm(figures): figures for figures in results["arms"].values()}
    return {arm: found[arm] for arm in sorted(found, key=_place)}


def _place(arm: Arm) -> tuple:
    """By the supports, then by their number; after those of one kind the mixtures, and at last the floors."""
    supports = arm.added or arm.policy
    return not arm.k, bool(arm.added), [*LABELS, supports].index(supports), float(arm.k if arm.k != "all" else "inf")


def pairs_in(results: Results) -> dict[Pair, Figures]:
    """The pairs of arms of a result and the figures of their difference, first minus second."""
    arms = {name: _arm(found) for name, found in results["arms"].items()}
    return {(arms[p["a"]], arms[p["b"]]): p for p in results["paired"].values()}


def _arm(found: Figures) -> Arm:
    return Arm(*(found[name] for name in ("model", "policy", "k", "added")))


def no_llm(results: Results) -> bool:
    """Whether no language model answered about any class that was asked about."""
    asked = {c for found in results["arms"].values() for c in found["per_class"]}
    return bool(asked) and asked <= set(results.get("unanswered", ()))


def label(arm: Arm, results: Results) -> str:
    """The supports of an arm as a table of these results calls them; it says so where no language model answered."""
    return arm.labelled(UNANSWERED if no_llm(results) else LABELS)


# --- as tables --------------------------------------------------------------------------------------------------------


def arms_table(results: Results) -> pd.DataFrame:
    """One row per arm, model by model: mIoU with its interval at the images' size, mIoU at 400 × 400, FB-IoU."""
    arms = arms_in(results)
    models = [*models_of(arms), ""]
    rows = [
        {
            "model": arm.model,
            "supports": label(arm, results),
            "mIoU": f"{found['miou']:.1f}",
            "95% interval": interval(found["ci95"]),
            "at 400 px": f"{found['miou_400']:.1f}" if "miou_400" in found else "",
            "FB-IoU": f"{found['fb_iou']:.1f}",
        }
        for arm, found in sorted(arms.items(), key=lambda row: models.index(row[0].model))
    ]
    return pd.DataFrame(rows).set_index(["model", "supports"])


def overview(results: Results) -> pd.DataFrame:
    """One row per arm, one column per model: mIoU with its 95% interval."""
    cells: dict[str, dict[str, str]] = {}
    for arm, found in arms_in(results).items():
        cells.setdefault(label(arm, results), {})[arm.model or "no model"] = scored(found)
    return pd.DataFrame(cells).T.fillna("").rename_axis("supports")


def claims_table(results: Results, family: str = "claims") -> pd.DataFrame:
    """One row per claim, one column per model: what becomes of it, and the difference that decides.

    Args:
        family: "claims" are the six that were chosen beforehand, "document" those of the source document.
    """
    cells: dict[str, dict[str, str]] = {}
    for claim in results.get(family, ()):
        found = results["paired"][f"{claim['a']}-{claim['b']}"]
        silent = "LLM" in claim["says"] and no_llm(results)
        said = "cannot tell, no LLM answered" if silent else claim["verdict"]
        cells.setdefault(claim["says"], {})[claim["model"]] = f"{said}: {points(found)}"
    return pd.DataFrame(cells).T.fillna("").rename_axis("claim")


def scored(found: Figures) -> str:
    """The mIoU of an arm as text: "24.7 [22.1, 27.6]"; without an interval where there are too few queries."""
    return f"{found['miou']:.1f} {interval(found['ci95'])}".rstrip()


def points(found: Figures) -> str:
    """A paired difference as text: "+7.7 [+3.7, +11.8]"; without an interval where there are too few queries."""
    return f"{found['diff']:+.1f} {interval(found['ci95'], '+.1f')}".rstrip()


def paired_table(results: Results) -> pd.DataFrame:
    """One row per paired difference, with its interval for other images, and for other images and classes."""
    rows = [
        {
            "model": a.model,
            "difference": f"{a.supports} − {b.supports}",
            "points": f"{found['diff']:+.1f}",
            "95% interval": interval(found["ci95"], "+.1f"),
            "other classes too": interval(found["ci95_classes"], "+.1f"),
            "reading": reading(found["ci95"]),
        }
        for (a, b), found in pairs_in(results).items()
    ]
    return pd.DataFrame(rows).set_index(["model", "difference"])


def null_table(results: Results) -> pd.DataFrame:
    """Two draws of random supports compared: how often 0 lies in the 95% interval, as it should in 95 of 100 cases.

    Of several folds, the pairs of each fold are counted.
    """
    rows: dict[tuple[str, str], list[Figures]] = {}
    for null in results.get("nulls", ()):
        if null["ci95"]:
            rows.setdefault((null["model"], f"random {null['k']}"), []).append(null)
    table = [
        {
            "model": model,
            "supports": supports,
            "pairs of draws": len(found),
            "largest difference": f"{max((f['diff'] for f in found), key=abs):+.1f}",
            "0 lies in the interval": f"{sum(f['ci95'][0] <= 0 <= f['ci95'][1] for f in found)} times",
        }
        for (model, supports), found in rows.items()
    ]
    columns = ["model", "supports", "pairs of draws", "largest difference", "0 lies in the interval"]
    return pd.DataFrame(table, columns=columns).set_index(["model", "supports"])


def spread_table(results: Results) -> pd.DataFrame:
    """Standard deviations of mIoU in points, by where they come from, of arms that more than the queries may change.

    Empty where every arm had one training and one draw.
    """
    parts = ["training", "draws", "queries"]
    rows = [
        {"model": f["model"], "supports": f["supports"]}
        | {part: "" if f[part] is None else f"{f[part]:.1f}" for part in parts}
        for f in results.get("spread", {}).values()
        if f["training"] is not None or f["draws"] is not None
    ]
    return pd.DataFrame(rows, columns=["model", "supports", *parts]).set_index(["model", "supports"])


def reading(ends: Sequence[float] | None) -> str:
    """What the 95% interval of a difference says, in words."""
    if ends is None:
        return TOO_FEW
    low, high = ends
    return "better" if low > 0 else "worse" if high < 0 else "not told apart"


def interval(ends: Sequence[float] | None, form: str = ".1f") -> str:
    """An interval as text: "[8.7, 16.9]"; nothing where there is none."""
    return "" if ends is None else "[" + ", ".join(format(end, form) for end in ends) + "]"


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown."""
    flat = table.reset_index()
    rows = [list(flat.columns), ["---"] * len(flat.columns), *flat.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)
