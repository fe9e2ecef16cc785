import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from llafs_lib import plots
from llafs_lib.evaluation.arms import (
    DRAWS,
    EVERYTHING,
    FLOORS,
    Arm,
    claims,
    document_arms,
    document_pairs,
    over_draws,
)
from llafs_lib.evaluation.log import Asked
from llafs_lib.evaluation.metrics import ConfusionCounts, class_ious, miou
from llafs_lib.evaluation.report import (
    findings,
    html_report,
    markdown_report,
    png,
    published_table,
    text_report,
)
from llafs_lib.evaluation.summary import merged, spreads, summarise
from llafs_lib.evaluation.tables import (
    arms_in,
    arms_table,
    claims_table,
    markdown,
    null_table,
    overview,
    pairs_in,
    spread_table,
)
from llafs_lib.records import RelatedClass, RelatedClasses

ARMS = [*FLOORS, *(replace(a, model=m) for m in ("HSNet", "RePRI") for a in document_arms() if a.k != "all")]
ARMS += [replace(a, model="Prototype") for a in document_arms()]
TRUE, RANDOM, LLM = (Arm("HSNet", policy, 5) for policy in ("true", "random", "llm"))
LEVEL = {"true": 0.5, "llm": 0.4, "random": 0.2, "shuffled": 0.2, "all": 0.25, "everything": 0.15}
LEVEL |= {"centre prior": 0.16, "supercategory": 0.4, "text": 0.3}
ROWS = list(dict.fromkeys(replace(arm, draw=0) for arm in ARMS))
FACTS = {"dataset": "toy", "fold": 0, "shots": [1, 5], "n_queries": 80, "backbone": "small", "seed": 0}
FACTS |= {"budget": "tiny"}


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


def result_of(*runs, **facts):
    """A result of one or more trainings' answers."""
    found = summarise(runs, document_pairs(runs[0], (1, 5)), (1, 5), at_400=runs)
    return FACTS | found | {"spread": spreads(dict(enumerate(runs)))} | facts


@pytest.fixture(scope="module")
def results():
    return result_of(counts_with())


def verdict_of(results, says, model="HSNet", family="claims"):
    (found,) = (c for c in results[family] if says in c["says"] and c["model"] == model)
    return found["verdict"]


def test_figures_are_those_of_the_metrics_with_all_draws_together(results):
    counts = over_draws(counts_with())
    for arm, found in arms_in(results).items():
        assert found["miou"] == round(miou(counts[arm]), 2) == found["miou_400"]
        assert found["per_class"] == {c: round(v, 2) for c, v in class_ious(counts[arm]).items()}
        assert found["ci95"][0] <= found["miou"] <= found["ci95"][1]
        assert sum(found["queries_of"].values()) == 80
    assert arms_in(results)[RANDOM]["draws"] == DRAWS and arms_in(results)[LLM]["draws"] == 1


def test_a_result_is_read_back_as_values(results):
    stored = json.loads(json.dumps(results))
    assert set(arms_in(stored)) == set(ROWS) and list(pairs_in(stored)) == document_pairs(ARMS, (1, 5))
    found = stored["paired"]["HSNet: llm 5-HSNet: random 5"]
    assert pairs_in(stored)[LLM, RANDOM] is found and (found["a"], found["b"]) == (LLM.name, RANDOM.name)
    for pair in pairs_in(results).values():
        assert pair["ci95"][0] <= pair["diff"] <= pair["ci95"][1]
        assert (pair["p"] < 0.05) == (not pair["ci95"][0] <= 0 <= pair["ci95"][1])


def test_tables_list_supports_by_their_kind_then_by_their_number_and_floors_last(results):
    of_one_kind = ["true 1", "true 5", "llm 1", "llm 5", "llm all", "supercategory 1", "supercategory 5",
                   "supercategory all", "text 1", "text 5", "text all", "random 1", "random 5",
                   "shuffled 1", "shuffled 5", "shuffled all", "all all"]  # fmt: skip
    mixtures = ["true 1 + llm 5", "true 5 + llm 5", "true 1 + random 5", "true 5 + random 5"]
    order = [*of_one_kind, *mixtures, "everything", "centre prior"]
    arms = {arm.supports: arm for arm in ROWS}
    assert list(overview(results).index) == [arms[supports].label for supports in order]
    models = arms_table(results).index.get_level_values("model")
    assert list(dict.fromkeys(models)) == ["HSNet", "RePRI", "Prototype", ""]
    ticks = plots.arm_intervals(results).axes[0].get_yticklabels()
    assert [tick.get_text() for tick in ticks] == list(overview(results).index[: -len(FLOORS)])


