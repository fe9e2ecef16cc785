import json
import subprocess
import sys
import time

import numpy as np
import pytest
from small_bank import bank

from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.arms import Arm, predict_everything
from llafs_lib.evaluation.metrics import class_ious, miou
from llafs_lib.evaluation.runner import Asked, Asking, counts_of, evaluate, read_log
from llafs_lib.records import Episode, RelatedClass, RelatedClasses

EPISODES = [Episode(name, i, (90, 91, 92)) for i, name in enumerate(["giraffe", "okapi"] * 5)]


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


def run(folder, key="k", together=None, **arms):
    folder.mkdir(exist_ok=True)
    return evaluate(EPISODES, arms, read_query, folder / "log.jsonl", key, together)


def test_arms_answer_the_same_questions_in_order(tmp_path):
    asked = run(tmp_path, everything=predict_everything, perfect=perfect)
    counts = counts_of(asked)
    for arm in counts.values():
        assert [(c.class_name, c.image_id) for c in arm] == [(e.class_name, e.query_id) for e in EPISODES]
    assert all(c.iou == 100 for c in counts["perfect"])
    assert [a.area for a in asked[:3]] == [1 / 8, 2 / 8, 3 / 8]


def test_at_400_every_image_weighs_the_same(tmp_path):
    counts = counts_of(run(tmp_path, everything=predict_everything), at_400=True)["everything"]
    assert all(c.union == 400 * 400 for c in counts)
    assert [c.iou for c in counts] == [
        c.iou for c in counts_of(run(tmp_path, everything=predict_everything))["everything"]
    ]


def test_an_interrupted_evaluation_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, a=Counted(stop_after=4))
    rest = Counted()
    resumed = run(tmp_path, a=rest)
    assert rest.calls == 6
    assert resumed == run(tmp_path / "other", a=Counted())


def test_arms_that_are_new_are_asked_alone(tmp_path):
    old, new = Counted(), Counted()
    run(tmp_path, old=old)
    asked = run(tmp_path, old=old, new=new)
    assert (old.calls, new.calls) == (10, 10) and list(asked[0].answers) == ["old", "new"]
    assert counts_of(read_log(tmp_path / "log.jsonl")) == counts_of(asked)


def test_a_cut_off_last_line_is_computed_again(tmp_path):
    run(tmp_path, a=perfect)
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text()[:-20])
    again = Counted()
    run(tmp_path, a=again)
    assert again.calls == 1
    assert len(log.read_text().splitlines()) == 11


def test_the_log_of_another_run_is_not_used(tmp_path):
    run(tmp_path, a=perfect)
    again = Counted()
    run(tmp_path, key="other model", a=again)
    assert again.calls == len(EPISODES)


def test_a_query_is_asked_once():
    with pytest.raises(LlafsError, match="twice"):
        evaluate([EPISODES[0], EPISODES[0]], {}, read_query, None, "k")


def test_what_is_no_log_is_refused(tmp_path):
    with pytest.raises(LlafsError, match="run notebook 05 again"):
        read_log(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"key": 1}\n{"class_name": "a"}\n')
    with pytest.raises(LlafsError, match="run notebook 05 again"):
        read_log(tmp_path / "bad.jsonl")


SLOW = """
import sys, time
from pathlib import Path
import numpy as np
from llafs_lib.evaluation.runner import evaluate
from llafs_lib.records import Episode

def slow(episode, image):
    time.sleep(0.2)
    return image[..., 0] > episode.query_id

def read(episode):
    image = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    return image, image[..., 0] > 50, np.zeros((8, 8), bool)

episodes = [Episode("a", n, ()) for n in range(15)]
print(evaluate(episodes, {"slow": slow}, read, Path(sys.argv[1]), "k"))
"""


