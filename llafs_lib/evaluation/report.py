"""What a result says: in a few sentences, against the source document's claims, as Markdown, and as one page.

The document prints one row of figures for COCO-20i, 5 shots, mean of four folds, and does not say where true supports
end and base supports begin. Each of its claims is therefore read twice: base supports come *instead of* true ones, or
*beside* them (`arms.document_claims`). Our own six claims were chosen beforehand (`arms.claims`).
"""

from __future__ import annotations

import base64
import html
import io
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from llafs_lib.evaluation.arms import CENTRE_PRIOR, DRAWS, EVERYTHING, FLOORS, Arm, models_of
from llafs_lib.evaluation.summary import Results
from llafs_lib.evaluation.tables import (
    TOO_FEW,
    arms_in,
    arms_table,
    claims_table,
    markdown,
    no_llm,
    null_table,
    overview,
    paired_table,
    pairs_in,
    points,
    reading,
    scored,
    spread_table,
)

ABOUT = (
    "mIoU is the mean over classes of summed intersections over summed unions, in percent, at the images' own size. "
    "“At 400 px” squashes the images to 400 × 400, where HSNet's published figures are counted. Where chance decides "
    f"which supports are shown, each query is answered with {DRAWS} draws of them. Intervals (95%) include the choice "
    "of query images, these draws, and what differs between trainings; “other classes too” includes the choice of "
    "classes as well. The six claims were chosen beforehand (some were known of earlier models), their p values are "
    "corrected for their number (Holm). "
    "All other differences explore: where there is no difference, one interval in twenty misses 0 by chance."
)
CIRCLE = (
    "The look-alikes of drawn scenes are their design, and the recorded answers name exactly these: the machinery "
    "works, which does not show that a language model knows them. Photographs carry the claims."
)
CLAIMED = {"true": ("HSNet", 39.2), "random": ("+ random base supports", 40.5), "llm": ("+ LLM base supports", 44.4)}

# (method, backbone, mIoU with 1 and 5 shots on COCO-20i, mean of four folds, source). The field trains on thousands of
# images a class, so these stand beside our figures, not against them.
PUBLISHED = (
    ("HSNet", "ResNet-50", (39.2, 46.9), "Hong et al. 2022 (VAT), table 2"),
    ("RePRI", "ResNet-50", (34.1, 41.6), "Hong et al. 2022 (VAT), table 2"),
    ("RePRI", "ResNet-50", (34.0, 42.1), "README of the RePRI repository"),
    ("VAT", "ResNet-50", (41.3, 47.9), "Hong et al. 2022 (VAT), table 2"),
    ("BAM", "ResNet-50", (46.23, 51.16), "README of the BAM repository"),
    ("LSeg, zero-shot: no support at all", "CLIP-ResNet-101", (23.4, None), "README of the lang-seg repository"),
)


# --- in a few sentences -----------------------------------------------------------------------------------------------


def place(results: Results) -> str:
    """The data set and its folds: "toy, fold 0" or "coco-mini, folds 0, 1, 2, 3"."""
    folds = results.get("folds", [results.get("fold")])
    return f"{results['dataset']}, fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}"


def unanswered(results: Results) -> list[str]:
    """One sentence about the classes where like names stand in for a language model's answer; none if all have one."""
    asked = {c for found in results["arms"].values() for c in found["per_class"]}
    without = [c for c in results.get("unanswered", ()) if c in asked]
    if not without:
        return []
    which = "any class" if no_llm(results) else f"{len(without)} of {len(asked)} classes ({', '.join(without)})"
    return [
        f"There is no usable answer of a language model about {which}: classes with like names stand in, or any base "
        "class where there are none. To ask a model, name one as llm."
    ]


