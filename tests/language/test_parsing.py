import functools
import json
import random
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llafs_lib.classes import COCO_CLASSES, PASCAL_CLASSES, find_class
from llafs_lib.language.parsing import ParseError, parse_related
from llafs_lib.language.reading import first_json, strip_thinking
from llafs_lib.language.replay import RECORDED


def names(raw, query="giraffe", vocabulary=COCO_CLASSES):
    return [r.name for r in parse_related(raw, query, vocabulary).ranked]


SCORED = '{"related": [{"class": "zebra", "score": 0.7, "reason": "legs"}, {"class": "horse", "score": 0.6}]}'


@pytest.mark.parametrize(
    "raw",
    [
        '["zebra", "horse"]',
        SCORED,
        '[{"name": "zebra", "score": 0.9}, {"name": "horse", "score": 0.8}]',
        '{"class": "giraffe", "related": ["zebra", "horse"]}',
        f"```json\n{SCORED}\n```",
        f"Here you are:\n```\n{SCORED}\n```\nAsk me for more, e.g. [1, 2]!",
        f"```json\n{SCORED}",
        f"<think>A [dog]? No, a cow.</think>\n{SCORED}",
        f"A cow, a dog …</think>{SCORED}",
        f"<think>A cow?</think>{SCORED}<think>Or a dog: ",
        f"As in [1], {{roughly}}: {SCORED}",
        "1. **Zebra** – four long legs, a mane\n2. Horse (similar body)\n3) Camel: long neck",
        "Look-alikes of a giraffe:\n\n- zebras\n- Horses\n\nI hope that a cow is not needed.",
        "Visually similar categories: zebra, a horse and the camel.",
        "zebra\nhorse",
        "Zebra; horse.",
    ],
)
def test_what_models_return(raw):
    assert names(raw) == ["zebra", "horse"]


def test_truncated_answers_keep_what_was_finished():
    assert names('{"related": [{"class": "zebra", "score": 0.7}, {"class": "horse", "sco') == ["zebra"]
    assert names('["zebra", "horse", "co') == ["zebra", "horse"]
    with pytest.raises(ParseError):
        parse_related("<think>A zebra, or a horse, or", "giraffe", COCO_CLASSES)


def test_what_is_dropped_is_named_with_its_reason():
    raw = '["camel", "zebra", "Giraffes", "zebras", "dog"]'
    reading = parse_related(raw, "giraffe", COCO_CLASSES)
    ranked, dropped = reading.ranked, reading.dropped
    assert [r.name for r in ranked] == ["zebra", "dog"]
    assert dropped == ("camel: not in the list", "Giraffes: the class itself", "zebras: named before")


def test_aliases_and_singulars():
    assert names('["sofa", "mug", "Cell-Phone", "the bear"]') == ["couch", "cup", "cell phone", "bear"]
    assert names('["wine glasses", "buses", "zebras"]') == ["wine glass", "bus", "zebra"]
    assert names('["people", "knives", "skis"]') == ["person", "knife", "skis"]
    assert names('["couch", "tv"]', "chair", PASCAL_CLASSES) == ["sofa", "tvmonitor"]
    assert names('["couches", "bed"]', "sofa") == ["bed"]


def test_the_class_itself_goes_even_if_it_is_not_in_the_list():
    reading = parse_related('["okapi", "zebra"]', "okapi", COCO_CLASSES)
    ranked, dropped = reading.ranked, reading.dropped
    assert [r.name for r in ranked] == ["zebra"] and dropped == ("okapi: the class itself",)


def test_without_scores_the_ranks_become_scores():
    ranked = parse_related('["zebra", "camel", "horse", "cow", "dog"]', "giraffe", COCO_CLASSES).ranked
    assert [r.score for r in ranked] == [1.0, 0.75, 0.5, 0.25]


def scores(**given):
    raw = json.dumps({"related": [{"class": name, "score": score} for name, score in given.items()]})
    reading = parse_related(raw, "giraffe", COCO_CLASSES)
    return {r.name: r.score for r in reading.ranked}, reading


def test_scores_are_read_and_sorted_stably():
    read, reading = scores(dog="0.2", zebra=1, horse="70%", cow=0.7, bear="1/2", cat="0,4", sheep=float("nan"))
    assert list(read.items()) == [("zebra", 1), ("horse", 0.7), ("cow", 0.7), ("bear", 0.5), ("cat", 0.4), ("dog", 0.2)]
    assert reading.dropped == ("sheep: its score is not a number",) and not reading.notes