def test_kill_9_loses_one_query_at_most(tmp_path):
    log = tmp_path / "log.jsonl"
    victim = subprocess.Popen([sys.executable, "-c", SLOW, str(log)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not log.is_file() or len(log.read_text().splitlines()) < 6:
        time.sleep(0.05)
        assert victim.poll() is None
    victim.kill()
    victim.communicate()
    kept = log.read_text().splitlines(keepends=True)
    whole = [line for line in kept if line.endswith("\n")]
    assert 6 <= len(whole) < 16
    again = subprocess.run([sys.executable, "-c", SLOW, str(log)], capture_output=True, text=True, check=True)
    undisturbed = subprocess.run(
        [sys.executable, "-c", SLOW, str(tmp_path / "b")], capture_output=True, text=True, check=True
    )
    assert again.stdout == undisturbed.stdout
    assert log.read_text().startswith("".join(whole)), "what was there is not asked again"


def test_the_table_can_be_made_from_the_log_alone(tmp_path):
    counts = counts_of(run(tmp_path, everything=predict_everything, perfect=perfect))
    sums = {}
    for line in (tmp_path / "log.jsonl").read_text().splitlines()[1:]:
        entry = json.loads(line)
        inter, union, *_ = entry["answers"]["everything"]
        before = sums.get(entry["class_name"], (0, 0))
        sums[entry["class_name"]] = before[0] + inter, before[1] + union
    assert {k: 100 * i / u for k, (i, u) in sums.items()} == class_ious(counts["everything"])


# --- several models, asked together ----------------------------------------------------------------------------------


class Recorder:
    """A model that marks as many rows as it was shown supports."""

    def __init__(self, takes_all):
        self.takes_all, self.calls = takes_all, []

    def masks(self, image, shown, class_name):
        self.calls.append(shown)
        found = np.zeros((len(shown), 8, 8), bool)
        for mask, supports in zip(found, shown, strict=True):
            mask[: len(supports)] = True
        return list(found)


def asking(**models):
    related = {
        c: RelatedClasses(c, (RelatedClass("zebra", 0.9), RelatedClass("horse", 0.5)), "recorded", "")
        for c in ("giraffe", "okapi")
    }
    arms = {"llm 2": Arm("llm", 2), "true 1 + llm 5": Arm("true", 1, added="llm"), "llm all": Arm("llm", "all")}
    embedded = []

    def embed(image):
        embedded.append(image)
        return np.ones(5, np.float32) / 5**0.5

    made = Asking(models, arms, bank(), related, {}, embed)
    made.embedded = embedded
    return made


def test_models_are_asked_together_and_a_query_is_embedded_once(tmp_path):
    few, all_ = Recorder(False), Recorder(True)
    together = asking(few=few, all=all_)
    asked = run(tmp_path, together=together, everything=predict_everything)
    assert together.names == ["few: llm 2", "few: true 1 + llm 5", "all: llm 2", "all: true 1 + llm 5", "all: llm all"]
    assert len(together.embedded) == len(EPISODES) == len(few.calls) == len(all_.calls)
    assert few.calls[0] == all_.calls[0][:2], "all models see the same supports"
    first = asked[0]
    assert first.supports["llm 2"] == [[i, c, 1.0] for i, c, _ in first.supports["llm 2"]]
    assert {c for _, c, _ in first.supports["llm 2"]} <= {"zebra", "horse"}
    true, *added = first.supports["true 1 + llm 5"]
    assert true == [90, "giraffe", 1.0] and len(added) == 5 and {w for *_, w in added} == {0.3}
    assert first.answers["all: llm all"].inter == 8, "the first row is right"


def test_only_what_is_missing_is_asked(tmp_path):
    run(tmp_path, together=asking(few=Recorder(False)))
    few, more = Recorder(False), Recorder(True)
    asked = run(tmp_path, together=asking(few=few, more=more))
    assert all(shown == [] for shown in few.calls) and len(more.calls) == 10
    assert list(asked[0].answers) == [*(f"few: {a}" for a in ("llm 2", "true 1 + llm 5")), "more: llm 2",
                                      "more: true 1 + llm 5", "more: llm all"]  # fmt: skip


def test_a_query_survives_being_written_and_read(tmp_path):
    (asked, *_) = run(tmp_path, together=asking(few=Recorder(False)))
    assert Asked.of(asked.line()) == asked


def test_the_table_equals_an_independent_count(tmp_path):
    """Twenty lines that know nothing of the library, as someone might write who has only the log."""
    counts = counts_of(run(tmp_path, together=asking(few=Recorder(False), all=Recorder(True))))
    table = {}
    for line in open(tmp_path / "log.jsonl", encoding="utf-8").readlines()[1:]:
        query = json.loads(line)
        for arm, (inter, union, inter_bg, union_bg) in query["answers"].items():
            rows = table.setdefault(arm, {})
            cell = rows.setdefault(query["class_name"], [0, 0])
            cell[0] += inter
            cell[1] += union
            assert inter <= union and inter_bg <= union_bg and union + inter_bg == query["pixels"]
    for arm, rows in table.items():
        mean = sum(100 * i / max(u, 1) for i, u in rows.values()) / len(rows)
        assert mean == pytest.approx(miou(counts[arm]), abs=1e-12)
    assert set(table) == set(counts)
