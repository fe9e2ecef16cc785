"""Folds of drawn and of made-up data sets: what may be trained on, what is asked about."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from llafs_lib.artifacts import RunFolder
from llafs_lib.classes import DATASETS, TOY_CLASSES
from llafs_lib.data import folds
from llafs_lib.data.coco import CocoSplit
from llafs_lib.data.folds import DataSet, images_with, load_fold, make_fold, save_fold, training_labels
from llafs_lib.data.toy.dataset import make_toy
from llafs_lib.errors import LlafsError


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(folds, "make_toy", lambda out: make_toy(out, n_train=60, n_val=40))
        yield folds.open_dataset("toy")


@pytest.mark.parametrize("index", range(4))
def test_what_is_trained_on_and_what_is_asked_about_share_nothing(toy, index):
    fold = make_fold(toy, index)
    assert not set(fold.training) & set(fold.validation) and set(fold.training) | set(fold.validation) == set(fold.base)
    assert not set(fold.base) & set(fold.novel) and set(fold.base) | set(fold.novel) == set(toy.classes)
    train = {i for ids in fold.train_images.values() for i in ids}
    assert not train & {i for ids in fold.test_images.values() for i in ids}


def test_the_classes_that_a_training_image_is_listed_for(toy):
    fold = make_fold(toy, 0)
    wanted = {i: tuple(c for c in fold.base if i in fold.train_images[c]) for i in toy.train.image_ids}
    assert list(fold.shown(fold.base).items()) == [(i, classes) for i, classes in wanted.items() if classes]


def test_nothing_need_be_held_out(toy):
    fold = make_fold(toy, 0, hold_out=False)
    assert fold.validation == () and fold.training == fold.base


def test_novel_objects_in_training_images(toy):
    kept, ignored, dropped = (make_fold(toy, 0, how) for how in ("background", "ignore", "drop"))
    assert kept.train_images == ignored.train_images
    with_novel = set(images_with(toy.train, kept.novel, min_pixels=1))
    assert with_novel
    for name in toy.classes:
        before, after = set(kept.train_images[name]), set(dropped.train_images[name])
        assert after == (before - with_novel if name in kept.base else before)
    assert len({kept.digest, ignored.digest, dropped.digest, make_fold(toy, 0, hold_out=False).digest}) == 4
    assert make_fold(toy, 0).digest == kept.digest


def test_training_never_sees_a_novel_or_a_held_out_class(toy):
    fold = make_fold(toy, 0)
    labels = np.array([[0, 255, *range(1, 21)]], np.uint8)
    shown = training_labels(labels, toy.classes, fold)
    hidden = {toy.classes.index(c) + 1 for c in (*fold.novel, *fold.validation)}
    assert shown.tolist() == [[0 if v in hidden else v for v in labels[0]]]
    ignoring = training_labels(labels, toy.classes, replace(fold, novel_in_train="ignore"))
    assert ignoring.tolist() == [[255 if v in hidden else v for v in labels[0]]]
    many = (*toy.classes, *(f"class {i}" for i in range(300)))
    wide = training_labels(np.array([[0, 65535, 1, 255, 320]], np.uint16), many, replace(fold, novel_in_train="ignore"))
    assert wide.tolist() == [[0, 65535, 65535, 255, 320]]  # the first class is novel


@pytest.mark.parametrize(("arguments", "message"), [((4,), "fold must be"), ((0, "hide"), "background, ignore, drop")])
def test_impossible_folds(toy, arguments, message):
    with pytest.raises(LlafsError, match=message):
        make_fold(toy, *arguments)


def test_an_empty_fold(tmp_path):
    (tmp_path / "p").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "p" / "1.jpg")
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 40, "height": 30}],
        "annotations": [],
        "categories": [{"id": i, "name": n} for i, n in enumerate(TOY_CLASSES, 1)],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    split = CocoSplit(tmp_path / "p", tmp_path / "a.json", TOY_CLASSES)
    with pytest.raises(LlafsError, match="toy fold 2 is too small, because no class to train on has two"):
        make_fold(DataSet("toy", DATASETS["toy"], split, split), 2)


def test_a_fold_survives_its_file(toy, tmp_path):
    fold, run = make_fold(toy, 0, "drop"), RunFolder(tmp_path, "toy", 0)
    save_fold(run, fold, toy)
    assert load_fold(run, toy) == fold and load_fold(run, toy).digest == fold.digest
    with pytest.raises(LlafsError, match="01_data_folds"):
        load_fold(run, replace(toy, train=toy.val))
    assert "5 novel classes: giraffe" in str(fold) and "novel objects: drop" in str(fold)


def test_both_benchmarks_on_the_same_photographs(photographs, monkeypatch):
    """The contiguous blocks change which classes are novel, not which image shows what."""
    monkeypatch.setenv("LLAFS_DATA", str(photographs))
    ours, theirs = (make_fold(folds.open_dataset(name), 1) for name in ("coco-mini", "coco-blocks-2017"))
    assert ours.train_images == theirs.train_images and ours.test_images == theirs.test_images
    assert ours.novel != theirs.novel and theirs.novel == DATASETS["coco-mini"].classes[20:40]