def findings(results: Results) -> list[str]:
    """What was found: against random supports, against what comes for free, one true support, and the floors.

    Before that stands what `unanswered` has to say, and after it what drawn scenes cannot show.

    The result needs at least one of the `FLOORS`.
    """
    k, arms = max(results["shots"]), arms_in(results)
    floors = {floor: arms[floor] for floor in FLOORS if floor in arms}
    best = max(floors, key=lambda floor: floors[floor]["miou"])
    called = {EVERYTHING: "to predict everything", CENTRE_PRIOR: "the centre prior"}
    scores = [f"{called[f]} scores {scored(found)}" for f, found in floors.items()]
    chosen = "base supports chosen by like names" if no_llm(results) else "LLM-chosen base supports"
    free = {"supercategory": "those of COCO's super-category", "text": "those with like names"}
    against_free = [_compared(results, Arm("", policy, k), words) for policy, words in free.items()]
    return [
        *unanswered(results),
        f"On {place(results)}, {k} shots, {results['n_queries']} queries, {chosen} are "
        f"{_compared(results, Arm('', 'random', k), 'random ones')} (mIoU with 95% intervals; what is said of the six "
        "claims is corrected for their number).",
        f"They are {'; they are '.join(against_free)}.",
        f"They are {_compared(results, Arm('', 'true', 1), 'one true support')}.",
        f"Without a model, {' and '.join(scores)}; {chosen} are {_compared(results, best, called[best])}.",
        *([CIRCLE] if results["dataset"] == "toy" else []),
    ]


def _compared(results: Results, worse: Arm, name: str) -> str:
    """How each model's LLM-chosen supports compare with one other arm of it: "better than … with HSNet +8.6 […]".

    A claim that was made beforehand is decided by its corrected p value, any other difference by its interval.
    """
    decided = {"holds": "better", "contradicted": "worse", "cannot tell": "not told apart"}
    claimed = {(c["a"], c["b"]): decided.get(c["verdict"], TOO_FEW) for c in results.get("claims", ())}
    pairs, says = pairs_in(results), {"better": "better than", "worse": "worse than"}
    says |= {"not told apart": "not told apart from", TOO_FEW: "not compared (too few queries) with"}
    found: dict[str, list[str]] = {}
    for model in models_of(arms_in(results)):
        a, b = Arm(model, "llm", max(results["shots"])), worse if worse in FLOORS else replace(worse, model=model)
        if figures := pairs.get((a, b)):
            told = claimed.get((a.name, b.name)) or reading(figures["ci95"])
            found.setdefault(told, []).append(f"{model} {points(figures)}")
    texts = [f"{words} {name} with {', '.join(found[told])}" for told, words in says.items() if told in found]
    return "; ".join(texts) or f"not compared with {name}"


def text_report(results: Results) -> str:
    """The findings and one small table, for a terminal; everything else is in the report's files."""
    k = max(results["shots"])
    shown = (("true", 1), ("true", k), ("llm", k), ("random", k), ("llm", "all"), ("all", "all"))
    arms = [Arm(model, *supports) for model in models_of(arms_in(results)) for supports in shown]
    rows = {arm.name: found for arm, found in arms_in(results).items() if arm in arms}
    sentences = "\n".join(textwrap.fill(sentence, 110) for sentence in findings(results))
    return f"{sentences}\n\n{overview({**results, 'arms': rows}).to_string()}"


# --- against the source document --------------------------------------------------------------------------------------


def _beside(model: str, policy: str, k: int) -> Arm:
    return Arm(model, "true", k, added="" if policy == "true" else policy)


READINGS = {"instead of": Arm, "beside": _beside}


def claimed_table(results: Results, k: int = 5) -> pd.DataFrame:
    """The document's rows beside what was measured, in both readings, for each model."""
    arms, table = arms_in(results), {}
    for policy, (row, claimed) in CLAIMED.items():
        table[row] = {"claimed, COCO-20i": f"{claimed:.1f}"}
        for model in models_of(arms):
            for how, arm in READINGS.items():
                found = arms.get(arm(model, policy, k))
                table[row][f"{model}, {how} true"] = f"{found['miou']:.1f}" if found else ""
    return pd.DataFrame(table).T.rename_axis("row of the document")


def published_table() -> pd.DataFrame:
    """Published mIoU on COCO-20i, with its source."""
    columns = ["method", "backbone", "1-shot", "5-shot", "source"]
    rows = [(*who, *("" if x is None else f"{x:.1f}" for x in mious), source) for *who, mious, source in PUBLISHED]
    return pd.DataFrame(rows, columns=columns).set_index("method")


# --- as files ---------------------------------------------------------------------------------------------------------


FAMILIES = {"Six claims that were chosen beforehand": "claims", "What the source document claims": "document"}


