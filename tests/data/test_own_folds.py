"""Folds made of one's own images: which are trained and tested on, and how a run finds them again."""

import json
import os
import shutil
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_file import ODD_NAMES, draw_own

from llafs_lib.artifacts import RunFolder
from llafs_lib.data.folds import class_names, make_fold, open_dataset, open_fold, save_fold
from llafs_lib.data.halves import validation_images
from llafs_lib.errors import LlafsError
from llafs_lib.settings import Settings

THREE_EACH = [(c,) for c in ODD_NAMES for _ in range(3)]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return str(draw_own(tmp_path_factory.mktemp("own"), THREE_EACH))


def test_every_class_is_novel_once_and_every_fold_is_trained_and_asked(own):
    data = open_dataset(own)
    assert data.classes == ODD_NAMES == class_names(own) and data.benchmark.n_folds == 4
    folds = [make_fold(data, f) for f in range(4)]
    assert sorted(c for f in folds for c in f.novel) == sorted(ODD_NAMES)
    for fold in folds:
        assert all(len(fold.train_images[c]) == 2 and len(fold.test_images[c]) == 1 for c in ODD_NAMES)
    with pytest.raises(LlafsError, match="fold must be 0, 1, 2 or 3, not 4"):
        make_fold(data, 4)


def test_label_maps_of_both_halves_are_those_of_the_whole(own):
    data = open_dataset(own)
    assert not set(data.train.image_ids) & set(data.val.image_ids) and len(data.train) + len(data.val) == 15
    for split in (data.train, data.val):
        for i, row in zip(split.image_ids, split.pixels, strict=True):
            assert [split.mask(i, c).sum() for c in data.classes] == row.tolist() and split.image(i).shape[2] == 3
    with pytest.raises(LlafsError, match="not listed"):
        data.train.mask(data.val.image_ids[0], data.classes[0])


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        ([("hen",)] * 5, "objects.json has one class, 'hen', and no fold.*Annotate a second class"),
        ([("hen",), ("pony",)], "no class has an image to train on and one to test on .hen 1 . 0, pony 1 . 0"),
        ([("hen",), ("hen",), ("pony",), ("pony",)], "too small, because no class to train on has two training images"),
        ([("hen",)] * 3 + [("pony",)], r"two training images \(pony\). Annotate more images: .* and one to test on\.$"),
    ],
)
def test_too_few_to_make_a_fold_of(tmp_path, shown, message):
    with pytest.raises(LlafsError, match=message):
        make_fold(open_dataset(str(draw_own(tmp_path, shown))), 0)


def test_a_class_with_one_image_takes_no_fold_of_its_own(tmp_path):
    shown = [("owl",), *((c,) for c in ("hen", "pony") for _ in range(3))]
    data = open_dataset(str(draw_own(tmp_path, shown)))
    assert data.benchmark.n_folds == 2 and [make_fold(data, f).novel for f in (0, 1)] == [("hen", "owl"), ("pony",)]
    with pytest.raises(LlafsError, match="fill only 2 folds, so fold must be 0 or 1, not 2"):
        make_fold(data, 2)


def test_the_least_object_is_a_share_of_its_image(tmp_path):
    path = str(draw_own(tmp_path, [("hen", "pony")] * 4, size=(60, 40)))
    data = open_dataset(path)
    share = data.train.pixels / data.train.areas()[:, None]  # [images, classes]
    assert 0.2 < share.min() and data.train.pixels.max() < 2048, "as pixels of a benchmark none would count"
    assert len(data.listed(data.train)["hen"]) == len(data.train)
    with pytest.raises(LlafsError, match=r"counts from 90.00% of its image on.*lower min_area"):
        open_dataset(path, min_area=0.9)


@given(st.lists(st.frozensets(st.sampled_from("abcdef"), max_size=3), min_size=1, max_size=25))
def test_every_class_of_two_images_is_tested_and_trained_where_it_can_be(sets):
    shown = {7 * n: tuple(sorted(names)) for n, names in enumerate(sets)}
    tested = validation_images(shown)
    assert tested == validation_images(dict(reversed(shown.items()))), "whatever the order of the file"
    count, left = (Counter(c for i in ids for c in shown[i]) for ids in (shown, set(shown) - set(tested)))
    assert all(left[c] for c in count), "no class is without a training image"
    for c in count:
        others = {d for i in shown if c in shown[i] for d in shown[i]}
        if count[c] > 1 and others == {c}:  # nothing else stands in its way
            assert any(c in shown[i] for i in tested)


def test_a_fifth_of_many_images_is_tested_on():
    assert len(validation_images({n: ("hen", "pony")[n % 2 :] for n in range(100)})) == 20


# --- a second file ---------------------------------------------------------------------------------------------------


def test_a_second_file_is_tested_on_in_the_classes_of_the_first(tmp_path):
    train = draw_own(tmp_path, [(c,) for c in ("hen", "pony", "ewe") for _ in range(3)])
    val = draw_own(tmp_path, [("ewe",), ("cat", "pony"), ("hen",)], file="val.json", seed=1)
    data = open_dataset(str(train), val=str(val))
    assert data.val.classes == ("hen", "pony", "ewe") and len(data.train) == 9 and len(data.val) == 3
    assert not set(data.train.image_ids) & set(data.val.image_ids), "though both files count from 1"
    assert [[c for c in data.classes if data.val.mask(i, c).any()] for i in data.val.image_ids] == [
        ["ewe"], ["pony"], ["hen"],
    ]  # fmt: skip
    assert all((data.val.label_map(i) <= 3).all() for i in data.val.image_ids), "a cat is background"
    with pytest.raises(LlafsError, match="9 images are both trained and tested on"):
        open_dataset(str(train), val=str(train))


# --- a run finds its data again ---------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    path = draw_own(tmp_path / "here", THREE_EACH)
    settings = Settings(dataset=str(path), runs=str(tmp_path / "runs"))
    data = open_dataset(settings.dataset)
    save_fold(settings.run, make_fold(data, 0), data)
    return path, settings.run


def test_a_run_knows_where_its_data_lie(run):
    path, folder = run
    data, fold = open_fold(RunFolder.at(folder.path))
    assert fold == make_fold(data, 0) and fold.dataset == data.name == folder.dataset
    made = folder.manifest("folds.json")["parameters"]
    assert made["annotations"] == str(path) and made["data"] == data.fingerprint


def test_data_that_moved_are_named_and_may_be_given(run, tmp_path):
    path, folder = run
    shutil.move(path.parent, tmp_path / "there")
    with pytest.raises(LlafsError, match=r"here/objects.json .* is not there any more.*annotations=…"):
        open_fold(folder)
    data, fold = open_fold(folder, str(tmp_path / "there" / path.name))
    assert data.fingerprint == fold.fingerprint and data.name == fold.dataset


def test_data_that_changed_are_not_taken_for_those_of_the_run(run):
    path, folder = run
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[2, 2, 40, 2, 40, 40]]
    path.write_text(json.dumps(content))
    os.utime(path, (1, 1))
    with pytest.raises(LlafsError, match="was made with data=.*01_data_folds"):
        open_fold(folder)
