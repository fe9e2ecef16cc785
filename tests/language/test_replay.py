import json
from importlib import resources

import pytest

from llafs_lib.classes import COCO_CLASSES
from llafs_lib.language import replay
from llafs_lib.language.parsing import parse_related
from llafs_lib.language.prompts import CONSTRAINED, OPEN


def recorded(name):
    return replay.committed(OPEN.request(name))


def ranking(name):
    ranked, dropped = parse_related(recorded(name)["response"]["text"], name, COCO_CLASSES)
    assert not dropped
    return [(r.name, r.score) for r in ranked]


def live(name="okapi", model="m", text='["zebra"]', candidates=("zebra", "horse")):
    request = CONSTRAINED.request(name, candidates, model)
    response = {"text": text, "finish_reason": "stop", "model": model, "usage": None}
    return replay.make_recording(request, response, f"{model} answered on 2025-01-01", "2025-01-01")


@pytest.mark.parametrize("name", COCO_CLASSES)
def test_every_coco_class_has_a_recording(name):
    recording = recorded(name)
    assert recording["schema_version"] == replay.SCHEMA_VERSION
    assert recording["request"] == OPEN.request(name)
    assert recording["response"]["model"] is None and recording["request"]["model"] is None
    assert recording["recorded_on"] is None and "no model name" in recording["provenance"]
    assert recording["context"] and set(recording["context"]) <= set(COCO_CLASSES) - {name}
    assert ranking(name)
    path = resources.files("llafs_lib.language") / "recorded/open-v1" / f"{replay.slug(name)}.json"
    assert path.read_text(encoding="utf-8") == replay.as_text(recording)


def test_a_recording_parses_back_to_its_ranking():
    giraffe = {"zebra": 0.7, "horse": 0.6, "elephant": 0.5, "cow": 0.5, "sheep": 0.35, "dog": 0.3}
    assert ranking("giraffe") == list(giraffe.items())


def test_all_recordings_equal_the_reference(reference):
    reference = json.loads((reference / "llm_related.json").read_text(encoding="utf-8"))
    assert set(reference["related"]) == set(COCO_CLASSES)
    for name, ranked in reference["related"].items():
        assert ranking(name) == [(r["class"], r["score"]) for r in ranked]
        assert recorded(name)["context"] == reference["context"][name]


def test_what_is_saved_is_found_again_and_nothing_else_is(tmp_path):
    path = replay.save(live(), tmp_path)
    assert path.read_text(encoding="utf-8") == replay.as_text(live())
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    request = live()["request"]
    assert replay.find(request, tmp_path) == live()
    assert replay.find({**request, "model": None}, tmp_path) == live(), "any model's answer will do"
    assert replay.find({**request, "model": "other"}, tmp_path) is None
    assert replay.find(CONSTRAINED.request("okapi", ("cow",), "m"), tmp_path) is None, "other candidates"
    assert replay.find(request, tmp_path / "nowhere") is None
    assert replay.find(request, None) is None


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
    with pytest.raises(replay.RecordingError, match="delete this file") as corrupt:
        replay.find(live()["request"], tmp_path)
    assert str(path) in str(corrupt.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(replay.RecordingError, match="writable folder"):
        replay.save(live(), tmp_path / "file")


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(replay.os, "replace", full)
    with pytest.raises(replay.RecordingError, match="No space left"):
        replay.save(live(), tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
