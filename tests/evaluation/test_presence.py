import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llafs_lib.evaluation.presence import auc, draw_questions, mean_auc, presence_score

scored = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30)


def test_the_score_is_the_mean_of_the_five_highest():
    grid = torch.zeros(4, 5)
    grid[:2, :3] = torch.tensor([[1.0, 0.9, 0.8], [0.7, 0.6, 0.5]])
    assert presence_score(grid) == pytest.approx(0.8)
    assert presence_score(torch.tensor([[0.3, 0.1]])) == pytest.approx(0.2), "a map of fewer places"


@given(scored)
def test_auc_counts_the_pairs_that_are_in_order(pairs):
    """The definition, pair by pair."""
    with_it, without = ([s for s, there in pairs if there is kind] for kind in (True, False))
    found = auc([s for s, _ in pairs], [there for _, there in pairs])
    if not with_it or not without:
        assert found is None
    else:
        assert found == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a in with_it for b in without]))


def test_classes_that_cannot_be_ranked_do_not_count():
    ranked, flat = [(0.9, True), (0.1, False)], [(0.5, True), (0.6, True)]
    assert mean_auc({"okapi": ranked, "lion": flat, "bear": []}) == 1.0
    assert mean_auc({"lion": flat}) is None


@given(st.integers(0, 5), st.integers(0, 20))
def test_half_of_the_questions_are_about_absent_classes(seed, count):
    shown = {i: {"a"} if i % 2 else {"a", "b"} for i in range(10)}
    asked = draw_questions(shown, ("a", "b", "c"), count, seed)
    assert all((c in shown[i]) == there for i, c, there in asked) and len(asked) == len(set(asked)) <= count
    assert sum(there for *_, there in asked) == sum(not there for *_, there in asked) == count // 2
    assert asked == draw_questions(shown, ("a", "b", "c"), count, seed)