def test_each_model_has_its_six_claims_and_p_values_are_corrected(results):
    for model in ("HSNet", "RePRI", "Prototype"):
        own = [c for c in results["claims"] if c["model"] == model]
        assert [c["says"] for c in own] == list(claims(model, 5))
        plain = [results["paired"][f"{c['a']}-{c['b']}"]["p"] for c in own]
        assert min(c["p"] for c in own) == pytest.approx(6 * min(plain)) and all(
            c["p"] >= p for c, p in zip(own, plain, strict=True)
        )
    assert verdict_of(results, "beat random ones") == verdict_of(results, "like names") == "holds"
    assert verdict_of(results, "beat one true support") == "contradicted"
    assert verdict_of(results, "beat those of the super-category") == "cannot tell"
    table = claims_table(results)
    assert table.loc["LLM-chosen supports beat random ones", "HSNet"].startswith("holds: +2")
    assert list(table.columns) == ["HSNet", "RePRI", "Prototype"] and len(table) == 6


def test_the_document_s_claims_are_read_in_both_ways(results):
    assert verdict_of(results, "beat random ones (+3.9), instead", family="document") == "holds"
    assert verdict_of(results, "random supports improve on the baseline (+1.3), instead", family="document") == (
        "contradicted"
    )
    assert verdict_of(results, "LLM supports improve on the baseline (+5.2), beside", family="document") == "holds"
    assert len(claims_table(results, "document")) == 6


def test_two_random_draws_are_not_told_apart(results):
    table = null_table(results)
    assert (table["pairs of draws"] == 10).all() and len(table) == 6
    assert all(int(cell.split()[0]) >= 5 for cell in table["0 lies in the interval"])


def test_what_was_found_is_said_in_sentences(results):
    random, free, true, floors, circle = findings(results)
    assert random.startswith(
        "On toy, fold 0, 5 shots, 80 queries, LLM-chosen base supports are better than random ones"
    )
    assert "not told apart from those of COCO's super-category with HSNet" in free
    assert "better than those with like names with HSNet" in free
    assert "worse than one true support with HSNet -" in true
    assert "everything scores 1" in floors and "better than the centre prior with HSNet +" in floors
    assert "does not show that a language model knows them" in circle
    assert len(findings(results | {"dataset": "coco-mini"})) == 4, "photographs were not drawn in families"


def test_no_verdict_without_a_difference():
    counts = counts_with(level=LEVEL | {"llm": 0.2})
    assert "not told apart from random ones with" in findings(result_of(counts))[0]
    without = summarise([{EVERYTHING: counts[EVERYTHING], LLM: counts[LLM]}], [(LLM, EVERYTHING)])
    random, free, true, floors, _ = findings(FACTS | without)
    assert "not compared with random ones" in random and "not compared with one true support" in true
    assert "not compared with those" in free and "better than to predict everything with HSNet" in floors


def test_too_few_queries_have_no_interval_and_no_verdict():
    """Ten questions about nine classes once made "better, +5.3 [+5.3, +5.3]", for the null test, too."""
    whole = counts_with()
    few = {arm: [replace(c, class_name=f"class {n % 9}", image_id=n) for n, c in enumerate(own[:10])]
           for arm, own in whole.items()}  # fmt: skip
    results = result_of(few, n_queries=10)
    assert all(f["ci95"] is None for part in ("arms", "paired") for f in results[part].values())
    assert {c["verdict"] for c in (*results["claims"], *results["document"])} == {"too few queries"}
    said = findings(results)
    assert not any("  " in text for text in (*said, *overview(results).stack()))
    assert "not compared (too few queries) with random ones with HSNet" in said[0]
    assert not any(word in " ".join(said) for word in ("better", "worse", "[", "told apart"))
    pages = markdown_report(results), html_report(results, {"a": plots.claims(results)}), text_report(results)
    assert all("too few queries" in page and "None" not in page for page in pages)
    assert png(plots.arm_intervals(results)) and null_table(results).empty


def test_runs_of_several_folds_and_trainings_are_merged(results):
    def asked(fold, seed):
        own, found = counts_with(seed), []
        for n, c in enumerate(own[LLM]):
            query = {"class_name": f"{c.class_name}{fold}", "image_id": c.image_id + 1000 * fold}
            found.append(
                Asked(**query, pixels=9000, truth=1000, answers={a: replace(own[a][n], **query) for a in ARMS})
            )
        return found

    runs = {(seed, fold): asked(fold, 0) for seed in (0, 1, 2) for fold in (0, 1)}
    found = merged(runs, [FACTS | {"absent": {"HSNet: llm 5": 10.0}}, FACTS | {"absent": {"HSNet: llm 5": 20.0}}])
    assert found["n_queries"] == 160 and found["absent"] == {"HSNet: llm 5": 15.0}
    assert arms_in(found)[LLM]["miou"] == arms_in(results)[LLM]["miou"], "two folds alike, three trainings alike"
    narrow, wide = (r["paired"]["HSNet: llm 5-HSNet: random 5"]["ci95"] for r in (found, results))
    assert np.ptp(narrow) < np.ptp(wide), "twice as many queries, and no spread between trainings"
    assert [null["fold"] for null in found["nulls"]] == [0] * len(results["nulls"]) + [1] * len(results["nulls"])
    assert {null["diff"] for null in found["nulls"]} == {null["diff"] for null in results["nulls"]}
    for (seed, _), own in runs.items():
        for query in own if seed else ():
            query.answers = {arm: c for arm, c in query.answers.items() if arm.model != "Prototype"}
            query.at_400 = {}
    once = merged(runs, [FACTS | {"absent": {}}])
    assert once["arms"] == found["arms"] and once["nulls"] == found["nulls"], "all seeds would say the same"
    assert all(
        once["paired"][name] == pair | {"p": once["paired"][name]["p"]} for name, pair in found["paired"].items()
    )
    alone = merged({run: own for run, own in runs.items() if run[0] == 0}, [FACTS | {"absent": {}}])
    single = alone["paired"]["HSNet: llm 5-HSNet: random 5"]["ci95"]
    assert np.ptp(single) > np.ptp(narrow), "what other trainings would differ by is added to a single one"


