"""What the source document claims, what was published, and what a result says about it.

The document prints one row of figures for COCO-20i, 5 shots, mean of four folds, and does not say where true supports
end and base supports begin. Each claim is therefore read twice: (a) base supports *instead* of true ones, (b) *beside*
them. A verdict goes by the interval of a paired difference, whatever its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from llafs_lib.evaluation.arms import ADDED
from llafs_lib.evaluation.tables import reading, split_name

CLAIMED = {"HSNet": 39.2, "+ random base supports": 40.5, "+ LLM base supports": 44.4}

# (method, backbone, mIoU with 1 and 5 shots on COCO-20i, mean of four folds, source). The field trains on thousands of
# images a class: to be read beside our figures, not against them.
PUBLISHED = (
    ("HSNet", "ResNet-50", (39.2, 46.9), "Hong et al. 2022 (VAT), table 2"),
    ("RePRI", "ResNet-50", (34.1, 41.6), "Hong et al. 2022 (VAT), table 2"),
    ("RePRI", "ResNet-50", (34.0, 42.1), "README of the RePRI repository"),
    ("VAT", "ResNet-50", (41.3, 47.9), "Hong et al. 2022 (VAT), table 2"),
    ("BAM", "ResNet-50", (46.23, 51.16), "README of the BAM repository"),
    ("LSeg, zero-shot: no support at all", "CLIP-ResNet-101", (23.4, None), "README of the lang-seg repository"),
)


@dataclass(frozen=True)
class Claim:
    """`text` says which of two rows of the document is to be the better one; `better` − `worse` are our arms for it.

    `how`: whether base supports are read to come "instead of" true ones or "beside" them.
    """

    text: str
    how: str
    better: str
    worse: str


def claims(k: int) -> tuple[Claim, ...]:
    """The document's claims, for `k` supports."""
    random, llm = f"true {k} + random {ADDED}", f"true {k} + llm {ADDED}"
    texts = (
        "random base supports improve on the baseline (+1.3)",
        "LLM base supports improve on the baseline (+5.2)",
        "LLM base supports beat random ones (+3.9)",
    )
    instead = ((f"random {k}", f"true {k}"), (f"llm {k}", f"true {k}"), (f"llm {k}", f"random {k}"))
    beside = ((random, f"true {k}"), (llm, f"true {k}"), (llm, random))
    return tuple(
        Claim(text, how, *pair)
        for how, pairs in (("instead of", instead), ("beside", beside))
        for text, pair in zip(texts, pairs, strict=True)
    )


def models_of(results: Mapping[str, Any]) -> list[str]:
    """The models of a result, in its order."""
    return list(dict.fromkeys(split_name(n)[0] for n in results["arms"] if split_name(n)[0]))


def verdicts(results: Mapping[str, Any]) -> list[str]:
    """One sentence for each claim and reading: with which models and how many supports it holds."""
    shots = results.get("shots", (1, 5))
    sentences = []
    for which in range(len(claims(1))):
        text, how = claims(1)[which].text, claims(1)[which].how
        found: dict[str, list[str]] = {}
        for model in models_of(results):
            for k in shots:
                claim = claims(k)[which]
                pair = results["paired"].get(f"{model}: {claim.better}-{model}: {claim.worse}")
                if pair:
                    said = found.setdefault(reading(pair["ci95"]), [])
                    said.append(f"{model} {k}-shot {_with_interval(pair)}")
        parts = {"better": "holds", "worse": "is the wrong way round", "not told apart": "cannot be told"}
        said = "; ".join(f"{says} with {', '.join(found[r])}" for r, says in parts.items() if r in found)
        sentences.append(f"Base supports {how} true ones: “{text}” {said or 'was not asked'}.")
    return sentences


def verdict(results: Mapping[str, Any]) -> str:
    """The question of the series in one sentence: do LLM-chosen base supports beat random ones here?"""
    k = max(results.get("shots", (5,)))
    found: dict[str, list[str]] = {}
    for model in models_of(results):
        pair = results["paired"].get(f"{model}: llm {k}-{model}: random {k}")
        if pair:
            found.setdefault(reading(pair["ci95"]), []).append(f"{model} {_with_interval(pair)}")
    says = {"better": "better than", "worse": "worse than", "not told apart": "not told apart from"}
    parts = "; ".join(f"{says[r]} random ones with {', '.join(found[r])}" for r in says if r in found)
    where = f"On {place(results)}, {k} shots, {results['n_queries']} queries"
    return f"{where}, LLM-chosen base supports are {parts or 'not among the arms'} (mIoU, 95% interval)."


def place(results: Mapping[str, Any]) -> str:
    """The data set and its folds: "toy, fold 0" or "coco-mini, folds 0, 1, 2, 3"."""
    folds = results.get("folds", [results.get("fold")])
    return f"{results['dataset']}, fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}"


def _with_interval(pair: Mapping[str, Any]) -> str:
    low, high = pair["ci95"]
    return f"{pair['diff']:+.1f} [{low:+.1f}, {high:+.1f}]"


def published_table() -> pd.DataFrame:
    """Published mIoU on COCO-20i, with its source."""
    columns = ["method", "backbone", "1-shot", "5-shot", "source"]
    rows = [(*who, *("" if x is None else f"{x:.1f}" for x in mious), source) for *who, mious, source in PUBLISHED]
    return pd.DataFrame(rows, columns=columns).set_index("method")


def claimed_table(results: Mapping[str, Any], k: int = 5) -> pd.DataFrame:
    """The document's rows beside what was measured, both readings, for each model."""
    rows = {
        "HSNet": (f"true {k}", f"true {k}"),
        "+ random base supports": (f"random {k}", f"true {k} + random {ADDED}"),
        "+ LLM base supports": (f"llm {k}", f"true {k} + llm {ADDED}"),
    }
    table = {}
    for row, (instead, beside) in rows.items():
        table[row] = {"claimed, COCO-20i": f"{CLAIMED[row]:.1f}"}
        for model in models_of(results):
            for how, arm in (("instead of", instead), ("beside", beside)):
                found = results["arms"].get(f"{model}: {arm}")
                table[row][f"{model}, {how} true"] = f"{found['miou']:.1f}" if found else ""
    return pd.DataFrame(table).T.rename_axis("row of the document")
