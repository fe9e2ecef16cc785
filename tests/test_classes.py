import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llafs_lib import classes
from llafs_lib.errors import LlafsError

VOCABULARIES = [classes.COCO_CLASSES, classes.PASCAL_CLASSES, classes.TOY_CLASSES]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_folds_are_disjoint_and_exhaustive(vocabulary):
    seen = []
    for fold in range(4):
        novel, base = classes.novel_classes(vocabulary, fold), classes.base_classes(vocabulary, fold)
        assert not set(novel) & set(base)
        assert set(novel) | set(base) == set(vocabulary)
        seen += novel
    assert sorted(seen) == sorted(vocabulary)


def test_coco_ids_names_and_folds_equal_the_official_lists(reference):
    official = json.loads((reference / "coco20i_counts.json").read_text())
    assert list(classes.COCO_IDS.values()) == official["category_ids_by_index"]
    theirs = [classes.find_class(name, classes.COCO_CLASSES) for name in official["names_by_index"]]
    assert theirs == list(classes.COCO_CLASSES)


def test_each_toy_family_has_one_novel_member_per_fold():
    for fold in range(4):
        novel = classes.novel_classes(classes.TOY_CLASSES, fold)
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


def test_impossible_fold():
    with pytest.raises(LlafsError, match="0, 1, 2 or 3"):
        classes.novel_classes(classes.COCO_CLASSES, 4)


@given(st.text(max_size=40))
def test_find_class_returns_a_class_or_none(name):
    assert classes.find_class(name, classes.COCO_CLASSES) in (*classes.COCO_CLASSES, None)


@given(st.text(max_size=40))
def test_normalise_is_idempotent(name):
    once = classes.normalise(name)
    assert classes.normalise(once) == once
