import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from llafs_lib.classes import DATASETS, TOY_CLASSES
from llafs_lib.data.episodes import EpisodeSampler, training_episodes
from llafs_lib.data.episodes import test_episodes as make_test_episodes
from llafs_lib.errors import LlafsError
from llafs_lib.records import Episode, Fold


def fold_with(n_train, n_test, index=0):
    def images(n, offset):
        return {c: tuple(range(offset + 100 * i, offset + 100 * i + n)) for i, c in enumerate(TOY_CLASSES)}

    return Fold(
        "toy", index, DATASETS["toy"].base(index), DATASETS["toy"].novel(index),
        images(n_train, 0), images(n_test, 100_000),
    )  # fmt: skip


# --- the sampler's own protocol --------------------------------------------------------------------------------------

lists = st.dictionaries(
    st.sampled_from(TOY_CLASSES), st.lists(st.integers(0, 30), unique=True, max_size=9), min_size=1
).filter(lambda d: any(len(ids) >= 2 for ids in d.values()))
protocols = st.sampled_from(["distinct", "hsnet", "hsnet-list"])


@given(lists, st.integers(1, 6), protocols, st.integers(0, 5))
def test_no_query_is_among_its_supports(images, shots, protocol, seed):
    sampler = EpisodeSampler(images, shots, protocol=protocol, seed=seed)
    episodes = sampler.draw(40)
    assert len(episodes) == 40
    for e in episodes:
        assert e.query_id in images[e.class_name] and set(e.support_ids) <= set(images[e.class_name])
        assert e.query_id not in e.support_ids
        if protocol == "distinct":
            assert len(e.support_ids) == len(set(e.support_ids)) == min(shots, len(images[e.class_name]) - 1)
        else:
            assert len(e.support_ids) == shots
    left_out = {c for c, ids in images.items() if len(ids) < 2}
    assert not left_out & {e.class_name for e in episodes}
    assert {note.split(":")[0] for note in sampler.notes if note.endswith("left out")} == left_out


@given(lists, st.integers(0, 5))
def test_all_queries_come_once_before_any_comes_again(images, seed):
    sampler = EpisodeSampler(images, seed=seed)
    once = sampler.each_query_once()
    asked = [(e.class_name, e.query_id) for e in once]
    assert sorted(asked) == sorted((c, i) for c in sampler.classes for i in images[c])
    counts = Counter(e.class_name for e in sampler.draw(7 * len(sampler.classes)))
    assert set(counts.values()) == {7}  # classes in turn
    name = sampler.classes[0]
    of_one = [e.query_id for e in sampler.draw(2 * len(images[name]) * len(sampler.classes)) if e.class_name == name]
    assert sorted(of_one[: len(images[name])]) == sorted(of_one[len(images[name]) :]) == sorted(images[name])


def test_a_class_does_not_depend_on_the_others():
    images = {"zebra": range(9), "horse": range(20, 30)}
    alone = EpisodeSampler({"horse": images["horse"]}, 3, seed=4).draw(20)
    together = [e for e in EpisodeSampler(images, 3, seed=4).draw(40) if e.class_name == "horse"]
    assert alone == together


def test_too_few_images_are_reported():
    sampler = EpisodeSampler({"zebra": [1, 2, 3], "horse": [4], "cow": [], "car": range(9)}, shots=5)
    assert sampler.classes == ("zebra", "car")
    assert sampler.notes == (
        "zebra: 3 images to show, so fewer than 5 supports",
        "horse: 1 images to ask about, 1 to show: left out",
        "cow: 0 images to ask about, 0 to show: left out",
    )
    with pytest.raises(LlafsError, match="no episode can be drawn: horse: 1 images"):
        EpisodeSampler({"horse": [4]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "pfenet"}, "choose one of distinct, hsnet, hsnet-list"),
        ({"shots": 0}, "at least one support"),
        ({"protocol": "hsnet", "supports": {"zebra": [1, 2]}}, "from the same lists"),
    ],
)
def test_impossible_requests(arguments, message):
    with pytest.raises(LlafsError, match=message):
        EpisodeSampler({"zebra": [1, 2]}, **arguments)
    with pytest.raises(LlafsError, match="a stream without an end"):
        EpisodeSampler({"zebra": [1, 2]}, protocol="hsnet").each_query_once()


# --- HSNet's stream (spec §3.6) --------------------------------------------------------------------------------------


def as_hsnet_draws(images, shots, count):
    """HSNet's order of draws, written once more in numpy's global generator."""
    np.random.seed(0)
    episodes, names = [], sorted(images)
    for _ in range(count):
        name = np.random.choice(names, 1, replace=False)[0]
        query = np.random.choice(images[name], 1, replace=False)[0]
        supports = []
        while len(supports) < shots:
            support = np.random.choice(images[name], 1, replace=False)[0]
            if support != query:
                supports.append(int(support))
        episodes.append(Episode(str(name), int(query), tuple(supports)))
    return episodes