@pytest.mark.parametrize(
    ("given", "read", "note"),
    [
        ({"zebra": 9, "horse": "6"}, [0.9, 0.6], "out of 10"),
        ({"horse": 60, "zebra": 95.0}, [0.95, 0.6], "out of 100"),
        ({"horse": "6/10", "zebra": "9/10"}, [0.9, 0.6], None),
        ({"horse": 2, "zebra": 4}, [1.0, 0.5], "not certain"),
        ({"horse": 0.8, "zebra": 7}, [1.0, 0.5], "not certain"),
        ({"horse": -1, "zebra": 0.5}, [1.0, 0.5], "not certain"),
        ({"zebra": "high", "horse": "some"}, [1.0, 0.5], "no score is a number"),
    ],
    ids=str,
)
def test_scores_on_another_scale_are_brought_to_one_or_their_order_is_used(given, read, note):
    found, reading = scores(**given)
    assert found == {"zebra": pytest.approx(read[0]), "horse": pytest.approx(read[1])}
    assert (
        list(found) == ["zebra", "horse"] and bool(reading.notes) == bool(note) and (note or "") in str(reading.notes)
    )


ANSWER = '{"related": [{"class": "zebra", "score": 0.9}, {"class": "horse", "score": 0.6}]}'


@pytest.mark.parametrize(
    "raw",
    [
        "| class | score |\n|---|---|\n| zebra | 0.9 |\n| horse | 0.6 |",
        "related:\n  - class: horse\n    score: 0.6\n  - class: zebra\n    score: 0.9",
        "\u201czebra\u201d, \u201chorse\u201d",
        "+ zebra\n+ horse",
        "### Zebra\nstripes\n### Horse\nmane",
        "1 - zebra\n2 - horse",
        '\ufeff["zeb\u200bra","\U0001f434 horse"]',
        "Not similar: person, car. Similar: zebra, horse.",
        "- zebra\n- horse\n\nNot similar:\n- person\n- car",
        "1. Zebra\n   - car: no\n2. Horse",
        '["zebra", "horse"]\nExcluded: ["car", "dog"]',
        'Candidates: ["dog", "cat", "zebra", "cow", "horse"]\n["zebra", "horse"]',
        f'Names: {json.dumps(COCO_CLASSES)}\nAnswer: ["zebra", "horse"]',
        '{"rejected": ["dog"], "related": ["zebra", "horse"]}',
        f'["dog", "cat"] were named first. {ANSWER}',
        f'{ANSWER}\nAs a list: ["dog"]',
        f'<thinking>["dog"]</thinking>{ANSWER}',
        f"[THINK]dog, cat[/THINK]{ANSWER}",
        f"<|channel|>analysis<|message|>A dog<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}<|return|>",
        '{"related": [{"class": "zebra", "score": 0.9, "reason": "<think>"}, {"class": "horse", "score": 0.6}]}',
        '{"zebra": 0.9, "horse": 0.6}',
        '{"class": "zebra", "score": 0.9}\n{"class": "horse", "score": 0.6}',
    ],
)  # fmt: skip
def test_the_answer_that_answers(raw):
    assert names(raw) == ["zebra", "horse"]


@pytest.mark.parametrize(
    "raw",
    ["I'm sorry, I can't compare a person, or a horse", "A giraffe is tall. It looks like a horse, too.",
     "Not similar: zebra, horse", json.dumps(COCO_CLASSES)],
)  # fmt: skip
def test_what_is_no_answer_is_not_taken_for_one(raw):
    with pytest.raises(ParseError) as nothing:
        names(raw)
    assert not nothing.value.says_none


def test_several_lists_and_too_many_names_are_noted():
    assert "2 different lists" in parse_related('["dog"]\n["zebra"]', "giraffe", COCO_CLASSES).notes[0]
    many = parse_related(json.dumps(COCO_CLASSES[:30][::-1]), "giraffe", COCO_CLASSES)
    assert len(many.ranked) == 8 and "names 29 classes" in many.notes[0]


def test_names_as_people_write_them():
    written = ["ski", "a pair of scissors", "tennis racquet", "air plane", "tooth brushes", "motor bike", "human"]
    meant = ["skis", "scissors", "tennis racket", "airplane", "toothbrush", "motorcycle", "person"]
    assert names(json.dumps(written)) == meant


def test_an_answer_of_thirty_thousand_names_takes_seconds_at_most():
    began = time.monotonic()
    assert names(json.dumps([f"animal {i}" for i in range(30_000)] + ["zebra"])) == ["zebra"]
    assert time.monotonic() - began < 5


def test_reasons_are_kept():
    assert parse_related(SCORED, "giraffe", COCO_CLASSES).ranked[0].reason == "legs"


def test_nothing_usable_shows_the_beginning_of_the_answer():
    raw = "I am sorry, I cannot help with that. " + "x" * 300
    with pytest.raises(ParseError) as nothing:
        parse_related(raw, "giraffe", COCO_CLASSES)
    assert raw[:200] in str(nothing.value) and raw[:201] not in str(nothing.value)


def test_each_step_can_be_looked_at():
    spoken = strip_thinking('<think>hm</think> Sure:\n```json\n["zebra", "camel"]\n```')
    assert spoken == 'Sure:\n```json\n["zebra", "camel"]\n```'
    assert first_json(spoken) == ["zebra", "camel"] and first_json("no JSON here") is None


