import pytest
from hypothesis import given
from hypothesis import strategies as st

from llafs_lib.artifacts import RunFolder, UnfitArtifactError
from llafs_lib.classes import TOY_CLASSES, base_classes, novel_classes
from llafs_lib.data.coco import DataError
from llafs_lib.data.episodes import test_episodes as make_test_episodes
from llafs_lib.data.episodes import training_episodes
from llafs_lib.data.folds import load_fold, save_fold
from llafs_lib.records import Fold


def fold_with(n_train, n_test, index=0):
    def images(n, offset):
        return {c: tuple(range(offset + 100 * i, offset + 100 * i + n)) for i, c in enumerate(TOY_CLASSES)}

    return Fold(
        "toy", index, base_classes(TOY_CLASSES, index), novel_classes(TOY_CLASSES, index),
        images(n_train, 0), images(n_test, 100_000),
    )  # fmt: skip


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
    fold = Fold(fold.dataset, 0, fold.base, fold.novel, dict(fold.train_images) | {"giraffe": ()}, fold.test_images)
    assert "giraffe" not in {e.class_name for e in make_test_episodes(fold, fold.novel, 2, None, 0)}


@given(st.integers(2, 6), st.integers(0, 9))
def test_training_episodes_use_base_classes_and_two_pictures(n_train, seed):
    fold = fold_with(n_train, 1)
    episodes = training_episodes(fold, 20, seed)
    assert episodes == training_episodes(fold, 20, seed)
    for e in episodes:
        assert e.class_name in fold.base and e.query_id != e.support_ids[0]
        assert {e.query_id, *e.support_ids} <= set(fold.train_images[e.class_name])


def test_nothing_to_train_on():
    with pytest.raises(DataError, match="no base class of toy fold 0 has two training pictures"):
        training_episodes(fold_with(1, 1), 5, 0)


class FakeDataSet:
    fingerprint = "abc"


def test_a_fold_survives_its_file(tmp_path):
    fold, run = fold_with(3, 2), RunFolder(tmp_path, "toy", 0)
    save_fold(run, fold, FakeDataSet())
    assert load_fold(run, FakeDataSet()) == fold
    changed = FakeDataSet()
    changed.fingerprint = "def"
    with pytest.raises(UnfitArtifactError, match="01_data_folds"):
        load_fold(run, changed)
    assert "5 novel classes: giraffe" in str(fold)
