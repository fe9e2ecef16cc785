from dataclasses import replace

import numpy as np
import pytest
from small_bank import bank

from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.arms import ADDED_WEIGHT, EVERYTHING, FLOORS, Arm, CentrePrior, document_arms, document_pairs
from llafs_lib.records import Episode, RelatedClass, RelatedClasses
from llafs_lib.retrieval.policies import Request

RELATED = RelatedClasses("giraffe", (RelatedClass("zebra", 0.9),), "recorded", "")
REQUEST = Request(Episode("giraffe", 7, (90, 91, 92, 93, 94)), RELATED, np.ones(5, np.float32) / 5**0.5)


def chosen(arm):
    return [(c.image_id, c.class_name, c.weight) for c in arm.choose(bank(), REQUEST)]


def test_true_supports_are_the_episode_s_own():
    assert chosen(Arm("HSNet", "true", 2)) == [(90, "giraffe", 1.0), (91, "giraffe", 1.0)]


def test_another_draw_of_true_supports_begins_elsewhere():
    assert chosen(Arm("HSNet", "true", 1, draw=1)) == [(91, "giraffe", 1.0)]
    assert chosen(Arm("HSNet", "true", 2, draw=2)) == [(94, "giraffe", 1.0), (90, "giraffe", 1.0)]


def test_added_supports_count_less():
    found = chosen(Arm("HSNet", "true", 1, added="llm"))
    assert found[0] == (90, "giraffe", 1.0)
    assert (
        all(c == "zebra" and w == ADDED_WEIGHT for _, c, w in found[1:]) and len(found) == 1 + 4
    )  # all zebras there are


def test_draws_of_random_supports_differ_and_repeat():
    first, other = chosen(Arm("HSNet", "random", 5)), chosen(Arm("HSNet", "random", 5, draw=1))
    assert first != other and first == chosen(Arm("HSNet", "random", 5))


def test_every_row_of_the_document_is_there():
    arms = document_arms()
    for k in (1, 5):
        assert {Arm("", policy, k) for policy in ("true", "random", "llm", "shuffled")} <= set(arms)
        assert {Arm("", "true", k, added="llm"), Arm("", "random", k, draw=1)} <= set(arms)
    assert {Arm("", "all", "all"), Arm("", "llm", "all"), Arm("", "true", 1, draw=1)} <= set(arms)
    assert {arm.k for arm in document_arms([3])} == {3, 1, "all"}


def test_every_claim_and_control_has_its_difference():
    arms = [*FLOORS, *(replace(arm, model="HSNet") for arm in document_arms())]
    pairs = document_pairs(arms, (1, 5))
    true, random, llm = (Arm("HSNet", policy, 5) for policy in ("true", "random", "llm"))
    for pair in ((llm, random), (llm, true), (replace(random, draw=1), random), (replace(true, added="llm"), true),
                 (llm, Arm("HSNet", "true", 1)), (true, EVERYTHING),
                 (Arm("HSNet", "llm", "all"), Arm("HSNet", "all", "all"))):  # fmt: skip
        assert pair in pairs
    assert len(set(pairs)) == len(pairs)
    assert document_pairs(arms[:3], (1, 5)) == [(Arm("HSNet", "true", 1), floor) for floor in FLOORS]


def test_what_arms_are_called():
    for arm, name, label in (
        (Arm("HSNet", "llm", 5), "HSNet: llm 5", "LLM base supports, 5"),
        (Arm("", "true", 1, added="random"), "true 1 + random 5", "1 true + 5 random base supports"),
        (Arm("M", "random", 1, draw=1), "M: random 1, other draw", "random base supports, 1, other draw"),
        (Arm("M", "random", 1, draw=2), "M: random 1, draw 3", "random base supports, 1, draw 3"),
        (EVERYTHING, "everything", "predict everything (floor)"),
    ):
        assert (arm.name, arm.label) == (name, label)
    everyone = [replace(arm, model=model) for model in ("A", "B") for arm in document_arms()]
    assert len({arm.name for arm in everyone}) == len({arm.label for arm in everyone}) * 2 == len(everyone)


def test_the_centre_prior_marks_where_objects_are():
    masks = [np.zeros((16, 16), bool) for _ in range(3)]
    for n, mask in enumerate(masks):
        mask[4 : 12 + n, 4:12] = True
    found = CentrePrior(masks)(None, np.zeros((32, 64, 3), np.uint8))
    assert found.shape == (32, 64) and found[16, 32] and not found[0, 0] and not found[31, 63]


@pytest.mark.parametrize("k", [0, -1])
def test_impossible_numbers(k):
    with pytest.raises(LlafsError, match="shots must be at least 1"):
        Arm("HSNet", "llm", k).choose(bank(), REQUEST)