def test_hsnets_stream_draw_for_draw():
    images = {c: list(range(100 * i, 100 * i + 5 + i)) for i, c in enumerate(sorted(TOY_CLASSES))}
    assert EpisodeSampler(images, 5, protocol="hsnet").draw(200) == as_hsnet_draws(images, 5, 200)


def test_hsnets_stream_on_the_official_list_lengths(reference):
    """What the spec counted on the official lists depends on their lengths alone, so it must come out here too."""
    folds = json.loads((reference / "coco20i_counts.json").read_text())["folds"].values()
    per_class, repeated = [], []
    for fold in folds:
        images = {facts["name"]: range(facts["val_images"]) for facts in fold.values()}
        per_class += Counter(e.class_name for e in EpisodeSampler(images, 1, protocol="hsnet").draw(1000)).values()
        five = EpisodeSampler(images, 5, protocol="hsnet").draw(1000)
        repeated.append(sum(len(set(e.support_ids)) < 5 for e in five))
    assert (min(per_class), max(per_class)) == (33, 68)
    assert (min(repeated), max(repeated)) == (16, 39)


def test_hsnets_pascal_order_walks_its_list():
    images = {"zebra": [3, 1], "horse": [2, 3]}
    asked = [(e.query_id, e.class_name) for e in EpisodeSampler(images, protocol="hsnet-list").draw(6)]
    assert asked == [(1, "zebra"), (2, "horse"), (3, "horse"), (3, "zebra"), (1, "zebra"), (2, "horse")]


# --- the same everywhere ---------------------------------------------------------------------------------------------

PROCESS = """
from llafs_lib.data.episodes import EpisodeSampler
images = {"zebra": range(9), "horse": range(20, 40), "cow": range(50, 53)}
for protocol in ("distinct", "hsnet", "hsnet-list"):
    print(EpisodeSampler(images, 2, protocol=protocol, seed=7).draw(30))
"""


def test_the_same_seed_gives_the_same_episodes_in_every_process():
    answers = set()
    for hash_seed in ("0", "1"):  # Python's own hashes differ between processes
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", PROCESS], capture_output=True, text=True, env=environment, check=True
        )
        answers.add(done.stdout)
    assert len(answers) == 1 and "zebra" in answers.pop()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_same_seed_gives_the_same_episodes_for_any_number_of_workers(workers):
    episodes = EpisodeSampler({"zebra": range(9), "horse": range(20, 40)}, 2, seed=7).draw(30)
    loaded = list(DataLoader(episodes, batch_size=None, num_workers=workers))
    assert loaded == episodes


# --- episodes of a fold ----------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(0, 3), st.integers(0, 5))
def test_test_episodes(n_train, n_test, shots, index, seed):
    fold = fold_with(n_train, n_test, index)
    episodes = make_test_episodes(fold, fold.novel, shots, None, seed)
    assert len({(e.class_name, e.query_id) for e in episodes}) == len(episodes) == 5 * n_test
    for e in episodes:
        assert e.query_id in fold.test_images[e.class_name] and e.query_id not in e.support_ids
        assert set(e.support_ids) <= set(fold.train_images[e.class_name])
        assert len(set(e.support_ids)) == len(e.support_ids) == min(shots, n_train)


@given(st.integers(1, 40), st.integers(0, 5))
def test_a_limit_keeps_the_first_and_serves_classes_in_turn(limit, seed):
    fold = fold_with(5, 8)
    everything = make_test_episodes(fold, fold.novel, 2, None, seed)
    some = make_test_episodes(fold, fold.novel, 2, limit, seed)
    assert some == everything[:limit]
    counts = [sum(e.class_name == c for e in some) for c in fold.novel]
    assert max(counts) - min(counts) <= 1


def test_a_class_without_supports_is_left_out():
    fold = fold_with(3, 3)
    fold = replace(fold, train_images=dict(fold.train_images) | {"giraffe": ()})
    assert "giraffe" not in {e.class_name for e in make_test_episodes(fold, fold.novel, 2, None, 0)}


@given(st.integers(2, 6), st.integers(0, 9))
def test_training_episodes_use_classes_not_held_out_and_two_images(n_train, seed):
    fold = replace(fold_with(n_train, 1), validation=("horse", "apple"))
    episodes = training_episodes(fold, 26, seed)
    assert episodes == training_episodes(fold, 26, seed)
    assert {e.class_name for e in episodes} == set(fold.base) - {"horse", "apple"}
    for e in episodes:
        assert e.query_id != e.support_ids[0]
        assert {e.query_id, *e.support_ids} <= set(fold.train_images[e.class_name])


def test_nothing_to_train_on():
    with pytest.raises(LlafsError, match="no episode can be drawn: horse: 1 images to ask about, 1 to show: left out"):
        training_episodes(fold_with(1, 1), 5, 0)
