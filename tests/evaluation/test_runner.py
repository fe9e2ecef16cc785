import json

import numpy as np
import pytest

from llafs_lib.evaluation.metrics import class_ious
from llafs_lib.evaluation.report import html_report, summarise, text_report, verdict
from llafs_lib.evaluation.runner import evaluate, predict_everything
from llafs_lib.records import Episode

EPISODES = [Episode(name, i, ()) for i, name in enumerate(["zebra", "horse"] * 5)]


def read_query(episode):
    truth = np.zeros((8, 8), bool)
    truth[: 1 + episode.query_id % 8] = True
    return np.zeros((8, 8, 3), np.uint8), truth, np.zeros((8, 8), bool)


def perfect(episode, image):
    return read_query(episode)[1]


class Counted:
    """An arm that counts its calls and may be cut off."""

    def __init__(self, stop_after=None):
        self.calls, self.stop_after = 0, stop_after

    def __call__(self, episode, image):
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        return perfect(episode, image)


def run(tmp_path, key="k", **arms):
    return evaluate(EPISODES, arms, read_query, tmp_path / "log.jsonl", key)


def test_arms_answer_the_same_questions_in_order(tmp_path):
    counts = run(tmp_path, everything=predict_everything, perfect=perfect)
    for arm in counts.values():
        assert [(c.class_name, c.image_id) for c in arm] == [(e.class_name, e.query_id) for e in EPISODES]
    assert all(c.iou == 100 for c in counts["perfect"])


def test_an_interrupted_evaluation_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, a=Counted(stop_after=4))
    rest = Counted()
    resumed = run(tmp_path, a=rest)
    assert rest.calls == 6
    assert resumed == run(tmp_path / "other", a=Counted())


def test_a_cut_off_last_line_is_computed_again(tmp_path):
    run(tmp_path, a=perfect)
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text()[:-20])
    again = Counted()
    run(tmp_path, a=again)
    assert again.calls == 1


def test_the_log_of_another_run_is_not_used(tmp_path):
    run(tmp_path, a=perfect)
    again = Counted()
    run(tmp_path, key="other model", a=again)
    assert again.calls == len(EPISODES)


def test_the_table_can_be_made_from_the_log_alone(tmp_path):
    counts = run(tmp_path, everything=predict_everything, perfect=perfect)
    sums = {}
    for line in (tmp_path / "log.jsonl").read_text().splitlines()[1:]:
        entry = json.loads(line)
        if entry["arm"] == "everything":
            inter, union = sums.get(entry["class_name"], (0, 0))
            sums[entry["class_name"]] = inter + entry["inter"], union + entry["union"]
    assert {k: 100 * i / u for k, (i, u) in sums.items()} == class_ious(counts["everything"])


def results(counts):
    facts = {
        "dataset": "toy",
        "fold": 0,
        "shots": 5,
        "n_queries": 10,
        "backbone": "small",
        "segmenter": "hsnet",
        "seed": 0,
    }
    base = summarise({k: counts[k] for k in ("everything", "true")}, [("true", "everything")], 0)
    return facts | summarise(counts, [("llm", "random")], 0) | {"base": base}


def test_report(tmp_path):
    arms = dict.fromkeys(("everything", "random"), predict_everything) | dict.fromkeys(("llm", "true"), perfect)
    made = results(run(tmp_path, **arms))
    assert made["arms"]["llm"]["miou"] == 100 and made["paired"]["llm-random"]["diff"] > 0
    assert "better than random" in verdict(made)
    for label in ("floor", "random base", "LLM base", "true supports", "base classes"):
        assert label in text_report(made)
    from llafs_lib.plots import intervals

    page = html_report(made, {"a <caption>": intervals(made)})
    assert "a &lt;caption&gt;" in page and "data:image/png;base64," in page
    assert "http" not in page, "the page must not load anything"


def test_no_verdict_without_a_difference(tmp_path):
    arms = dict.fromkeys(("everything", "random", "llm", "true"), predict_everything)
    assert "cannot tell" in verdict(results(run(tmp_path, **arms)))
