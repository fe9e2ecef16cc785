"""The whole room over HTTP against aimock, a server that others wrote. `.ci/run` starts it with aimock/answers.json.

By hand (Node.js ≥ 20):

    npm install --prefix /tmp/aimock --ignore-scripts @copilotkit/aimock
    node /tmp/aimock/node_modules/.bin/llmock --port 4010 --fixtures tests/language/aimock &
    LLAFS_AIMOCK=http://127.0.0.1:4010 make test TESTS=tests/language/test_aimock.py
"""

import json
import os
import time

import httpx
import pytest
from llm_servers import KEY

from llafs_lib.classes import COCO_CLASSES
from llafs_lib.language.asking import Asker
from llafs_lib.language.client import LLMError
from llafs_lib.language.cost import Price, cost_line
from llafs_lib.tools.cli import main


@pytest.fixture(scope="module")
def address():
    address = os.environ.get("LLAFS_AIMOCK")
    if not address:
        pytest.skip("no aimock: LLAFS_AIMOCK says where it runs (see this file)")
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if httpx.get(f"{address}/__aimock/health").status_code == 200:
                return address
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError(f"nothing answers at {address}")


@pytest.fixture
def aimock(address, monkeypatch):
    """The server's address, with an empty journal and the environment set."""
    httpx.post(f"{address}/__aimock/reset/journal")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{address}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return address


def journal(address):
    return httpx.get(f"{address}/__aimock/journal").json()


def formats(address):
    return [(entry["body"].get("response_format") or {}).get("type", "text") for entry in journal(address)]


def ask(model, name="giraffe", **settings):
    return Asker(model, **settings).related(name, COCO_CLASSES)


def test_a_structured_answer(aimock, tmp_path):
    related = ask("structured")
    assert related.scores == {"zebra": 0.9, "dog": 0.2, "cup": 0.1} and related.ranked[0].reason == "stripes"
    schema = journal(aimock)[0]["body"]["response_format"]["json_schema"]["schema"]
    assert len(schema["properties"]["related"]["items"]["properties"]["class"]["enum"]) == 79
    (kept,) = tmp_path.glob("data/llm_cache/*/*.json")
    recording = json.loads(kept.read_text(encoding="utf-8"))
    assert recording["response"]["model"] == "structured-2026-01-01" and KEY not in kept.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("model", "tried"),
    [("json-only", ["json_schema", "json_object"]), ("plain-only", ["json_schema", "json_object", "text"])],
)
def test_the_ladder(aimock, model, tried):
    assert ask(model).names == ("horse", "cow")
    assert ask(model, "zebra").names == ("horse", "cow")
    assert formats(aimock) == [*tried, tried[-1]]


def test_a_truncated_answer(aimock):
    related = ask("truncated")
    assert related.names == ("zebra",) and "cut off" in related.notes[0]


def test_a_content_filter(aimock):
    related = ask("filtered")
    assert related.source == "fallback" and related.names[0] == "horse" and "content filter" in related.notes[0]
    assert len(journal(aimock)) == 1


@pytest.mark.parametrize(("model", "sentence"), [("locked", "refused the key"), ("spent", "no credit is left")])
def test_what_no_second_try_can_mend(aimock, model, sentence, tmp_path):
    with pytest.raises(LLMError, match=sentence):
        ask(model)
    assert len(journal(aimock)) == 1 and not list(tmp_path.rglob("*.json"))


def test_busy_then_answered(aimock):
    error = {"status": 429, "body": {"message": "slow down", "type": "rate_limit_error"}}
    assert httpx.post(f"{aimock}/__aimock/error", json=error).status_code == 200
    assert ask("structured").names[0] == "zebra"
    assert [entry["response"]["status"] for entry in journal(aimock)] == [429, 200]


def test_a_repair_turn(aimock):
    related = ask("absent-minded")
    assert related.names == ("zebra",) and related.dropped == ("camel: not in the list",)
    assert [len(entry["body"]["messages"]) for entry in journal(aimock)] == [2, 4]


def test_a_model_that_will_not_choose(aimock):
    related = ask("stubborn")
    assert related.source == "fallback" and "MiniLM" in related.provenance and len(journal(aimock)) == 2


def test_twenty_at_once(aimock):
    names = [f"animal {i}" for i in range(20)]
    answers = Asker("structured", at_once=20).related_to_each(names, COCO_CLASSES)
    assert len(answers) == 20 and all(a.source == "live" for a in answers.values())
    assert len(journal(aimock)) == 20


def test_all_80_classes_are_paid_for_once(aimock):
    asker = Asker("structured", prices={"structured": Price(1.0, 2.0)}, budget=5.0)
    first = asker.related_to_each(COCO_CLASSES, COCO_CLASSES)
    assert len(journal(aimock)) == 80
    line = cost_line(first.values(), asker.prices)
    assert line == "80 calls, 80 of them made now; 56,000 prompt and 3,200 completion tokens; cost $0.0624"
    assert asker.spent == pytest.approx(0.0624)
    again = asker.related_to_each(COCO_CLASSES, COCO_CLASSES)
    assert len(journal(aimock)) == 80 and "80 calls, 0 of them made now" in cost_line(again.values(), asker.prices)


def test_the_command(aimock, capsys):
    assert main(["ask", "giraffe", "okapi", "--llm", "structured"]) == 0
    out = capsys.readouterr().out
    assert "okapi looks like: zebra 0.90, dog 0.20, cup 0.10  [live]" in out
    assert "2 calls, 2 of them made now; 1,400 prompt and 80 completion tokens; cost unknown" in out
    assert main(["ask", "giraffe", "--llm", "locked"]) == 2
    error = capsys.readouterr().err
    assert "refused the key" in error and KEY not in error
