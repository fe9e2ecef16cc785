import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from llafs_lib import plots
from llafs_lib.evaluation import claims
from llafs_lib.evaluation.arms import document_arms
from llafs_lib.evaluation.metrics import ConfusionCounts, class_ious, miou
from llafs_lib.evaluation.report import html_report, text_report, write_tables
from llafs_lib.evaluation.runner import Asked
from llafs_lib.evaluation.tables import (
    arms_table,
    document_pairs,
    latex,
    paired_table,
    split_name,
    spread_table,
    spreads,
    summarise,
)

ARMS = [n for n in document_arms() if not n.endswith(" all")]
NAMES = ["everything", "centre prior", *(f"{m}: {a}" for m in ("HSNet", "RePRI") for a in ARMS)]
NAMES += [f"Prototype: {a}" for a in document_arms()]
LEVEL = {"true": 0.5, "llm": 0.4, "random": 0.2, "shuffled": 0.2, "all": 0.25, "everything": 0.15, "centre": 0.15}


def counts_with(seed=0, level=LEVEL):
    """40 images with two questions each; an arm's level is its policy's."""
    rng = np.random.default_rng(seed)
    asked = [(str(c), image) for image in range(40) for c in rng.choice(list("abcdef"), 2, replace=False)]
    noise = rng.normal(0, 0.05, len(asked))

    def of(name):
        own = level[split_name(name)[1].split(" ")[0].rstrip(",")] + 0.1 * ("+ llm" in name)
        inters = (1000 * np.clip(own + noise + rng.normal(0, 0.02, len(asked)), 0, 1)).astype(int)
        return [
            ConfusionCounts(c, i, int(n), 1000, 2000, 3000 - int(n)) for (c, i), n in zip(asked, inters, strict=True)
        ]

    return {name: of(name) for name in NAMES}


@pytest.fixture(scope="module")
def results():
    counts = counts_with()
    facts = {
        "dataset": "toy",
        "fold": 0,
        "shots": [1, 5],
        "n_queries": 80,
        "backbone": "small",
        "seed": 0,
        "budget": "tiny",
    }
    return facts | summarise(counts, document_pairs(NAMES, (1, 5)), 0, counts) | {"spread": spreads({0: counts}, 0)}


def test_figures_are_those_of_the_metrics(results):
    counts = counts_with()
    for name, found in results["arms"].items():
        assert found["miou"] == round(miou(counts[name]), 2) == found["miou_400"]
        assert found["per_class"] == {c: round(v, 2) for c, v in class_ious(counts[name]).items()}
        assert found["ci95"][0] <= found["miou"] <= found["ci95"][1]
        assert sum(found["queries_of"].values()) == 80


def test_every_claim_and_control_has_its_difference(results):
    for model in ("HSNet", "RePRI", "Prototype"):
        for a, b in (("llm 5", "random 5"), ("shuffled 1", "random 1"), ("true 1 + llm 5", "true 1"),
                     ("random 5, other draw", "random 5"), ("true 5 + llm 5", "true 5 + random 5")):  # fmt: skip
            pair = results["paired"][f"{model}: {a}-{model}: {b}"]
            assert (
                pair["ci95_classes"][0] <= pair["ci95"][0] <= pair["diff"] <= pair["ci95"][1] <= pair["ci95_classes"][1]
            )
    assert "Prototype: llm all-Prototype: all all" in results["paired"]


def test_the_null_test_stands_beside_every_difference(results):
    table = paired_table(results)
    null = results["paired"]["HSNet: random 5, other draw-HSNet: random 5"]["diff"]
    assert table.loc[("HSNet", "llm 5 − random 5"), "two random draws"] == f"{null:+.1f}"
    assert (table["two random draws"] != "").all()


def test_verdicts_go_by_the_interval(results):
    sentences = claims.verdicts(results)
    assert len(sentences) == 6
    beat = next(s for s in sentences if "beat random ones" in s and "instead" in s)
    assert "holds with HSNet 1-shot +19" in beat and "Prototype 5-shot" in beat
    worse = next(s for s in sentences if "random base supports improve" in s and "instead" in s)
    assert "is the wrong way round with HSNet" in worse
    assert "better than random ones with HSNet +" in claims.verdict(results)


