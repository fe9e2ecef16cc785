import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llafs_lib.classes import COCO_CLASSES, PASCAL_CLASSES
from llafs_lib.language import replay
from llafs_lib.language.asking import Asker
from llafs_lib.language.parsing import parse_related
from llafs_lib.language.prompts import CONSTRAINED, OPEN, Question
from llafs_lib.language.server import LLMError


def recorded(name, vocabulary=COCO_CLASSES):
    return replay.find(Question(CONSTRAINED, name, tuple(c for c in vocabulary if c != name)).request, None)


def ranking(recording, vocabulary):
    reading = parse_related(recording["response"]["text"], recording["request"]["class"], vocabulary)
    assert not reading.dropped and not reading.notes
    return [(r.name, r.score) for r in reading.ranked]


def live(name="okapi", model="m", text='["zebra"]', candidates=("zebra", "horse")):
    request = Question(CONSTRAINED, name, candidates, model, 0.0).request
    response = {"text": text, "finish_reason": "stop", "refusal": None, "model": model, "usage": None}
    return replay.make_recording(request, response, None, f"{model} answered on 2025-01-01", "2025-01-01")


def asked(name="okapi", model="m", candidates=("zebra", "horse")):
    return Question(CONSTRAINED, name, candidates, model, 0.0 if model else None).request


@pytest.mark.parametrize("name", COCO_CLASSES)
def test_every_coco_class_has_a_recording(name):
    recording = recorded(name)
    assert recording["recorded_on"] is None
    assert recording["context"] and set(recording["context"]) <= set(COCO_CLASSES) - {name}
    assert ranking(recording, COCO_CLASSES)


@pytest.mark.parametrize("name", PASCAL_CLASSES)
def test_every_pascal_class_has_a_recording(name):
    scores = [score for _, score in ranking(recorded(name, PASCAL_CLASSES), PASCAL_CLASSES)]
    assert scores == sorted(scores, reverse=True) and len(scores) <= 8


def test_the_open_question_has_an_example_of_its_own():
    text = replay.find(Question(OPEN, "giraffe").request, None)["response"]["text"]
    assert [r.name for r in parse_related(text, "giraffe", COCO_CLASSES).ranked] == ["zebra", "horse"]


def test_every_recording_of_the_package_says_where_it_is_from():
    for path in replay.RECORDED.rglob("*.json"):
        recording = json.loads(path.read_text(encoding="utf-8"))
        assert path.read_text(encoding="utf-8") == replay.as_text(recording)
        assert path == replay.path_of(recording["request"], replay.RECORDED)
        assert recording["schema_version"] == replay.SCHEMA_VERSION
        assert recording["text_sha256"] and not replay.is_edited(recording)
        model = recording["request"]["model"]
        if model is None:  # no API gave it, so it must not look as if one had
            assert "no model name" in recording["provenance"]
            assert recording["response"]["model"] is None and recording["response"]["usage"] is None
        else:
            assert recording["provenance"].startswith(f"{model} answered on {recording['recorded_on']}")
            assert recording["response"]["usage"]


def test_a_recording_parses_back_to_its_ranking():
    giraffe = {"zebra": 0.7, "horse": 0.6, "elephant": 0.5, "cow": 0.5, "sheep": 0.35, "dog": 0.3}
    assert ranking(recorded("giraffe"), COCO_CLASSES) == list(giraffe.items())


def test_all_recordings_equal_the_reference(reference):
    reference = json.loads((reference / "llm_related.json").read_text(encoding="utf-8"))
    assert set(reference["related"]) == set(COCO_CLASSES)
    for name, ranked in reference["related"].items():
        assert ranking(recorded(name), COCO_CLASSES) == [(r["class"], r["score"]) for r in ranked]
        assert recorded(name)["context"] == reference["context"][name]


