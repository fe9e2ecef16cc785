"""The report: tables for people and for papers, and one page that needs no network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from llafs_lib.evaluation.claims import claimed_table, place, published_table, verdict, verdicts
from llafs_lib.evaluation.tables import (
    arms_table,
    latex,
    long_table,
    markdown,
    overview,
    paired_table,
    split_name,
    spread_table,
)

ABOUT = (
    "mIoU is the mean over classes of summed intersections over summed unions, in percent, at the images' own size; "
    "“at 400 px” squashes them to 400 × 400, where HSNet's published figures are counted. Intervals are from 2,000 "
    "bootstrap resamples of the query images; “other classes too” draws classes as well. “Two random draws” is the "
    "difference that two draws of random supports make with the same model: what chance alone does."
)


def text_report(results: Mapping[str, Any]) -> str:
    """mIoU of every arm, the paired differences, and the verdict: for a terminal."""
    paired = paired_table(results).drop(columns="other classes too")
    return f"mIoU, 95% interval\n{overview(results).to_string()}\n\n{paired.to_string()}\n\n{verdict(results)}"


def write_tables(folder: Path, results: Mapping[str, Any]) -> list[str]:
    """Write `results.csv`, `results.md` and `results.tex`; returns their names."""
    long_table(results).to_csv(folder / "results.csv", index=False)
    tables = [arms_table(results), paired_table(results), *_spread(results), *_absent(results)]
    sentences = "\n".join(f"* {s}" for s in verdicts(results))
    (folder / "results.md").write_text("\n\n".join(map(markdown, tables)) + f"\n\n{sentences}\n", encoding="utf-8")
    (folder / "results.tex").write_text("\n\n".join(map(latex, tables)), encoding="utf-8")
    return ["results.csv", "results.md", "results.tex"]


def _spread(results: Mapping[str, Any]) -> list[pd.DataFrame]:
    table = spread_table(results)
    return [table] if len(table) else []


def _absent(results: Mapping[str, Any]) -> list[pd.DataFrame]:
    rows = [(*split_name(name), f"{share:.1f}") for name, share in results.get("absent", {}).items()]
    return [pd.DataFrame(rows, columns=["model", "supports", "%"]).set_index(["model", "supports"])] if rows else []


def html_report(results: Mapping[str, Any], figures: Mapping[str, Figure | bytes]) -> str:
    """A self-contained page: verdicts, tables, figures as embedded PNG.

    Args:
        figures: caption → figure, or the bytes of a PNG.
    """
    where = place(results)
    parts = [
        f"<h1>{html.escape(where)}</h1>",
        f"<p><strong>{html.escape(verdict(results))}</strong></p>",
        f"<p>{html.escape(ABOUT)}</p>",
        _section("mIoU and its 95% interval", overview(results)),
        _folded("Every arm, also at 400 px, and FB-IoU", arms_table(results)),
        _folded("Every paired difference, on the same queries", paired_table(results)),
        *(_folded("Where the spread of mIoU comes from, standard deviations in points", t) for t in _spread(results)),
        *(_folded("Share of the image marked where the class is absent, %", t) for t in _absent(results)),
        "<h2>The source document's claims</h2>",
        _list(verdicts(results)),
        claimed_table(results).to_html(border=0),
        _section(
            "Published on COCO-20i, with full training data; not comparable, but the reference", published_table()
        ),
        *(_figure(caption, figure) for caption, figure in figures.items()),
        f"<p>{html.escape(_made(results))}</p>",
        *(_folded("How long it took, seconds", t) for t in _seconds(results)),
        *([_failures(results["failed"])] if results.get("failed") else []),
    ]
    return _PAGE.format(title=html.escape(f"LLaFS: {where}"), body="\n".join(parts))


def _made(results: Mapping[str, Any]) -> str:
    seeds = results.get("seeds", [results.get("seed")])
    trained = f"training seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    return f"Backbone {results['backbone']}, budget {results['budget']}, {trained}; {results['n_queries']} queries."


def _seconds(results: Mapping[str, Any]) -> list[pd.DataFrame]:
    seconds = results.get("seconds", {})
    return [pd.DataFrame({"seconds": [f"{s:.0f}" for s in seconds.values()]}, index=list(seconds))] if seconds else []


def _section(title: str, table: pd.DataFrame) -> str:
    return f"<h2>{html.escape(title)}</h2>\n{table.to_html(border=0, sparsify=True)}"


def _folded(title: str, table: pd.DataFrame) -> str:
    return f"<details><summary>{html.escape(title)}</summary>\n{table.to_html(border=0, sparsify=True)}</details>"


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(s)}</li>" for s in sentences) + "</ul>"


def _failures(failed: Mapping[str, str]) -> str:
    return "<h2>Runs that failed</h2>" + _list([f"{run}: {error}" for run, error in failed.items()])


def _figure(caption: str, figure: Figure | bytes) -> str:
    code = base64.b64encode(figure if isinstance(figure, bytes) else png(figure)).decode("ascii")
    text = html.escape(caption, quote=True)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{code}"><figcaption>{html.escape(caption)}</figcaption>'
        "</figure>"
    )


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
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; font-size: .9rem; }}
th, td {{ padding: .25rem .7rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top; }}
td {{ white-space: nowrap; }} tbody th {{ font-weight: normal; min-width: 7rem; }}
summary {{ cursor: pointer; margin: .6rem 0; font-weight: 600; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
img {{ max-width: 100%; height: auto; }} figure {{ margin: 2rem 0; }} figcaption {{ color: #555; }}
</style></head><body>
{body}
</body></html>
"""
