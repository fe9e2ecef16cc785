import json
from dataclasses import replace

import numpy as np
import pytest
from damage import DAMAGES
from small_bank import bank

from llafs_lib.artifacts import file_hash
from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.arms import EVERYTHING, Arm, predict_everything
from llafs_lib.evaluation.log import Asked, read_log
from llafs_lib.evaluation.metrics import best_threshold, class_ious, count, miou
from llafs_lib.evaluation.runner import Panel, Question, arms_of, counts_of, evaluate
from llafs_lib.records import Episode, RelatedClass, RelatedClasses

EPISODES = [Episode(name, i, (90, 91, 92)) for i, name in enumerate(["giraffe", "okapi"] * 5)]
PERFECT, OLD, NEW = (Arm("", name) for name in ("perfect", "old", "new"))


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


def run(folder, key="k", panel=None, floors=None):
    panel = panel or Panel(floors=floors)
    return evaluate([Question(e) for e in EPISODES], panel, read_query, folder / "log.jsonl", key)


def test_arms_answer_the_same_questions_in_order(tmp_path):
    asked = run(tmp_path, floors={EVERYTHING: predict_everything, PERFECT: perfect})
    counts = counts_of(asked)
    for arm in counts.values():
        assert [(c.class_name, c.image_id) for c in arm] == [(e.class_name, e.query_id) for e in EPISODES]
    assert all(c.iou == 100 for c in counts[PERFECT])
    assert [a.area for a in asked[:3]] == [1 / 8, 2 / 8, 3 / 8]


def test_at_400_every_image_weighs_the_same(tmp_path):
    asked = run(tmp_path, floors={EVERYTHING: predict_everything})
    counts = counts_of(asked, at_400=True)[EVERYTHING]
    assert all(c.union == 400 * 400 for c in counts)
    assert [c.iou for c in counts] == [c.iou for c in counts_of(asked)[EVERYTHING]]


def test_an_interrupted_evaluation_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, floors={OLD: Counted(stop_after=4)})
    kept, rest = (tmp_path / "log.jsonl").read_text(), Counted()
    resumed = run(tmp_path, floors={OLD: rest})
    assert rest.calls == 6 and (tmp_path / "log.jsonl").read_text().startswith(kept)
    assert resumed == run(tmp_path / "other", floors={OLD: Counted()})


def test_arms_that_are_new_are_asked_alone(tmp_path):
    old, new = Counted(), Counted()
    run(tmp_path, floors={OLD: old})
    asked = run(tmp_path, floors={OLD: old, NEW: new})
    assert (old.calls, new.calls) == (10, 10) and list(asked[0].answers) == [OLD, NEW]
    assert counts_of(read_log(tmp_path / "log.jsonl")) == counts_of(asked)


def test_a_cut_off_last_line_is_computed_again(tmp_path):
    run(tmp_path, floors={OLD: perfect})
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text()[:-20])
    again = Counted()
    run(tmp_path, floors={OLD: again})
    assert again.calls == 1
    assert len(log.read_text().splitlines()) == 11


@pytest.mark.parametrize("left", ["", "no log", '{"key": "other model", "arms": {}}\n{"class_name": "a"}\n'])
def test_the_log_of_another_run_is_not_used(tmp_path, left):
    (tmp_path / "log.jsonl").write_text(left)
    again = Counted()
    run(tmp_path, floors={OLD: again})
    assert again.calls == len(EPISODES) == len(read_log(tmp_path / "log.jsonl"))


@pytest.mark.parametrize("line", [1, 5, 10])
def test_a_line_that_was_edited_is_asked_again(tmp_path, line):
    whole, log = run(tmp_path, floors={OLD: perfect}), tmp_path / "log.jsonl"
    lines = log.read_text().splitlines()
    lines[line] = lines[line].replace('"old": [', '"old": [1')
    log.write_text("\n".join(lines) + "\n")
    again = Counted()
    assert run(tmp_path, floors={OLD: again}) == whole and again.calls == 1


def test_a_header_that_was_edited_gives_no_arm_the_answers_of_another(tmp_path):
    run(tmp_path, floors={OLD: perfect})
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text().replace('"policy": "old"', '"policy": "new"', 1))
    new = Counted()
    run(tmp_path, floors={NEW: new})
    assert new.calls == len(EPISODES)


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d != "full folder"])
def test_a_damaged_log_is_begun_anew_or_goes_on(tmp_path, damage):
    whole = run(tmp_path, floors={OLD: perfect})
    DAMAGES[damage](tmp_path / "log.jsonl")
    assert run(tmp_path, floors={OLD: perfect}) == whole
    by_query = [{(a.class_name, a.image_id): a for a in asked} for asked in (read_log(tmp_path / "log.jsonl"), whole)]
    assert by_query[0] == by_query[1]


def test_a_log_that_results_were_not_made_from_is_refused(tmp_path):
    whole, log = run(tmp_path, floors={OLD: perfect}), tmp_path / "log.jsonl"
    made_from = file_hash(log)
    assert read_log(log, made_from) == whole
    log.write_text(log.read_text().replace('"old": [', '"old": [1', 1))
    with pytest.raises(LlafsError, match="log.jsonl is not the log that the results beside it were made from"):
        read_log(log, made_from)


def test_a_query_is_asked_once():
    with pytest.raises(LlafsError, match="twice"):
        evaluate([Question(EPISODES[0])] * 2, Panel(), read_query)


def test_an_arm_needs_its_model():
    with pytest.raises(LlafsError, match="no model for arm 'HSNet: llm 5'"):
        Panel({"few": Recorder(False)}, [Arm("HSNet", "llm", 5)])