def test_no_verdict_without_a_difference():
    level = LEVEL | {"llm": 0.2}
    counts = counts_with(level=level)
    found = {"dataset": "toy", "fold": 0, "n_queries": 80} | summarise(counts, document_pairs(NAMES, (1, 5)), 0)
    assert "not told apart from random ones with" in claims.verdict(found)


def test_what_was_published_has_its_source():
    table = claims.published_table()
    assert table.loc["LSeg, zero-shot: no support at all", "1-shot"] == "23.4"
    assert (table["source"].str.len() > 5).all()


def test_spread_between_seeds():
    first, other = counts_with(0), counts_with(1)
    asked_alike = {
        name: [replace(a, inter=b.inter) for a, b in zip(first[name], other[name], strict=True)] for name in NAMES
    }
    same = {0: first, 1: asked_alike}
    table = spread_table({"spread": spreads(same, 0)})
    row = table.loc[("HSNet", "random 5")]
    assert all(float(row[part]) >= 0 for part in ("training", "draws", "queries"))
    assert table.loc[("HSNet", "llm 5"), "draws"] == ""


def test_the_tables_are_written_for_people_and_papers(results, tmp_path):
    assert write_tables(tmp_path, results) == ["results.csv", "results.md", "results.tex"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text(encoding="utf-8"))))
    assert len(rows) == len(results["arms"]) + len(results["paired"])
    assert float(rows[0]["value"]) == results["arms"]["everything"]["miou"]
    assert "| HSNet | LLM base supports, 5 |" in (tmp_path / "results.md").read_text(encoding="utf-8")
    made = (tmp_path / "results.tex").read_text(encoding="utf-8")
    assert made.count(r"\begin{tabular}") == 3 and r"95\% interval" in made and "−" not in made
    assert latex(arms_table(results)).count("&") == 5 * (len(NAMES) + 1)
    json.dumps(results)


def test_the_report_loads_nothing(results, tmp_path):
    asked = [
        Asked("a", n, 100, n + 1, {name: ConfusionCounts("a", n, n, 100, 0, 1) for name in NAMES}) for n in range(20)
    ]
    shown = [f"HSNet: {p} 5" for p in ("true", "llm", "random")]
    figures = {
        "a <caption>": plots.differences(results),
        "arms": plots.arm_intervals(results),
        "classes": plots.per_class(results, shown),
        "area": plots.iou_by_area(asked, ["everything", *shown]),
        "ready": b"\x89PNG",
    }
    page = html_report(results | {"failed": {"seed 1, fold 0": "ValueError: <x>"}}, figures)
    assert "a &lt;caption&gt;" in page and page.count("data:image/png;base64,") == 5
    assert "http" not in page and "<script" not in page and "ValueError: &lt;x&gt;" in page
    for text in ("claimed, COCO-20i", "LSeg", "two random draws", "other classes too"):
        assert text in page


def test_a_merged_report_says_what_it_was_made_of(results):
    made_of = {"folds": [0, 1], "seeds": [3, 4], "seconds": {"seed 3, fold 0": 61.4}}
    page = html_report(results | made_of, {})
    assert "folds 0, 1</h1>" in page and "training seeds 3, 4; 80 queries" in page
    assert "<th>seed 3, fold 0</th>" in page and "<td>61</td>" in page and "{'" not in page


def test_classes_with_few_queries_are_greyed(results):
    few = {"a": 7, "b": 8} | {c: 20 for c in "cdef"}
    arms = {n: a | {"queries_of": few} for n, a in results["arms"].items()}
    (ax,) = plots.per_class({"arms": arms}, ["HSNet: llm 5"]).axes
    colours = {t.get_text(): t.get_color() for t in ax.get_yticklabels()}
    assert colours["a (7)"] == plots.NEUTRAL and colours["b (8)"] == "black"


def test_a_terminal_gets_all_rows_and_the_verdict(results):
    said = text_report(results)
    for text in ("predict everything (floor)", "LLM base supports, 5", "llm 5 − random 5", "On toy, fold 0"):
        assert text in said