CLASS_LIKE = st.sampled_from(["giraffe", "Zebras", "horse", "camel", "sofa", "a cow", "wine glasses", "🦒"])
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8) | CLASS_LIKE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["class", "name", "score", "reason", "related"]), inner)
    ),
    max_leaves=12,
)
PIECE = st.one_of(
    CLASS_LIKE,
    JSON.map(json.dumps),
    st.sampled_from(["<think>", "</think>", "```", "json\n", "[", "]", "{", '"', ",", "\n- ", "\n1. ", ": "]),
    st.text(max_size=20),
)


VOCABULARY = ("giraffe", "zebra", "horse", "couch", "cow", "wine glass")


def check(raw, query, vocabulary):
    """An answer gives classes of the list, or the parser's own error; never anything else."""
    try:
        reading = parse_related(raw, query, vocabulary)
    except ParseError as error:
        assert all(isinstance(reject, str) for reject in error.rejects)
        return
    found, scores = [r.name for r in reading.ranked], [r.score for r in reading.ranked]
    assert found and len(set(found)) == len(found)
    assert set(found) <= set(vocabulary) - {find_class(query, vocabulary)}
    assert all(0 <= s <= 1 for s in scores) and scores == sorted(scores, reverse=True)
    assert all(isinstance(reason, str) for reason in reading.dropped)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECE, max_size=10).map("".join))
@example("[" * 100_000)
@example('{"related":' * 5_000)
@example("<think>" * 5_000)
@example('[{"class": "zebra", "score": 1' + "0" * 5_000 + "}]")
def test_any_answer_gives_listed_classes_or_a_parse_error(raw):
    check(raw, "giraffe", VOCABULARY)


@functools.cache
def recorded_answers():
    texts = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(RECORDED.rglob("*.json"))]
    return [(r["request"]["class"], r["response"]["text"]) for r in texts]


WRAPPERS = ("%s", "```json\n%s\n```", "<think>a dog?</think>%s", "Sure: %s Anything else?")
PIECES = ("Zebras", "a cow", "sofa", "🦒", "<think>", "</think>", "```", "[", "]", "{", '"', ",", "\n- ", "\n1. ", "9")


def mutated(draw):
    """A recorded answer in one of the forms that models use, then cut, doubled or overwritten in up to six places."""
    query, text = draw.choice(recorded_answers())
    text = draw.choice(WRAPPERS) % text
    for _ in range(draw.randint(0, 6)):
        a, b = sorted((draw.randint(0, len(text)), draw.randint(0, len(text))))
        part = text[a:b]
        text = draw.choice(
            [
                text[:a] + text[b:],
                text[:a] + part * 2 + text[b:],
                text[:a] + draw.choice(PIECES) + text[b:],
                text[:a] + part.upper() + text[b:],
                part,
            ]
        )[:4000]
    return query, text


def test_ten_thousand_mutated_answers():
    """Drawn by `random`: drawing them with hypothesis takes ten times as long as parsing them."""
    draw = random.Random(0)
    for _ in range(10_000):
        query, text = mutated(draw)
        check(text, query, draw.choice((COCO_CLASSES, PASCAL_CLASSES)))


@pytest.mark.parametrize("before", ["My first draft:", "Here is a first draft", "Candidates:", "Not similar:"])
@pytest.mark.parametrize("gap", ["\n\n", "\n\n\n", "\n \n"])
@pytest.mark.parametrize(
    ("aside", "answer"),
    [("- dog\n- cat", "- zebra\n- horse"), ("1. dog\n2. cat", "1. zebra\n2. horse"),
     ("- dog\n- cat", "1) zebra\n\n2) horse"),
     ("| class |\n|---|\n| dog |", "| class |\n|---|\n| zebra |\n| horse |")],
)  # fmt: skip
def test_a_blank_line_ends_what_is_not_the_answer(before, gap, aside, answer):
    reading = parse_related(f"{before}\n{aside}{gap}{answer}", "giraffe", COCO_CLASSES)
    assert [r.name for r in reading.ranked] == ["zebra", "horse"]
    assert "the list after a blank line is taken for the answer" in reading.notes


@pytest.mark.parametrize(
    "text",
    [
        "Final answer:\n- zebra\n- horse\n\nNot similar:\n- dog\n- cat\n\n- bird",
        "First draft:\n- dog\n- cat\n\n- bird\n\nFinal:\n- zebra\n\n- horse",
        "First draft:\n1. zebra\n2. horse\n\n3. dog: no",
        "First draft:\n\n- zebra\n\n- horse",
        "Final answer:\n- zebra\n\n- horse",
    ],
)
def test_a_blank_line_is_not_enough_where_there_is_an_answer_or_the_list_goes_on(text):
    assert [r.name for r in parse_related(text, "giraffe", COCO_CLASSES).ranked][:2] == ["zebra", "horse"]