def test_what_is_no_log_is_refused(tmp_path):
    with pytest.raises(LlafsError, match="run notebook 05 again"):
        read_log(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"key": 1, "arms": {}}\n{"class_name": "a"}\n')
    with pytest.raises(LlafsError, match="run notebook 05 again"):
        read_log(tmp_path / "bad.jsonl")


def test_an_answer_is_in_the_log_before_the_next_question_is_asked(tmp_path):
    """So kill -9 loses one query at most: what was cut off is computed again, and what is whole is kept."""
    log, lines = tmp_path / "log.jsonl", []

    def look(episode, image):
        lines.append(log.read_text().count("\n"))
        return perfect(episode, image)

    run(tmp_path, floors={OLD: look})
    assert lines == [1 + n for n in range(len(EPISODES))], "the header and an answer to each question before"


# --- several models, asked together ----------------------------------------------------------------------------------


class Recorder:
    """A model that marks as many rows as it was shown supports."""

    def __init__(self, takes_all):
        self.takes_all, self.calls = takes_all, []

    def answers(self, question, image, shown):
        self.calls.append(shown)
        found = np.zeros((len(shown), 8, 8), bool)
        for mask, supports in zip(found, shown, strict=True):
            mask[: len(supports)] = True
        return list(found)


LLM_2, BOTH, LLM_ALL = Arm("", "llm", 2), Arm("", "true", 1, added="llm"), Arm("", "llm", "all")
EMBEDDED = []


def embed(image):
    EMBEDDED.append(image)
    return np.ones(5, np.float32) / 5**0.5


def ask(folder, floors=None, **models):
    """Ask every model with all arms."""
    ranked = RelatedClass("zebra", 0.9), RelatedClass("horse", 0.5)
    questions = [Question(e, bank(), RelatedClasses(e.class_name, ranked, "recorded", "")) for e in EPISODES]
    panel = Panel(models, arms_of(models, [LLM_2, BOTH, LLM_ALL]), floors or {}, embed)
    return evaluate(questions, panel, read_query, folder / "log.jsonl", "k")


def test_models_are_asked_together_and_a_query_is_embedded_once(tmp_path):
    few, many = Recorder(False), Recorder(True)
    EMBEDDED.clear()
    asked = ask(tmp_path, {EVERYTHING: predict_everything}, few=few, many=many)
    first = asked[0]
    assert [arm.name for arm in first.answers] == [
        "everything", "few: llm 2", "few: true 1 + llm 5", "many: llm 2", "many: true 1 + llm 5", "many: llm all"
    ]  # fmt: skip
    assert len(EMBEDDED) == len(EPISODES) == len(few.calls) == len(many.calls)
    assert few.calls[0] == many.calls[0][:2], "all models see the same supports"
    assert first.supports["llm 2"] == [[i, c, 1.0] for i, c, _ in first.supports["llm 2"]]
    assert {c for _, c, _ in first.supports["llm 2"]} <= {"zebra", "horse"}
    true, *added = first.supports["true 1 + llm 5"]
    assert true == [90, "giraffe", 1.0] and len(added) == 5 and {w for *_, w in added} == {0.3}
    assert first.answers[replace(LLM_ALL, model="many")].inter == 8, "the first row is right"


def test_only_what_is_missing_is_asked(tmp_path):
    ask(tmp_path, few=Recorder(False))
    few, more = Recorder(False), Recorder(True)
    asked = ask(tmp_path, few=few, more=more)
    assert not few.calls and len(more.calls) == 10
    assert [arm.model for arm in asked[0].answers] == ["few", "few", "more", "more", "more"]


def test_a_query_survives_being_written_and_read(tmp_path):
    (asked, *_) = ask(tmp_path, few=Recorder(False))
    assert Asked.of(asked.line(), {arm.name: arm for arm in asked.answers}) == asked


class Scores(Recorder):
    """A model that is sure of the right rows and half sure of the rest."""

    def answers(self, question, image, shown):
        truth = read_query(question.episode)[1]
        return [np.where(truth, 0.9, 0.5).astype(np.float32) for _ in shown]


def test_score_maps_are_counted_at_every_threshold(tmp_path):
    model, arm = Scores(False), Arm("scores", "true", 1)
    panel = Panel({"scores": model}, [arm], {EVERYTHING: predict_everything})
    found = counts_of(evaluate([Question(e) for e in EPISODES], panel, read_query))
    assert best_threshold(found[arm]) == pytest.approx(0.51)
    assert miou([scores.at(0.51) for scores in found[arm]]) == 100
    with pytest.raises(LlafsError, match="score maps cannot be logged"):
        run(tmp_path, panel=panel)
    half = np.full((8, 8), True)
    assert found[arm][0].at(0.5) == count(half, read_query(EPISODES[0])[1], "giraffe", 0)


def test_the_table_equals_an_independent_count(tmp_path):
    """Twenty lines that know nothing of the library, as someone might write who has only the log."""
    counts = counts_of(ask(tmp_path, {EVERYTHING: predict_everything}, few=Recorder(False), many=Recorder(True)))
    table = {}
    for line in open(tmp_path / "log.jsonl", encoding="utf-8").readlines()[1:]:
        query = json.loads(line)
        for arm, (inter, union, inter_bg, union_bg) in query["answers"].items():
            rows = table.setdefault(arm, {})
            cell = rows.setdefault(query["class_name"], [0, 0])
            cell[0] += inter
            cell[1] += union
            assert inter <= union and inter_bg <= union_bg and union + inter_bg == query["pixels"]
    assert set(table) == {arm.name for arm in counts}
    for arm, found in counts.items():
        ious = {c: 100 * i / max(u, 1) for c, (i, u) in table[arm.name].items()}
        assert ious == class_ious(found) and sum(ious.values()) / len(ious) == pytest.approx(miou(found), abs=1e-12)