def test_where_no_language_model_answered_every_table_says_so(results):
    classes = list(next(iter(results["arms"].values()))["per_class"])
    silent = results | {"unanswered": [*classes, "a class that was not asked about"]}
    said, *others = findings(silent)
    assert "no usable answer of a language model about any class" in said and len(others) == 5
    assert not any("LLM-chosen" in sentence for sentence in findings(silent))
    for table in (arms_table(silent).reset_index()["supports"], overview(silent).index):
        assert any("like names (no LLM answered), 5" in row for row in table)
        assert not any("LLM base supports" in row for row in table)
    for family, number in (("claims", 6), ("document", 4)):
        about = claims_table(silent, family)
        assert sum(about["HSNet"].str.startswith("cannot tell, no LLM answered")) == number
    for page in (markdown_report(silent), html_report(silent, {}), text_report(silent)):
        assert "no usable answer of a language model about any class" in page.replace("\n", " ")
    some = results | {"unanswered": ["<b>x</b>", classes[0]]}
    assert f"about 1 of {len(classes)} classes ({classes[0]})" in findings(some)[0]
    assert "LLM-chosen base supports" in findings(some)[1] and len(findings(results)) == 5


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
    table = spread_table({"spread": spreads(same)})
    row = table.loc[("HSNet", "random 5")]
    assert all(float(row[part]) >= 0 for part in ("training", "draws", "queries"))
    assert table.loc[("HSNet", "llm 5"), "draws"] == ""


def test_the_markdown_report_has_every_table(results):
    page = markdown_report(results | {"absent": {"HSNet: llm 5": 12.5}})
    assert "| HSNet | LLM base supports, 5 |" in page and "| HSNet: llm 5 | 12.5 |" in page
    assert "| HSNet | llm 5 − random 5 | +" in page and "| LLM-chosen supports beat random ones | holds: +" in page
    assert page.count("\n## ") == 2 + 5, "two families of claims and five tables"


def test_the_report_loads_nothing(results, tmp_path):
    asked = [
        Asked("a", n, 100, n + 1, {name: ConfusionCounts("a", n, n, 100, 0, 1) for name in ARMS}) for n in range(20)
    ]
    shown = [TRUE, LLM, RANDOM]
    figures = {
        "a <caption>": plots.claims(results),
        "arms": plots.arm_intervals(results),
        "classes": plots.per_class(results, shown),
        "area": plots.iou_by_area(asked, [EVERYTHING, *shown]),
        "ready": b"\x89PNG",
    }
    page = html_report(results | {"failed": {"seed 1, fold 0": "ValueError: <x>"}}, figures)
    assert "a &lt;caption&gt;" in page and page.count("data:image/png;base64,") == 5
    assert "http" not in page and "<script" not in page and "ValueError: &lt;x&gt;" in page
    for text in ("claimed, COCO-20i", "LSeg", "two draws of random supports", "other classes too", "chosen beforehand"):
        assert text in page


def test_a_merged_report_says_what_it_was_made_of(results):
    made_of = {"folds": [0, 1], "seeds": [3, 4], "seconds": {"seed 3, fold 0": 61.4}}
    page = html_report(results | made_of, {})
    assert "folds 0, 1</h1>" in page and "training seeds 3, 4; 80 queries" in page
    assert "<th>seed 3, fold 0</th>" in page and "<td>61</td>" in page and "{'" not in page
    assert "other images" not in page and "other images" in html_report(results | {"trained on": ["a hash"]}, {})


def test_classes_with_few_queries_are_greyed(results):
    few = {"a": 7, "b": 8} | {c: 20 for c in "cdef"}
    arms = {n: a | {"queries_of": few} for n, a in results["arms"].items()}
    (ax,) = plots.per_class({"arms": arms}, [LLM]).axes
    colours = {t.get_text(): t.get_color() for t in ax.get_yticklabels()}
    assert colours["a (7)"] == plots.NEUTRAL and colours["b (8)"] == "black"


def test_a_terminal_gets_the_findings_and_a_small_table(results):
    said = text_report(results)
    assert len(said.splitlines()) <= 25 and max(map(len, said.splitlines())) <= 120
    for text in (
        "predict everything",
        "LLM base supports, 5",
        "every base support",
        "On toy, fold 0",
    ):
        assert text in said
    assert "true + 5" not in said and "draw 2" not in said


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
