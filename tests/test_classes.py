import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llafs_lib import classes
from llafs_lib.errors import LlafsError

VOCABULARIES = [classes.COCO_CLASSES, classes.PASCAL_CLASSES, classes.TOY_CLASSES]


@pytest.mark.parametrize("dataset", classes.DATASETS)
def test_folds_are_disjoint_and_exhaustive(dataset):
    vocabulary, seen = classes.DATASETS[dataset].classes, []
    for fold in range(4):
        novel, base = classes.novel_classes(dataset, fold), classes.base_classes(dataset, fold)
        assert not set(novel) & set(base)
        assert set(novel) | set(base) == set(vocabulary)
        seen += novel
    assert sorted(seen) == sorted(vocabulary)


@pytest.mark.parametrize("dataset", classes.DATASETS)
def test_validation_classes_are_base_classes(dataset):
    for fold in range(4):
        held_out = classes.validation_classes(dataset, fold)
        assert set(held_out) < set(classes.base_classes(dataset, fold))
        assert len(held_out) == (5 if len(classes.DATASETS[dataset].classes) == 80 else 2)


def test_the_two_benchmarks_that_share_a_name_differ():
    assert classes.novel_classes("coco-20i", 0)[:3] == ("person", "airplane", "boat")
    assert classes.novel_classes("coco-blocks", 0)[:3] == ("person", "bicycle", "car")
    assert classes.novel_classes("pascal-5i", 1) == ("bus", "car", "cat", "chair", "cow")


def test_coco_ids_names_and_folds_equal_the_official_lists(reference):
    official = json.loads((reference / "coco20i_counts.json").read_text())
    assert list(classes.COCO_IDS.values()) == official["category_ids_by_index"]
    theirs = [classes.find_class(name, classes.COCO_CLASSES) for name in official["names_by_index"]]
    assert theirs == list(classes.COCO_CLASSES)
    for fold, listed in official["folds"].items():
        names = [classes.COCO_CLASSES[int(index)] for index in listed]
        assert names == list(classes.novel_classes("coco-20i", int(fold)))
        for index, facts in listed.items():
            name = classes.COCO_CLASSES[int(index)]
            assert classes.COCO_IDS[name] == facts["coco_id"] and classes.find_class(facts["name"], (name,)) == name


def test_each_toy_family_has_one_novel_member_per_fold():
    for fold in range(4):
        novel = classes.novel_classes("toy", fold)
        assert [sum(c in family for c in novel) for family in classes.TOY_FAMILIES.values()] == [1] * 5
    assert set(classes.TOY_CLASSES) <= set(classes.COCO_CLASSES)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("Sofa", "couch"), ("aeroplane", "airplane"), ("TV-monitor", "tv"), ("cell_phone", "cell phone"), ("cow", "cow")],
)
def test_aliases(written, meant):
    assert classes.find_class(written, classes.COCO_CLASSES) == meant


def test_aliases_work_towards_pascal_too():
    assert classes.find_class("couch", classes.PASCAL_CLASSES) == "sofa"
    assert classes.find_class("dining table", classes.PASCAL_CLASSES) == "diningtable"


def test_unknown_name_suggests_the_closest():
    assert classes.did_you_mean("girafe", classes.COCO_CLASSES) == " Did you mean 'giraffe'?"
    assert classes.did_you_mean("okapi", classes.COCO_CLASSES) == ""
    assert classes.did_you_mean("coco_mini", classes.DATASETS) == " Did you mean 'coco-mini'?"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("okapi", ["okapi"]),
        (" okapi, sea lion ,", ["okapi", "sea lion"]),
        ('"salt, pepper",lion', ["salt, pepper", "lion"]),
        ('lion, "salt, pepper"=.5', ["lion", "salt, pepper=.5"]),
        ('"a ""quoted"" word"', ['a "quoted" word']),
        ('5" nail', ['5" nail']),
        ("", []),
        (" , ", []),
        ("a\nb", None),
    ],
)
def test_names_in_a_list(text, names):
    if names is None:
        with pytest.raises(LlafsError, match="no list of names: leave out the line break"):
            classes.split_names(text)
    else:
        assert classes.split_names(text) == names


def test_impossible_fold():
    with pytest.raises(LlafsError, match="0, 1, 2 or 3"):
        classes.novel_classes("coco-20i", 4)


@given(st.text(max_size=40))
def test_find_class_returns_a_class_or_none(name):
    assert classes.find_class(name, classes.COCO_CLASSES) in (*classes.COCO_CLASSES, None)


@given(st.text(max_size=40))
def test_normalise_is_idempotent(name):
    once = classes.normalise(name)
    assert classes.normalise(once) == once
