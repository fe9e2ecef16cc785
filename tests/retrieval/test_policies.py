import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llafs_lib.errors import LlafsError
from llafs_lib.records import Episode, RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.policies import (
    POLICIES,
    Choice,
    Request,
    augment,
    choose_rows,
    dhondt,
    load_supports,
    select_supports,
)
from llafs_lib.retrieval.scoring import GOOD_AREA, quality_term, relation_term, visual_term

CLASSES = ("horse", "zebra", "cow", "bus")


@pytest.fixture
def bank():
    rng = np.random.default_rng(0)
    n = 40
    vectors = rng.normal(size=(n, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    area = rng.uniform(0.01, 0.5, n).astype(np.float32)
    index = np.repeat(np.arange(4), 10)
    return SupportBank(CLASSES, np.tile(np.arange(10), 4), index, vectors, vectors, area)


def answer(class_name, scores):
    return RelatedClasses(class_name, tuple(RelatedClass(c, s) for c, s in scores.items()), "recorded", "a test")


def request(scores, query_id=100, class_name="giraffe", **more):
    others = {"shuffled": {"bus": 0.9}, "oracle": {"cow": 1.0}, "supercategory": {"cow": 1.0}, "text": {"zebra": 0.3}}
    others = {policy: answer(class_name, scores) for policy, scores in others.items()}
    episode = Episode(class_name, query_id, (7, 8, 9))
    return Request(episode, answer(class_name, scores), np.eye(8, dtype=np.float32)[0], others, **more)


RELATED = {"zebra": 0.7, "horse": 0.6, "cow": 0.5}


def test_llm_takes_named_classes_only_and_the_best_first(bank):
    chosen = select_supports("llm", bank, request(RELATED), 6)
    assert len(chosen) == 6 and {c.class_name for c in chosen} <= set(RELATED)
    shares = [sum(c.class_name == name for c in chosen) for name in RELATED]
    assert shares == sorted(shares, reverse=True)
    assert chosen[0].score == pytest.approx((0.7**2 * quality_term(bank, bank.rows_of("zebra"))).max())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("k", [1, 5, 100, "all"])
def test_no_policy_returns_the_query_or_repeats_a_support(bank, policy, k):
    for query_id in range(6):
        chosen = select_supports(policy, bank, request(RELATED, query_id), k)
        pairs = [(c.image_id, c.class_name) for c in chosen]
        assert 1 <= len(chosen) <= (40 if k == "all" else k) and len(set(pairs)) == len(pairs)
        assert all(c.image_id != query_id for c in chosen)
        assert all(c.score >= 0 and 0 < c.weight <= 1 for c in chosen)


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


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("k", [3, "all"])
def test_images_that_may_not_serve_do_not(bank, policy, k):
    chosen = select_supports(policy, bank, request(RELATED, exclude=frozenset({0, 1, 2, 7})), k)
    assert chosen and not {c.image_id for c in chosen} & {0, 1, 2, 7}


def classes_chosen(bank, policy, k=20):
    return {c.class_name for c in select_supports(policy, bank, request(RELATED), k)}


def test_each_relation_chooses_its_own_classes(bank):
    assert classes_chosen(bank, "llm") == classes_chosen(bank, "hybrid") == set(RELATED)
    assert classes_chosen(bank, "shuffled") == {"bus"} and classes_chosen(bank, "oracle") == {"cow"}
    assert classes_chosen(bank, "supercategory") == {"cow"} and classes_chosen(bank, "text") == {"zebra"}
    assert classes_chosen(bank, "all", "all") == set(CLASSES)


def test_visual_takes_what_looks_most_like_the_query(bank):
    big = np.flatnonzero(bank.area >= GOOD_AREA)
    best = big[bank.foreground[big, 0].argmax()]
    (first,) = select_supports("visual", bank, request({}), 1)
    assert (first.image_id, first.class_name) == (bank.image_ids[best], bank.class_of(best))


def test_all_weighs_by_score_and_the_best_weighs_one(bank):
    chosen = choose_rows("llm", bank, request(RELATED), "all")
    assert len(chosen.rows) == 30 and chosen.weights.max() == 1
    np.testing.assert_allclose(chosen.weights / chosen.weights[0], chosen.scores / chosen.scores[0])
    blind = choose_rows("all", bank, request(RELATED), "all")
    assert len(blind.rows) == 40 and (blind.weights == 1).all()


def test_other_related_classes_must_be_given(bank):
    bare = Request(Episode("giraffe", 1, ()), answer("giraffe", RELATED), np.eye(8)[0])
    with pytest.raises(LlafsError, match="'shuffled' needs its related classes"):
        choose_rows("shuffled", bank, bare, 3)


def test_added_supports_count_less():
    true, base = [Choice(1, "giraffe", 1.0)], [Choice(2, "zebra", 0.5), Choice(3, "cow", 0.2, weight=0.5)]
    assert [c.weight for c in augment(true, base, 0.1)] == pytest.approx([1, 0.1, 0.05])


def test_loading_keeps_the_weight():
    (support,) = load_supports([Choice(2, "zebra", 0.5, 0.25)], lambda i, c: (np.zeros((2, 2, 3)), np.ones((2, 2))))
    assert support.weight == 0.25 and support.score == 0.5


def test_bad_arguments(bank):
    with pytest.raises(LlafsError, match="choose one of true, random, all, llm"):
        select_supports("best", bank, request(RELATED), 5)
    with pytest.raises(LlafsError, match="at least 1"):
        select_supports("llm", bank, request(RELATED), 0)
    with pytest.raises(LlafsError, match='or "all"'):
        select_supports("llm", bank, request(RELATED), "many")


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 99), st.integers(1, 9)), min_size=1),
    st.integers(1, 30),
)
def test_dhondt(classes, k):
    weights, available = {c: w for c, (w, _) in classes.items()}, {c: n for c, (_, n) in classes.items()}
    taken = dhondt(weights, available, k)
    assert sum(taken.values()) == min(k, sum(available.values()))
    assert all(0 <= taken[c] <= available[c] for c in classes)
    free = [c for c in classes if taken[c] < available[c]]
    for a in free:
        for b in free:
            if weights[a] > weights[b]:
                assert taken[a] >= taken[b]


def test_dhondt_shares_places_as_parliaments_do():
    votes = {"a": 340_000, "b": 280_000, "c": 160_000, "d": 60_000}
    assert dhondt(votes, dict.fromkeys(votes, 9), 7) == {"a": 3, "b": 3, "c": 1, "d": 0}


def test_terms(bank):
    rows = np.arange(len(bank))
    relation, quality = relation_term(bank, rows, RELATED), quality_term(bank, rows)
    assert (relation[bank.rows_of("bus")] == 0).all() and (relation[bank.rows_of("cow")] == 0.5).all()
    assert (quality > 0).all() and quality.max() == 1
    visual = visual_term(bank, rows, bank.foreground[3])
    np.testing.assert_allclose(visual, (1 + bank.foreground @ bank.foreground[3]) / 2, atol=1e-6)
    np.testing.assert_array_equal(visual_term(bank, rows[::-1], bank.foreground[3]), visual[::-1])


def test_hybrid_weighs_the_relation_by_what_looks_like_the_query(bank):
    chosen, asked = choose_rows("hybrid", bank, request(RELATED), "all"), request(RELATED)
    expected = relation_term(bank, chosen.rows, RELATED) ** 2 * visual_term(bank, chosen.rows, asked.query) ** 8
    np.testing.assert_allclose(chosen.scores, expected)
