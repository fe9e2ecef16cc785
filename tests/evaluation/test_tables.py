import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from llafs_lib import plots
from llafs_lib.evaluation.arms import EVERYTHING, FLOORS, Arm, document_arms, document_pairs
from llafs_lib.evaluation.log import Asked
from llafs_lib.evaluation.metrics import ConfusionCounts, class_ious, miou
from llafs_lib.evaluation.report import (
    findings,
    html_report,
    markdown_report,
    png,
    published_table,
    text_report,
    verdicts,
)
from llafs_lib.evaluation.tables import (
    arms_in,
    arms_table,
    markdown,
    overview,
    paired_table,
    pairs_in,
    spread_table,
    spreads,
    summarise,
)
from llafs_lib.records import RelatedClass, RelatedClasses

ARMS = [*FLOORS, *(replace(a, model=m) for m in ("HSNet", "RePRI") for a in document_arms() if a.k != "all")]
ARMS += [replace(a, model="Prototype") for a in document_arms()]
TRUE, RANDOM, LLM = (Arm("HSNet", policy, 5) for policy in ("true", "random", "llm"))
LEVEL = {"true": 0.5, "llm": 0.4, "random": 0.2, "shuffled": 0.2, "all": 0.25, "everything": 0.15}
LEVEL["centre prior"] = 0.16


def counts_with(seed=0, level=LEVEL):
    """40 images with two questions each; an arm's level is its policy's."""
    rng = np.random.default_rng(seed)
    asked = [(str(c), image) for image in range(40) for c in rng.choice(list("abcdef"), 2, replace=False)]
    noise = rng.normal(0, 0.05, len(asked))

    def of(arm):
        own = level[arm.policy] + 0.1 * (arm.added == "llm")
        inters = (1000 * np.clip(own + noise + rng.normal(0, 0.02, len(asked)), 0, 1)).astype(int)
        return [
            ConfusionCounts(c, i, int(n), 1000, 2000, 3000 - int(n)) for (c, i), n in zip(asked, inters, strict=True)
        ]

    return {arm: of(arm) for arm in ARMS}


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
    return facts | summarise(counts, document_pairs(ARMS, (1, 5)), 0, counts) | {"spread": spreads({0: counts}, 0)}


def test_figures_are_those_of_the_metrics(results):
    counts = counts_with()
    for arm, found in arms_in(results).items():
        assert found["miou"] == round(miou(counts[arm]), 2) == found["miou_400"]
        assert found["per_class"] == {c: round(v, 2) for c, v in class_ious(counts[arm]).items()}
        assert found["ci95"][0] <= found["miou"] <= found["ci95"][1]
        assert sum(found["queries_of"].values()) == 80


def test_a_result_is_read_back_as_values(results):
    stored = json.loads(json.dumps(results))
    assert list(arms_in(stored)) == ARMS and list(pairs_in(stored)) == document_pairs(ARMS, (1, 5))
    found = stored["paired"]["HSNet: llm 5-HSNet: random 5"]
    assert pairs_in(stored)[LLM, RANDOM] is found and (found["a"], found["b"]) == (LLM.name, RANDOM.name)
    for pair in pairs_in(results).values():
        assert pair["ci95_classes"][0] <= pair["ci95"][0] <= pair["diff"] <= pair["ci95"][1] <= pair["ci95_classes"][1]


def test_the_null_test_stands_beside_every_difference(results):
    table = paired_table(results)
    null = pairs_in(results)[replace(RANDOM, draw=1), RANDOM]["diff"]
    assert table.loc[("HSNet", "llm 5 − random 5"), "two random draws"] == f"{null:+.1f}"
    assert (table["two random draws"] != "").all()


def test_verdicts_go_by_the_interval(results):
    sentences = verdicts(results)
    assert len(sentences) == 6
    beat = next(s for s in sentences if "beat random ones" in s and "instead" in s)
    assert "holds with HSNet 1-shot +19" in beat and "Prototype 5-shot" in beat
    worse = next(s for s in sentences if "random base supports improve" in s and "instead" in s)
    assert "is the wrong way round with HSNet" in worse


def test_three_sentences_say_what_was_found(results):
    random, true, floors = findings(results)
    assert random.startswith(
        "On toy, fold 0, 5 shots, 80 queries, LLM-chosen base supports are better than random ones"
    )
    assert "worse than one true support with HSNet -" in true
    assert "everything scores 1" in floors and "better than the centre prior with HSNet +" in floors


def test_no_verdict_without_a_difference():
    level, facts = LEVEL | {"llm": 0.2}, {"dataset": "toy", "fold": 0, "shots": [1, 5], "n_queries": 80}
    counts = counts_with(level=level)
    found = facts | summarise(counts, document_pairs(ARMS, (1, 5)), 0)
    assert "not told apart from random ones with" in findings(found)[0]
    without = summarise({EVERYTHING: counts[EVERYTHING], LLM: counts[LLM]}, [(LLM, EVERYTHING)])
    random, true, floors = findings(facts | without)
    assert "not compared with random ones" in random and "not compared with one true support" in true
    assert "better than to predict everything with HSNet" in floors


