import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llafs_lib.errors import LlafsError
from llafs_lib.records import Episode, RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.policies import POLICIES, Request, select_supports, share_out
from llafs_lib.retrieval.scoring import Exponents, score_supports

CLASSES = ("horse", "zebra", "cow", "bus")


@pytest.fixture
def bank():
    rng = np.random.default_rng(0)
    n = 40
    vectors = rng.normal(size=(n, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    area = rng.uniform(0.01, 0.5, n).astype(np.float32)
    return SupportBank(CLASSES, np.arange(n), np.arange(n) % 4, vectors, vectors, area)


def request(scores, query_id=100, class_name="giraffe"):
    related = RelatedClasses(class_name, tuple(RelatedClass(c, s) for c, s in scores.items()), "recorded", "a test")
    return Request(Episode(class_name, query_id, (7, 8, 9)), related, np.eye(8, dtype=np.float32)[0])


RELATED = {"zebra": 0.7, "horse": 0.6, "cow": 0.5}


def test_llm_takes_named_classes_only_and_the_best_first(bank):
    chosen = select_supports("llm", bank, request(RELATED), 6)
    assert len(chosen) == 6 and {c.class_name for c in chosen} <= set(RELATED)
    shares = [sum(c.class_name == name for c in chosen) for name in RELATED]
    assert shares == sorted(shares, reverse=True)
    scores = score_supports(bank, RELATED, np.eye(8)[0])
    assert chosen[0].score == scores.total[bank.rows_of("zebra")].max()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("k", [1, 5, 100])
def test_no_policy_returns_the_query_or_repeats_a_support(bank, policy, k):
    for query_id in range(6):
        chosen = select_supports(policy, bank, request(RELATED, query_id), k)
        pairs = [(c.image_id, c.class_name) for c in chosen]
        assert 1 <= len(chosen) <= k and len(set(pairs)) == len(pairs)
        assert all(c.image_id != query_id for c in chosen)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_draw_depends_on_seed_and_query_alone(bank, policy):
    def draw(seed=0, query=100):
        return [c.image_id for c in select_supports(policy, bank, request(RELATED, query), 5, seed)]

    first = draw()
    draw(seed=1, query=3)
    assert draw() == first


def test_random_draws_differ_between_queries(bank):
    draws = {
        tuple(c.image_id for c in select_supports("random", bank, request(RELATED, query), 5))
        for query in range(50, 60)
    }
    assert len(draws) == 10


def test_true_takes_the_episodes_own_supports(bank):
    assert [c.image_id for c in select_supports("true", bank, request(RELATED), 2)] == [7, 8]


def test_a_class_without_relatives_falls_back_to_random_and_says_so(bank):
    chosen = select_supports("llm", bank, request({"camel": 0.9}), 5)
    assert len(chosen) == 5 and all(c.score == 0 for c in chosen)


def test_bad_arguments(bank):
    with pytest.raises(LlafsError, match="choose one of true, random, llm"):
        select_supports("best", bank, request(RELATED), 5)
    with pytest.raises(LlafsError, match="at least 1"):
        select_supports("llm", bank, request(RELATED), 0)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.floats(0.01, 1), st.integers(1, 9)), min_size=1),
    st.integers(1, 30),
)
def test_share_out(classes, k):
    weights, available = {c: w for c, (w, _) in classes.items()}, {c: n for c, (_, n) in classes.items()}
    taken = share_out(weights, available, k)
    assert sum(taken.values()) == min(k, sum(available.values()))
    assert all(0 <= taken[c] <= available[c] for c in classes)
    free = [c for c in classes if taken[c] < available[c]]
    for a in free:
        for b in free:
            if weights[a] > weights[b]:
                assert taken[a] >= taken[b]


def test_terms_and_exponents(bank):
    query = bank.foreground[3]
    scores = score_supports(bank, RELATED, query)
    assert (scores.relation[bank.rows_of("bus")] == 0).all()
    assert scores.visual.argmax() == 3 and scores.visual.max() <= 1 + 1e-6
    assert (scores.quality > 0).all() and scores.quality.max() == 1
    np.testing.assert_allclose(scores.total, scores.relation**2 * scores.quality)
    off = score_supports(bank, RELATED, query, Exponents(0, 0, 0))
    assert (off.total == 1).all()
    assert "relation" in scores.explain(0)