def tables(results: Results) -> dict[str, pd.DataFrame]:
    """Every table of a result by its title, without those that would be empty."""
    found = {
        "Every arm, also at 400 px, and FB-IoU": arms_table(results),
        "Every paired difference, on the same queries, to explore": paired_table(results),
        "What chance alone does: two draws of random supports": null_table(results),
        "Where the spread of mIoU comes from, standard deviations in points": spread_table(results),
        "Share of the image marked where the class is absent, %": pd.DataFrame({"%": results.get("absent", {})}),
    }
    return {title: table for title, table in found.items() if len(table)}


def markdown_report(results: Results) -> str:
    """The tables and what became of the document's claims, to be pasted into a page."""
    claimed = {title: claims_table(results, family) for title, family in FAMILIES.items()}
    every = {title: table for title, table in {**claimed, **tables(results)}.items() if len(table)}
    said = [html.escape(sentence, quote=False) for sentence in unanswered(results)]
    parts = [f"## {title}\n\n{markdown(table)}" for title, table in every.items()]
    return "\n\n".join([f"# {place(results)}", *said, *parts]) + "\n"


def html_report(results: Results, figures: Mapping[str, Figure | bytes]) -> str:
    """A self-contained page: findings, tables, and figures as embedded PNG.

    Args:
        figures: caption → figure, or the bytes of a PNG.
    """
    where, failed = place(results), results.get("failed", {})
    seconds = pd.DataFrame({"seconds": {k: f"{s:.0f}" for k, s in results.get("seconds", {}).items()}})
    parts = [
        f"<h1>{html.escape(where)}</h1>",
        f"<p><strong>{html.escape(' '.join(findings(results)))}</strong></p>",
        f"<p>{html.escape(ABOUT)}</p>",
        *(f"<h2>{title}</h2>" + _html(claims_table(results, family)) for title, family in FAMILIES.items()),
        _html(claimed_table(results)),
        "<h2>mIoU and its 95% interval</h2>" + _html(overview(results)),
        *(_folded(title, table) for title, table in tables(results).items()),
        "<h2>Published on COCO-20i, with full training data; not comparable, but the reference</h2>",
        _html(published_table()),
        *(_figure(caption, figure) for caption, figure in figures.items()),
        f"<p>{html.escape(_made(results))}</p>",
        _folded("How long it took, seconds", seconds) if len(seconds) else "",
        "<h2>Runs that failed</h2>" + _list(f"{run}: {error}" for run, error in failed.items()) if failed else "",
    ]
    return _PAGE.format(title=html.escape(f"LLaFS: {where}"), body="\n".join(filter(None, parts)))


def _made(results: Results) -> str:
    seeds = results.get("seeds", [results.get("seed")])
    trained = f"training seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    trained += ", on other images than these" if results.get("trained on") else ""
    return f"Backbone {results['backbone']}, budget {results['budget']}, {trained}; {results['n_queries']} queries."


def _html(table: pd.DataFrame) -> str:
    """In a box that scrolls, by keyboard too. A header that says nothing is none."""
    code = re.sub("<th([^>]*)></th>", r"<td\1></td>", table.to_html(border=0, sparsify=True))
    return f'<div class="table" tabindex="0">{code}</div>'


def _folded(title: str, table: pd.DataFrame) -> str:
    return f"<details><summary>{html.escape(title)}</summary>\n{_html(table)}</details>"


def _list(sentences: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(s)}</li>" for s in sentences) + "</ul>"


def _figure(caption: str, figure: Figure | bytes) -> str:
    code = base64.b64encode(figure if isinstance(figure, bytes) else png(figure)).decode("ascii")
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{code}"><figcaption>{text}</figcaption></figure>'


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, bbox_inches="tight")
    return data.getvalue()


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }}
.table {{ overflow-x: auto; margin: 1rem 0; }} table {{ border-collapse: collapse; font-size: .9rem; }}
th, td {{ padding: .25rem .7rem; text-align: left; border-bottom: 1px solid #8886; vertical-align: top; }}
td {{ white-space: nowrap; }} tbody th {{ font-weight: normal; min-width: 7rem; }}
summary {{ cursor: pointer; margin: .6rem 0; font-weight: 600; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
img {{ max-width: 100%; height: auto; }} figure {{ margin: 2rem 0; }}
</style></head><body><main>
{body}
</main></body></html>
"""
