"""From counts to tables: `results.json`, a printed table, a page that needs no network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from llafs_lib.evaluation.metrics import ConfusionCounts, class_ious, fb_iou, miou
from llafs_lib.evaluation.statistics import Bootstrap

# How the arms are called in tables, in the order in which they are shown.
ARM_LABELS = {
    "everything": "predict everything (floor)",
    "random": "random base supports",
    "llm": "LLM base supports",
    "true": "true supports (annotated)",
}


def summarise(
    counts: Mapping[str, Sequence[ConfusionCounts]], pairs: Sequence[tuple[str, str]], seed: int
) -> dict[str, Any]:
    """`arms` and `paired` of `results.json`, percent points, with 95% bootstrap intervals (paired ones for `pairs`)."""
    bootstrap = Bootstrap(next(iter(counts.values())), seed=seed)
    return {
        "arms": {
            name: {
                "miou": round(miou(c), 2),
                "ci95": _rounded(bootstrap.interval(c)),
                "fb_iou": round(fb_iou(c), 2),
                "per_class": {k: round(v, 2) for k, v in class_ious(c).items()},
            }
            for name, c in counts.items()
        },
        "paired": {
            f"{a}-{b}": {
                "diff": round(miou(counts[a]) - miou(counts[b]), 2),
                "ci95": _rounded(bootstrap.paired_interval(counts[a], counts[b])),
            }
            for a, b in pairs
        },
    }


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(x, 2) for x in interval]


def arms_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """One row per arm on the novel classes, then the base classes the model was trained on, as a check."""
    rows = {ARM_LABELS.get(n, n): results["arms"][n] for n in sorted(results["arms"], key=_rank)}
    rows |= {f"base classes: {ARM_LABELS.get(n, n)}": results["base"]["arms"][n] for n in ("everything", "true")}
    return pd.DataFrame(
        {
            "mIoU": {name: f"{a['miou']:.1f}" for name, a in rows.items()},
            "95% interval": {name: f"[{a['ci95'][0]:.1f}, {a['ci95'][1]:.1f}]" for name, a in rows.items()},
            "FB-IoU": {name: f"{a['fb_iou']:.1f}" for name, a in rows.items()},
        }
    ).rename_axis("supports")


def _rank(arm: str) -> int:
    return list(ARM_LABELS).index(arm) if arm in ARM_LABELS else len(ARM_LABELS)


def paired_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """One row per paired difference, with what its interval allows one to say."""
    return pd.DataFrame(
        {
            name: {
                "difference": f"{p['diff']:+.1f}",
                "95% interval": f"[{p['ci95'][0]:+.1f}, {p['ci95'][1]:+.1f}]",
                "reading": reading(p["ci95"]),
            }
            for name, p in results["paired"].items()
        }
    ).T.rename_axis("on the same queries")


def reading(interval: Sequence[float]) -> str:
    """What a 95% interval of a difference says, in words."""
    low, high = interval
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "not told apart"


def verdict(results: Mapping[str, Any]) -> str:
    """One sentence on the question of the series: do LLM-chosen base supports beat random ones here?"""
    p = results["paired"]["llm-random"]
    low, high = p["ci95"]
    where = f"on {results['dataset']}, fold {results['fold']}, {results['shots']} shots, {results['n_queries']} queries"
    if low > 0:
        claim = "LLM-chosen base supports segment better than random ones"
    elif high < 0:
        claim = "LLM-chosen base supports segment worse than random ones"
    else:
        claim = "these queries cannot tell LLM-chosen base supports from random ones"
    return f"{where[0].upper()}{where[1:]}: {claim} ({p['diff']:+.1f} points, 95% interval {low:+.1f} to {high:+.1f})."


def text_report(results: Mapping[str, Any]) -> str:
    """Both tables and the verdict, for a terminal."""
    return "\n\n".join((arms_table(results).to_string(), paired_table(results).to_string(), verdict(results)))


def html_report(results: Mapping[str, Any], figures: Mapping[str, Figure]) -> str:
    """A self-contained page: tables, verdict, figures as embedded PNG. `figures` maps a caption to a figure."""
    facts = ", ".join(f"{k} {results[k]}" for k in ("backbone", "segmenter", "seed", "budget") if k in results)
    parts = [
        f"<h1>{html.escape(results['dataset'])}, fold {results['fold']}, {results['shots']} shots</h1>",
        f"<p>{html.escape(verdict(results))}</p>",
        arms_table(results).to_html(border=0),
        "<p>mIoU and FB-IoU in percent at the pictures' own size; intervals from 2,000 bootstrap resamples of the "
        "query pictures. Zero-annotation arms are shown only base classes.</p>",
        paired_table(results).to_html(border=0),
        *(f"<figure>{_embedded(f, c)}<figcaption>{html.escape(c)}</figcaption></figure>" for c, f in figures.items()),
        f"<p>{html.escape(facts)}; {results['n_queries']} queries.</p>",
    ]
    title = f"LLaFS: {results['dataset']} fold {results['fold']}"
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def _embedded(figure: Figure, caption: str) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, bbox_inches="tight")
    code = base64.b64encode(data.getvalue()).decode("ascii")
    return f'<img alt="{html.escape(caption, quote=True)}" src="data:image/png;base64,{code}">'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }}
th, td {{ padding: .3rem .8rem; text-align: left; border-bottom: 1px solid #ddd; }}
img {{ max-width: 100%; height: auto; }} figure {{ margin: 2rem 0; }} figcaption {{ color: #555; }}
</style></head><body>
{body}
</body></html>
"""
