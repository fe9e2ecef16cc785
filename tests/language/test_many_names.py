"""Lists of classes that one question does not hold, and names that are no plain words."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_servers import PATH, completion
from werkzeug import Response

from llafs_lib.classes import COCO_CLASSES, DATASETS
from llafs_lib.language.asking import Asker
from llafs_lib.language.cost import Price, cost_line
from llafs_lib.language.parsing import parse_related
from llafs_lib.language.prompts import CONSTRAINED, MOST_CANDIDATES, OPEN, Question
from llafs_lib.language.replay import ReplayMiss
from llafs_lib.seals import digest_of

NAMES = tuple(f"thing {i}" for i in range(2_000))
ALIKE = {f"thing {i}": round(0.99 - i / 3_000, 4) for i in range(0, 2_000, 190)}  # some in every part


def candidates_of(request):
    line = request.json["messages"][1]["content"].split("Candidate classes: ")[1]
    return json.JSONDecoder().raw_decode(line)[0]


@pytest.fixture
def judge(httpserver, monkeypatch):
    """A server that knows how alike each class is, and names the eight most alike of those that it is asked about."""

    def start(alike, of_no_use=lambda candidates: False):
        def answer(request):
            candidates = candidates_of(request)
            best = sorted((c for c in candidates if c in alike), key=lambda c: -alike[c])[:8]
            listed = [] if of_no_use(candidates) else [{"class": c, "score": alike[c]} for c in best]
            body = completion(json.dumps({"related": listed}))
            return Response(json.dumps(body), content_type="application/json")

        httpserver.expect_request(PATH).respond_with_handler(answer)
        monkeypatch.setenv("OPENAI_BASE_URL", httpserver.url_for("/v1"))
        return httpserver

    return start


# --- in parts --------------------------------------------------------------------------------------------------------


def test_a_list_that_fits_is_one_question_as_it_always_was(judge):
    server = judge(ALIKE)
    Asker("m").related("okapi", NAMES[:MOST_CANDIDATES])
    assert [r.json["messages"] for r, _ in server.log] == [CONSTRAINED.messages("okapi", NAMES[:MOST_CANDIDATES])]
    giraffe = Question(CONSTRAINED, "giraffe", tuple(c for c in COCO_CLASSES if c != "giraffe"))
    assert giraffe.parts() == (giraffe,) and digest_of(giraffe.request) == "5e6d3ce4c7a8718a"


def test_two_thousand_names_are_asked_in_parts_and_once_more_over_what_these_name(judge, tmp_path):
    server = judge(ALIKE)
    asker = Asker("m", cache=tmp_path, prices={"m": Price(1, 1)}, budget=1.0)
    answer = asker.related("okapi", NAMES)
    assert answer.scores == dict(sorted(ALIKE.items(), key=lambda item: -item[1])[:8]), "as one question would give"
    *parts, final = [candidates_of(request) for request, _ in server.log]
    assert [c for part in parts for c in part] == list(NAMES) and max(map(len, parts)) <= MOST_CANDIDATES
    assert final == list(ALIKE)
    assert "2,000 names are more than one question holds: asked in 10 parts" in answer.notes[0]
    assert f"over the {len(ALIKE)} names" in answer.notes[0] and answer.source == "live"
    assert len(answer.calls) == 11 and cost_line([answer], asker.prices).startswith("11 calls, 11 of them made now")
    for again in (asker, Asker("m", cache=tmp_path, mode="replay"), Asker(cache=tmp_path)):
        replayed = again.related("okapi", NAMES)
        assert replayed.ranked == answer.ranked and replayed.source == "recorded"
        assert not any(call.live for call in replayed.calls)
    assert len(server.log) == 11


def test_of_a_long_list_that_is_asked_about_no_class_is_its_own_look_alike(judge):
    server = judge(ALIKE)
    answer = Asker("m").related("thing 190", NAMES)
    assert "thing 190" not in answer.names and len(answer.names) == 8
    assert not any("thing 190" in candidates_of(request) for request, _ in server.log)


def test_parts_without_a_look_alike_are_counted_and_one_that_has_all_needs_no_further_question(judge):
    server = judge({"thing 3": 0.9, "thing 4": 0.5})
    answer = Asker("m").related("okapi", NAMES)
    assert answer.scores == {"thing 3": 0.9, "thing 4": 0.5} and len(server.log) == 10
    assert "9 of which named nothing" in answer.notes[0]


def test_the_parts_decide_where_the_last_question_names_nothing(judge):
    judge(ALIKE, of_no_use=lambda candidates: candidates == list(ALIKE))
    answer = Asker("m").related("okapi", NAMES)
    assert answer.names == tuple(ALIKE)[:8] and "the parts' scores are used" in answer.notes[0]


def test_a_long_list_in_which_nothing_is_alike_falls_back_and_says_so(judge):
    judge({})
    answer = Asker("m").related("okapi", NAMES)
    assert answer.source == "fallback" and not answer.ranked and "10 of which named nothing" in answer.notes[0]


def test_what_the_parts_name_may_itself_be_long(judge):
    names = tuple(f"thing {i}" for i in range(6_000))
    server = judge({name: 1 - i / 10_000 for i, name in enumerate(names)})
    answer = Asker("m").related("okapi", names)
    assert answer.names == names[:8] and len(server.log) == 30 + 2 + 1, "240 names of 30 parts are asked in 2 more"


def test_parts_that_are_missing_are_asked_for_by_a_command_that_helps(judge, tmp_path):
    judge(ALIKE)
    Asker("m", cache=tmp_path).related("okapi", NAMES)
    max(tmp_path.glob("*/*.json")).unlink()
    with pytest.raises(ReplayMiss, match="--llm m"):
        Asker(cache=tmp_path).related("okapi", NAMES)
    Asker("m", cache=tmp_path).related("okapi", NAMES)
    assert Asker(cache=tmp_path).related("okapi", NAMES).names


@given(st.integers(1, 1_500))
def test_parts_have_every_candidate_once_and_about_the_same_length(n):
    parts = Question(CONSTRAINED, "okapi", NAMES[:n]).parts()
    assert tuple(c for part in parts for c in part.candidates) == NAMES[:n]
    lengths = [len(part.candidates) for part in parts]
    assert max(lengths) <= MOST_CANDIDATES and len(parts) == -(-n // MOST_CANDIDATES)
    assert max(lengths) - min(lengths) <= len(parts)
    assert len(Question(OPEN, "okapi", NAMES[:n]).parts()) == 1, "it lists no candidates"


# --- one's own names -------------------------------------------------------------------------------------------------


def test_ones_own_list_is_asked_about_also_where_coco_has_all_its_names(judge):
    server = judge({"zebra": 0.9, "dog": 0.3})
    Asker("m").related("okapi", ("zebra", "dog", "cup"))
    assert candidates_of(server.log[0][0]) == ["zebra", "dog", "cup"]
    Asker("m").related("okapi", DATASETS["toy"].classes)
    assert candidates_of(server.log[1][0]) == list(COCO_CLASSES)


def test_a_name_that_stands_twice_is_sent_once_and_no_spelling_of_the_class_is_its_look_alike(judge):
    server = judge({"Zebra": 0.9, "zebra": 0.8, "OKAPI": 0.7})
    answer = Asker("m").related("okapi", ("Zebra", "zebra", "cup", "Zebra", "okapi", "OKAPI"))
    assert candidates_of(server.log[0][0]) == ["Zebra", "zebra", "cup"]
    assert answer.scores == {"Zebra": 0.9, "zebra": 0.8}


ODD = (
    "fork", "fork, plastic", "bat (animal)", "bat", 'monitor 24"', "monitor 24", "salt and pepper", "Cat", "cat",
    "café, au lait", "St. Bernard", "the thinker", "can opener", " padded", "no parking sign", "tin: red", "x|y",
    "長頸鹿, small", "'quoted'", "[b]", "100%", "C++", "a/b", "glass - of wine", 'say "cheese"', "Fork, Plastic",
)  # fmt: skip


def as_items(mark):
    return lambda names: "\n".join(f"{mark} {name}: {0.9 - i / 10:.1f}" for i, name in enumerate(names))


WRITERS = {
    "asked-for": lambda names: json.dumps(
        {"related": [{"class": n, "score": 0.9 - i / 10, "reason": f"like {n}"} for i, n in enumerate(names)]}
    ),
    "unescaped": lambda names: "Sure:\n```json\n" + json.dumps(names, ensure_ascii=False) + "\n```",
    "object": lambda names: json.dumps({n: 0.9 - i / 10 for i, n in enumerate(names)}),
    "bullets": as_items("-"),
    "bold": lambda names: "\n".join(f"{i}. **{n}** – the same shape" for i, n in enumerate(names, 1)),
    "table": lambda names: "| class |\n|---|\n" + "\n".join(f"| {n} | " for n in names),
    "sentence": lambda names: ", ".join(names),
}


@settings(max_examples=300)
@given(st.lists(st.sampled_from(ODD), min_size=2, max_size=8, unique=True), st.sampled_from(list(WRITERS)))
def test_names_that_are_no_plain_words_are_read_as_they_are(names, how):
    assert [r.name for r in parse_related(WRITERS[how](names), "okapi", ODD).ranked] == names


def test_what_is_said_about_such_names_is_said_in_their_letters():
    text = '[{"class": "fork, plastic", "score": 1}, {"class": "bat (animal)", "score": 0.5, "reason": "bat (animal)"}]'
    reading = parse_related(text, "fork, plastic", ODD)
    assert reading.dropped == ("fork, plastic: the class itself",)
    assert reading.ranked[0].reason == reading.ranked[0].name == "bat (animal)"
