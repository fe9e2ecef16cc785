from dataclasses import replace

import numpy as np
import pytest
from small_bank import bank

from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.arms import (
    ADDED_WEIGHT,
    DRAWS,
    EVERYTHING,
    FLOORS,
    Arm,
    CentrePrior,
    claims,
    dealt,
    document_arms,
    document_claims,
    document_pairs,
    null_pairs,
    over_draws,
    possible,
)
from llafs_lib.evaluation.metrics import ConfusionCounts
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


def test_one_random_support_is_the_first_of_five():
    for draw in range(DRAWS):
        assert chosen(Arm("", "random", 1, draw=draw)) == chosen(Arm("", "random", 5, draw=draw))[:1]


def test_another_draw_is_dealt_another_list():
    names = ("giraffe", "cat", "cup", "car", "boat", "bed")
    lists = dealt({c: RelatedClasses(c, (RelatedClass(f"like {c}", 0.9),), "recorded", "") for c in names})
    assert all(len(own) == DRAWS for own in lists.values())
    assert all(r.ranked[0].name != f"like {c}" for c, own in lists.items() for r in own.values())
    assert len({r.ranked[0].name for r in lists["giraffe"].values()}) > 1
    for draw, name in enumerate(("zebra", "horse")):
        others = dict(zip(lists["giraffe"], (RelatedClasses("giraffe", (RelatedClass(n, 1.0),), "shuffled", "")
                                             for n in ("zebra", "horse")), strict=False))  # fmt: skip
        found = Arm("", "shuffled", 2, draw=draw).choose(bank(), replace(REQUEST, others=others))
        assert {c.class_name for c in found} == {name}
    assert dealt({"giraffe": RELATED}) == {"giraffe": {}}


def test_every_row_of_the_document_is_there():
    arms = document_arms()
    for k in (1, 5):
        assert {Arm("", p, k) for p in ("true", "random", "llm", "supercategory", "text", "shuffled")} <= set(arms)
        by_chance = {Arm("", p, k, draw=d) for p in ("true", "random", "shuffled") for d in range(DRAWS)}
        assert by_chance <= set(arms) and {Arm("", "true", k, added=p) for p in ("llm", "random")} <= set(arms)
    assert {Arm("", policy, "all") for policy in ("all", "llm", "supercategory", "text", "shuffled")} <= set(arms)
    assert {Arm("", "true", 1, added="llm", draw=d) for d in range(DRAWS)} <= set(arms) and DRAWS >= 5
    assert len(set(arms)) == len(arms) and {arm.k for arm in document_arms([3])} == {3, 1, "all"}


def test_what_cannot_be_asked_is_left_out():
    def policies(novel, base):
        return {arm.policy for arm in possible(document_arms(), novel, base)}

    everyone = {arm.policy for arm in document_arms()}
    assert policies(["giraffe", "cat"], ["zebra", "dog"]) == everyone
    assert policies(["giraffe"], ["zebra", "dog"]) == everyone - {"shuffled"}
    assert policies(["rivet", "weld"], ["bolt", "nut"]) == everyone - {"supercategory", "text"}
    assert policies(["blue bolt", "weld"], ["bolt", "nut"]) == everyone - {"supercategory"}


def test_every_claim_and_control_has_its_difference():
    arms = [*FLOORS, *(replace(arm, model="HSNet") for arm in document_arms())]
    pairs = document_pairs(arms, (1, 5))
    true, llm, every = Arm("HSNet", "true", 5), Arm("HSNet", "llm", 5), Arm("HSNet", "all", "all")
    for pair in (*claims("HSNet", 5).values(), *document_claims("HSNet", 1).values(), (true, EVERYTHING),
                 (replace(llm, k="all"), every)):  # fmt: skip
        assert pair in pairs
    assert len(set(pairs)) == len(pairs) and len(claims("HSNet", 5)) == len(document_claims("HSNet", 5)) == 6
    assert document_pairs(arms[:2] + [Arm("HSNet", "true", 1)], (1, 5)) == [
        (Arm("HSNet", "true", 1), floor) for floor in FLOORS
    ]


def test_draws_count_together():
    one, other = ([ConfusionCounts("a", 7, n, 10, 1, 2)] for n in (3, 5))
    arms = {Arm("M", "random", 5): one, Arm("M", "random", 5, draw=1): other, Arm("M", "llm", 5): one}
    assert over_draws(arms) == {
        Arm("M", "random", 5): [ConfusionCounts("a", 7, 8, 20, 2, 4)], Arm("M", "llm", 5): one
    }  # fmt: skip
    assert null_pairs(arms) == [(Arm("M", "random", 5), Arm("M", "random", 5, draw=1))]
    assert len(null_pairs([replace(arm, model="M") for arm in document_arms()])) == 2 * 10


def test_what_arms_are_called():
    for arm, name, label in (
        (Arm("HSNet", "llm", 5), "HSNet: llm 5", "LLM base supports, 5"),
        (Arm("", "true", 1, added="random"), "true 1 + random 5", "1 true + 5 random base supports"),
        (Arm("M", "random", 1, draw=2), "M: random 1, draw 3", "random base supports, 1, draw 3"),
        (Arm("", "supercategory", 5), "supercategory 5", "base supports of COCO's super-category, 5"),
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
