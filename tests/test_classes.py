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
        novel, base = classes.DATASETS[dataset].novel(fold), classes.DATASETS[dataset].base(fold)
        assert not set(novel) & set(base)
        assert set(novel) | set(base) == set(vocabulary)
        seen += novel
    assert sorted(seen) == sorted(vocabulary)


@pytest.mark.parametrize("dataset", classes.DATASETS)
def test_validation_classes_are_base_classes(dataset):
    for fold in range(4):
        held_out = classes.DATASETS[dataset].validation(fold)
        assert set(held_out) < set(classes.DATASETS[dataset].base(fold))
        assert len(held_out) == (5 if len(classes.DATASETS[dataset].classes) == 80 else 2)


def test_the_two_benchmarks_that_share_a_name_differ():
    assert classes.DATASETS["coco-20i"].novel(0)[:3] == ("person", "airplane", "boat")
    assert classes.DATASETS["coco-blocks"].novel(0)[:3] == ("person", "bicycle", "car")
    assert classes.DATASETS["pascal-5i"].novel(1) == ("bus", "car", "cat", "chair", "cow")


def test_coco_ids_names_and_folds_equal_the_official_lists(reference):
    official = json.loads((reference / "coco20i_counts.json").read_text())
    assert list(classes.COCO_IDS.values()) == official["category_ids_by_index"]
    theirs = [classes.find_class(name, classes.COCO_CLASSES) for name in official["names_by_index"]]
    assert theirs == list(classes.COCO_CLASSES)
    for fold, listed in official["folds"].items():
        names = [classes.COCO_CLASSES[int(index)] for index in listed]
        assert names == list(classes.DATASETS["coco-20i"].novel(int(fold)))
        for index, facts in listed.items():
            name = classes.COCO_CLASSES[int(index)]
            assert classes.COCO_IDS[name] == facts["coco_id"] and classes.find_class(facts["name"], (name,)) == name


def test_each_toy_family_has_one_novel_member_per_fold():
    for fold in range(4):
        novel = classes.DATASETS["toy"].novel(fold)
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
        classes.DATASETS["coco-20i"].novel(4)


NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=30, unique=True)


@given(NAMES, st.sampled_from(["interleaved", "blocks"]), st.data())
def test_any_classes_fill_folds_in_which_each_is_novel_once(names, way, data):
    askable = data.draw(st.none() | st.lists(st.sampled_from(names), unique=True))
    benchmark = classes.Benchmark(tuple(names), way, None if askable is None else tuple(askable))
    folds = range(benchmark.n_folds)
    assert len(folds) == min(4, max(2, len(names if askable is None else askable)))
    assert sorted(c for f in folds for c in benchmark.novel(f)) == sorted(names)
    for f in folds:
        novel, base, held_out = benchmark.novel(f), benchmark.base(f), benchmark.validation(f)
        assert novel and base and set(novel) | set(base) == set(names) and not set(novel) & set(base)
        assert set(held_out) < set(base) and len(set(base) - set(held_out)) >= min(len(base), 3)
        if way == "interleaved" and askable and len(askable) > 1:
            assert set(novel) & set(askable), "every fold has a class to ask about"


@pytest.mark.parametrize(("n", "known"), [(2, "only 2 folds, so fold must be 0 or 1"), (3, "must be 0, 1 or 2, not 7")])
def test_fewer_classes_than_four_say_how_many_folds_they_fill(n, known):
    with pytest.raises(LlafsError, match=known):
        classes.Benchmark(("hen", "pony", "ewe")[:n]).novel(7)


def test_one_class_makes_no_fold():
    with pytest.raises(LlafsError, match="'hen'. makes no fold.*annotate a second class"):
        classes.Benchmark(("hen",)).novel(0)


def test_blocks_of_ten_classes_leave_none_out():
    benchmark = classes.Benchmark(tuple("abcdefghij"), "blocks")
    assert ["".join(benchmark.novel(f)) for f in range(4)] == ["abc", "de", "fgh", "ij"]


@given(st.text(max_size=40))
def test_find_class_returns_a_class_or_none(name):
    assert classes.find_class(name, classes.COCO_CLASSES) in (*classes.COCO_CLASSES, None)


@given(st.text(max_size=40))
def test_normalise_is_idempotent(name):
    once = classes.normalise(name)
    assert classes.normalise(once) == once