def test_where_no_language_model_answered_every_table_says_so(results):
    classes = list(next(iter(results["arms"].values()))["per_class"])
    silent = results | {"unanswered": [*classes, "a class that was not asked about"]}
    said, *others = findings(silent)
    assert "no usable answer of a language model about any class" in said and len(others) == 3
    assert not any("LLM-chosen" in sentence for sentence in findings(silent))
    for table in (arms_table(silent).reset_index()["supports"], overview(silent).index):
        assert any("like names (no LLM answered), 5" in row for row in table)
        assert not any("LLM base supports" in row for row in table)
    claims = [sentence for sentence in verdicts(silent) if "LLM base supports" in sentence]
    assert len(claims) == 4 and all("cannot be told, because no language model answered" in c for c in claims)
    for page in (markdown_report(silent), html_report(silent, {}), text_report(silent)):
        assert "no usable answer of a language model about any class" in page.replace("\n", " ")
    some = results | {"unanswered": ["<b>x</b>", classes[0]]}
    assert f"about 1 of {len(classes)} classes ({classes[0]})" in findings(some)[0]
    assert "LLM-chosen base supports" in findings(some)[1] and len(findings(results)) == 3


def test_what_was_published_has_its_source():
    table = published_table()
    assert table.loc["LSeg, zero-shot: no support at all", "1-shot"] == "23.4"
    assert (table["source"].str.len() > 5).all()


def test_spread_between_seeds():
    first, other = counts_with(0), counts_with(1)
    asked_alike = {
        name: [replace(a, inter=b.inter) for a, b in zip(first[name], other[name], strict=True)] for name in ARMS
    }
    same = {0: first, 1: asked_alike}
    table = spread_table({"spread": spreads(same, 0)})
    row = table.loc[("HSNet", "random 5")]
    assert all(float(row[part]) >= 0 for part in ("training", "draws", "queries"))
    assert table.loc[("HSNet", "llm 5"), "draws"] == ""


def test_the_markdown_report_has_every_table(results):
    page = markdown_report(results | {"absent": {"HSNet: llm 5": 12.5}})
    assert "| HSNet | LLM base supports, 5 |" in page and "| HSNet: llm 5 | 12.5 |" in page
    assert "| HSNet | llm 5 − random 5 | +" in page and "* Base supports beside true ones" in page
    assert page.count("\n## ") == 4 + 1, "four tables and the claims"


def test_the_report_loads_nothing(results, tmp_path):
    asked = [
        Asked("a", n, 100, n + 1, {name: ConfusionCounts("a", n, n, 100, 0, 1) for name in ARMS}) for n in range(20)
    ]
    shown = [TRUE, LLM, RANDOM]
    figures = {
        "a <caption>": plots.differences(results),
        "arms": plots.arm_intervals(results),
        "classes": plots.per_class(results, shown),
        "area": plots.iou_by_area(asked, [EVERYTHING, *shown]),
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
    (ax,) = plots.per_class({"arms": arms}, [LLM]).axes
    colours = {t.get_text(): t.get_color() for t in ax.get_yticklabels()}
    assert colours["a (7)"] == plots.NEUTRAL and colours["b (8)"] == "black"


def test_a_terminal_gets_the_findings_and_a_small_table(results):
    said = text_report(results)
    assert len(said.splitlines()) <= 20 and max(map(len, said.splitlines())) <= 120
    for text in (
        "predict everything",
        "LLM base supports, 5",
        "every base support",
        "On toy, fold 0",
    ):
        assert text in said
    assert "true + 5" not in said and "other draw" not in said


@pytest.mark.parametrize("name", ["$5 & $10", "a $ b", "$\\frac{$", "<script>alert(1)</script>", "a | b"])
def test_a_class_may_have_any_name(name):
    arms = {LLM.name: vars(LLM) | {"per_class": {name: 50.0, "b": 40.0}, "queries_of": {name: 9, "b": 9}}}
    figure = plots.per_class({"arms": arms}, [LLM])
    assert png(figure) and f"{name} (9)" in [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert png(plots.related_bars(RelatedClasses(name, (RelatedClass(name, 0.5),), "live", "a test")))
    cell = markdown(pd.DataFrame({"class": [name]})).splitlines()[-1]
    assert cell == "| 0 | " + name.replace("|", "\\|") + " |"


def test_the_axis_of_sizes_shows_plain_numbers():
    counts = ConfusionCounts("a", 0, 1, 2, 0, 1)
    asked = [Asked("a", n, 10_000, 100 * n, {LLM: counts}) for n in (1, 3, 9, 27, 81)]
    figure = plots.iou_by_area(asked, [LLM])
    png(figure)
    shown = [t.get_text() for t in figure.axes[0].get_xticklabels() + figure.axes[0].get_xticklabels(minor=True)]
    assert {"1", "5", "10", "20"} <= set(shown) and not any("$" in text for text in shown)