def test_what_is_saved_is_found_again_and_nothing_else_is(tmp_path):
    path = replay.save(live(), tmp_path)
    assert path.read_text(encoding="utf-8") == replay.as_text(live())
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    assert replay.find(asked(), tmp_path) == live()
    assert replay.find(asked(model=None), tmp_path) == live(), "any model's answer will do"
    assert replay.find(asked(model="other"), tmp_path) is None
    assert replay.find(asked(candidates=("cow",)), tmp_path) is None
    assert replay.find(asked(), tmp_path / "nowhere") is None
    assert replay.find(asked(), None) is None


def test_names_that_share_a_slug_do_not_share_an_answer(tmp_path):
    first, second = live("長頸鹿", text='["zebra"]'), live("馬", text='["horse"]')
    assert replay.save(first, tmp_path) != replay.save(second, tmp_path)
    assert replay.find(first["request"], tmp_path) == first
    assert replay.find(second["request"], tmp_path) == second


def test_half_a_surrogate_pair_survives(tmp_path):
    recording = live(text='["zebra\ud83e"]')
    replay.save(recording, tmp_path)
    assert replay.find(recording["request"], tmp_path) == recording


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"schema_version": 99}', "\x00"], ids=ascii)
def test_a_corrupt_file_is_named(tmp_path, text):
    path = replay.save(live(), tmp_path)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LLMError, match="delete this file") as corrupt:
        replay.find(asked(), tmp_path)
    assert str(path) in str(corrupt.value)


@pytest.mark.parametrize("model", ["m", None])
def test_an_edited_answer_is_used_and_noted(tmp_path, model):
    path = replay.save(live(), tmp_path)
    assert Asker(model, cache=tmp_path, mode="replay").related("okapi", ("zebra", "horse")).notes == ()
    path.write_text(path.read_text(encoding="utf-8").replace('zebra\\"]', 'horse\\"]'), encoding="utf-8")
    related = Asker(model, cache=tmp_path, mode="replay").related("okapi", ("zebra", "horse"))
    assert related.names == ("horse",) and related.notes == ("the recorded answer was edited after it was given",)


def test_an_answer_recorded_before_there_was_a_hash_is_taken_as_it_is(tmp_path):
    old = live()
    del old["text_sha256"]
    replay.save(old, tmp_path)
    assert Asker("m", cache=tmp_path).related("okapi", ("zebra", "horse")).notes == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Which of the", "Which two of the"),
        ('"temperature": 0.0', '"temperature": 0.5'),
        ('"class": "okapi"', '"class": "tapir"'),
    ],
)
def test_an_edited_request_is_said_and_not_asked_again(tmp_path, old, new):
    path = replay.save(live(), tmp_path)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    for asker in (Asker("m", cache=tmp_path), Asker(cache=tmp_path)):
        with pytest.raises(LLMError, match="its request was edited") as said:
            asker.related("okapi", ("zebra", "horse"))
        assert str(path) in str(said.value)
    path.unlink()
    with pytest.raises(replay.ReplayMiss):
        Asker(cache=tmp_path).related("okapi", ("zebra", "horse"))


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_asked(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LLMError, match="writable folder"):
        replay.save(live(), tmp_path / "file")
    with pytest.raises(LLMError, match="writable folder"), replay.claimed(asked(), tmp_path / "file"):
        raise AssertionError("claimed")


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(LLMError, match="No space left"):
        replay.save(live(), tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_one_holds_an_answer_at_a_time(tmp_path):
    def most_at_once(requests):
        inside, most, lock = 0, 0, threading.Lock()

        def claim(request):
            nonlocal inside, most
            with replay.claimed(request, tmp_path):
                with lock:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.1)
                with lock:
                    inside -= 1

        with ThreadPoolExecutor(len(requests)) as pool:
            list(pool.map(claim, requests))
        return most

    assert most_at_once([asked()] * 3) == 1
    assert most_at_once([asked(), asked(model="other")]) == 2


def test_nobody_waits_for_an_answer_once_the_run_is_stopped(tmp_path):
    stop = threading.Event()
    stop.set()
    with replay.claimed(asked(), tmp_path), replay.claimed(asked(), tmp_path, stop):
        pass
