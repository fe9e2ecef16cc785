"""All policies on drawn features: a map in which the class is known to lie."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llafs_lib.evaluation.metrics import count
from llafs_lib.evaluation.study import STEPS, Arm, Question, answer, curve, relations_of, report, with_oracle
from llafs_lib.records import RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank

BASE = ("horse", "bus", "cup")


def direction(axis, length=1.0):
    return length * np.eye(6, dtype=np.float32)[axis]


@pytest.fixture
def bank():
    """Horses look along axis 0, buses along 1, cups along 2; behind all of them is axis 5."""
    inside = np.stack([direction(axis) for axis in (0, 0, 1, 1, 2, 2)])
    outside = np.stack([direction(5)] * 6)
    area = np.full(6, 0.3, np.float32)
    return SupportBank(BASE, np.arange(100, 106), np.repeat(np.arange(3), 2), inside, outside, area)


def answer_of(*ranked):
    return RelatedClasses("giraffe", tuple(RelatedClass(c, s) for c, s in ranked), "recorded", "a test")


def describe(image_id):
    """A giraffe (nearly axis 0) in the left half, grass (axis 5) in the right."""
    features = np.zeros((6, 4, 8), np.float32)
    features[:, :, :4] = (direction(0) + direction(3, 0.3))[:, None, None] / np.hypot(1, 0.3)
    features[:, :, 4:] = direction(5)[:, None, None]
    return torch.from_numpy(features)


def read(image_id, class_name):
    truth = np.zeros((16, 32), bool)
    truth[:, :16] = True
    return truth, np.zeros_like(truth)


@pytest.fixture
def questions(bank):
    llm, other = answer_of(("horse", 0.8)), answer_of(("bus", 0.8))
    relations = relations_of(["giraffe"], {"giraffe": llm}, BASE, {"giraffe": other})["giraffe"]
    return [Question("giraffe", i, bank, relations) for i in range(8)]


def test_the_right_relation_finds_the_object_and_a_wrong_one_does_not(questions):
    arms = {"llm": Arm("llm", "all"), "shuffled": Arm("shuffled", "all"), "supercategory": Arm("supercategory", 2)}
    results, bootstrap = report(answer(arms, questions, describe, read))
    assert results["llm"].miou > 85 and results["supercategory"].miou > 85
    assert len(results["llm"].counts) == 4 and {c.image_id % 2 for c in results["llm"].counts} == {1}
    low, high = bootstrap.paired_interval(results["llm"].counts, results["llm"].counts)
    assert low == high == 0


def test_the_oracle_is_the_base_class_that_does_best_elsewhere(questions):
    def share(image_id, class_name):
        return np.repeat([[1.0] * 4 + [0.0] * 4], 4, axis=0)

    found = with_oracle(questions, describe, share)
    assert {q.relations["oracle"].names for q in found} == {("horse",)}
    (alone,) = with_oracle(questions[:1], describe, share)
    assert alone.relations["oracle"].names == ()


def test_true_supports_come_from_the_class_itself(questions, bank):
    own = SupportBank(
        ("giraffe",), np.array([200]), np.array([0]), direction(3)[None], direction(5)[None], np.array([0.4])
    )
    question = Question("giraffe", 1, bank, questions[0].relations, own)
    inside, _ = Arm("true", 5).prototypes(question, direction(0))
    np.testing.assert_allclose(inside, direction(3))


def test_clean_leaves_out_images_that_show_the_class_unlabelled(questions, bank):
    question = Question("giraffe", 1, bank, questions[0].relations, unlabelled=frozenset({100}))
    for arm, expected in ((Arm("llm", "all"), {100, 101}), (Arm("llm", "all", clean=True), {101})):
        _, chosen = arm.choose(question, direction(0))
        assert set(bank.image_ids[chosen.rows]) == expected


@given(st.integers(0, 2**32 - 1), st.integers(0, STEPS))
def test_a_curve_counts_as_a_mask_does(seed, threshold):
    rng = np.random.default_rng(seed)
    score, truth, void = rng.integers(0, 101, (5, 7)) / 100 + 1e-9, rng.random((5, 7)) < 0.4, rng.random((5, 7)) < 0.2
    if void.all():
        return
    expected = count(score >= threshold / STEPS, truth, "cat", 3, void)
    assert curve(score, truth, void, "cat", 3).at(threshold) == expected
