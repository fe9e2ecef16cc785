import functools
import json
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llafs_lib.classes import COCO_CLASSES, PASCAL_CLASSES, find_class
from llafs_lib.language.parsing import (
    ParseError,
    first_json,
    listed_names,
    parse_related,
    strip_thinking,
    unfence,
)
from llafs_lib.language.replay import RECORDED


def names(raw, query="giraffe", vocabulary=COCO_CLASSES):
    return [r.name for r in parse_related(raw, query, vocabulary)[0]]


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
    ranked, dropped = parse_related(raw, "giraffe", COCO_CLASSES)
    assert [r.name for r in ranked] == ["zebra", "dog"]
    assert dropped == ("camel: not in the list", "Giraffes: the class itself", "zebras: named before")


def test_aliases_and_singulars():
    assert names('["sofa", "mug", "Cell-Phone", "the bear"]') == ["couch", "cup", "cell phone", "bear"]
    assert names('["wine glasses", "buses", "zebras"]') == ["wine glass", "bus", "zebra"]
    assert names('["people", "knives", "skis"]') == ["person", "knife", "skis"]
    assert names('["couch", "tv"]', "chair", PASCAL_CLASSES) == ["sofa", "tvmonitor"]
    assert names('["couches", "bed"]', "sofa") == ["bed"]


def test_the_class_itself_goes_even_if_it_is_not_in_the_list():
    ranked, dropped = parse_related('["okapi", "zebra"]', "okapi", COCO_CLASSES)
    assert [r.name for r in ranked] == ["zebra"] and dropped == ("okapi: the class itself",)


def test_without_scores_the_ranks_become_scores():
    ranked, _ = parse_related('["zebra", "camel", "horse", "cow", "dog"]', "giraffe", COCO_CLASSES)
    assert [r.score for r in ranked] == [1.0, 0.75, 0.5, 0.25]


def test_scores_are_read_clamped_and_sorted_stably():
    given_scores = {"dog": "0.2", "zebra": 7, "horse": "70%", "cow": 0.7, "bear": -1, "sheep": float("nan")}
    raw = json.dumps([{"class": name, "score": score} for name, score in given_scores.items()])
    ranked, dropped = parse_related(raw, "giraffe", COCO_CLASSES)
    assert [(r.name, r.score) for r in ranked] == [
        ("zebra", 1.0),
        ("horse", 0.7),
        ("cow", 0.7),
        ("dog", 0.2),
        ("bear", 0.0),
    ]
    assert dropped == ("sheep: its score is not a number",)


def test_reasons_are_kept():
    assert parse_related(SCORED, "giraffe", COCO_CLASSES)[0][0].reason == "legs"


def test_nothing_usable_shows_the_beginning_of_the_answer():
    raw = "I am sorry, I cannot help with that. " + "x" * 300
    with pytest.raises(ParseError) as nothing:
        parse_related(raw, "giraffe", COCO_CLASSES)
    assert raw[:200] in str(nothing.value) and raw[:201] not in str(nothing.value)


def test_each_step_can_be_looked_at():
    raw = '<think>hm</think> Sure:\n```json\n["zebra", "camel"]\n```'
    text = strip_thinking(raw)
    assert text == 'Sure:\n```json\n["zebra", "camel"]\n```'
    assert unfence(text) == '["zebra", "camel"]'
    assert first_json(unfence(text)) == ["zebra", "camel"]
    assert first_json("no JSON here") is None
    assert listed_names("1. Zebra\n2. Camel - a long neck") == ("Zebra", "Camel")


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
        ranked, dropped = parse_related(raw, query, vocabulary)
    except ParseError as error:
        assert all(isinstance(reject, str) for reject in error.rejects)
        return
    found = [r.name for r in ranked]
    scores = [r.score for r in ranked]
    assert found and len(set(found)) == len(found)
    assert set(found) <= set(vocabulary) - {find_class(query, vocabulary)}
    assert all(0 <= s <= 1 for s in scores) and scores == sorted(scores, reverse=True)
    assert all(isinstance(reason, str) for reason in dropped)


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
