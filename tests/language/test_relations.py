import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llafs_lib.artifacts import RunFolder
from llafs_lib.classes import COCO_CLASSES, PASCAL_CLASSES, TOY_CLASSES, find_class
from llafs_lib.errors import LlafsError
from llafs_lib.language.asking import Asker
from llafs_lib.language.relations import (
    SIMILARITY_FILE,
    WORD_MODEL,
    by_supercategory,
    by_text,
    load_related,
    merge_by_mean_rank,
    relation_matrix,
    save_related,
    shuffled,
    word_similarity,
)
from llafs_lib.records import Call, RelatedClass, RelatedClasses


def answer(name, *ranked, **more):
    return RelatedClasses(name, tuple(RelatedClass(c, s) for c, s in ranked), "recorded", "a test", **more)


# --- super-categories ------------------------------------------------------------------------------------------------


def test_supercategories():
    assert by_supercategory("giraffe", TOY_CLASSES).names == ("horse", "zebra", "cow")
    assert by_supercategory("sofa", COCO_CLASSES).names == ("chair", "potted plant", "bed", "dining table", "toilet")
    assert by_supercategory("sofa", PASCAL_CLASSES).names == ("chair", "diningtable", "pottedplant")
    assert by_supercategory("person", COCO_CLASSES).names == ()
    unknown = by_supercategory("okapi", COCO_CLASSES)
    assert unknown.names == () and "no COCO class" in unknown.notes[0]


# --- words -----------------------------------------------------------------------------------------------------------


def test_the_shipped_table_equals_the_reference(reference):
    stored = json.loads((reference / "text_similarity_minilm.json").read_text(encoding="utf-8"))
    table, names = word_similarity(), stored["names"]
    assert list(table) == names
    ours = [[table[a].get(b, 1.0) for b in names] for a in names]  # a name has no cosine with itself in the table
    np.testing.assert_array_equal(ours, stored["similarity"])


def test_the_words_model_is_the_one_that_the_file_names():
    assert json.loads(SIMILARITY_FILE.read_text(encoding="utf-8"))["model"] == WORD_MODEL


@pytest.mark.parametrize("vocabulary", [COCO_CLASSES, PASCAL_CLASSES], ids=["coco", "pascal"])
def test_every_class_has_a_text_relation(vocabulary):
    for name in vocabulary:
        related = by_text(name, vocabulary)
        assert len(related.names) == 8 and not related.notes and related.source == "text"
        assert set(related.names) <= set(vocabulary) - {name}
        scores = list(related.scores.values())
        assert scores == sorted(scores, reverse=True) and 0 < scores[-1] <= scores[0] <= 1


def test_words_mislead():
    assert by_text("hot dog", COCO_CLASSES).names[0] == "dog"
    assert "sandwich" not in by_text("hot dog", COCO_CLASSES, most=3).names


def test_a_name_without_an_embedding():
    related = by_text("okapi", COCO_CLASSES)
    assert related.ranked == () and "no embedding of 'okapi'" in related.notes[0]


def test_the_last_words_of_a_name_say_what_the_thing_is():
    farm = ("pony", "milk cow", "brown bear", "claw hammer", "hammer", "茶碗")
    assert by_text("barn cat", farm).scores == {c: by_text("cat", (c,)).scores[c] for c in ("milk cow", "brown bear")}
    assert by_text("milk cow", ("cow", "milk cow")).scores == {"cow": 1.0}, "and never the class itself"
    assert by_text("sledge hammer", farm).names == ("hammer", "claw hammer"), "no embedding, but a common word"
    for name in ("茶碗", "phone", "<b>$1</b>"):
        assert by_text(name, ("ponny", "horsey")).ranked == () or name == "phone"


# --- the wrong list --------------------------------------------------------------------------------------------------


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_nobody_keeps_its_own_answer(n, seed):
    names = COCO_CLASSES[:n]
    related = {c: answer(c, *((o, 0.5) for o in names if o != c)) for c in names}
    marked = {c: answer(c, ("tv", 0.1 + i / 100)) for i, c in enumerate(names)}
    for original in (related, marked):
        dealt = shuffled(original, seed)
        assert list(dealt) == list(names)
        for name, got in dealt.items():
            assert got.query_class == name and name not in got.names and got.source == "shuffled"
            assert f"about {name!r}" not in got.provenance
    givers = [got.scores["tv"] for got in shuffled(marked, seed).values()]
    assert sorted(givers) == sorted(a.scores["tv"] for a in marked.values()), "each answer is dealt once"
    assert shuffled(related, seed) == shuffled(related, seed)


def test_one_class_alone_cannot_be_shuffled():
    with pytest.raises(LlafsError, match="at least two"):
        shuffled({"cat": answer("cat", ("dog", 1.0))})


# --- several samples -------------------------------------------------------------------------------------------------


def test_samples_are_merged_by_mean_rank():
    first = answer("cat", ("dog", 0.9), ("bear", 0.8), ("cow", 0.2), calls=(Call("m", 1, 2, True),))
    second = answer("cat", ("bear", 1.0), ("dog", 0.5), notes=("cut off",))
    third = answer("cat", ("bear", 0.6))
    merged = merge_by_mean_rank([first, second, third])
    assert merged.names == ("bear", "dog", "cow")  # mean ranks 4/3, 5/3, 8/3
    assert merged.scores == pytest.approx({"bear": 0.8, "dog": 1.4 / 3, "cow": 0.2 / 3})
    assert merged.calls == first.calls and merged.notes == ("cut off",) and "3 samples" in merged.provenance


RANKED = st.lists(st.sampled_from(COCO_CLASSES), unique=True, max_size=6).map(
    lambda names: answer("okapi", *((c, 1 - i / 10) for i, c in enumerate(names)))
)


@given(RANKED, st.integers(1, 4))
def test_merging_copies_changes_nothing(sample, n):
    merged = merge_by_mean_rank([sample] * n)
    assert merged.names == sample.names and merged.scores == pytest.approx(sample.scores)


@given(st.lists(RANKED, min_size=1, max_size=4))
def test_a_merged_answer_names_what_its_samples_name(samples):
    merged = merge_by_mean_rank(samples)
    assert sorted(merged.names) == sorted({n for s in samples for n in s.names})
    assert all(0 <= score <= 1 for score in merged.scores.values())
    assert merged.ranked == merge_by_mean_rank(samples).ranked


def test_answers_about_two_classes_are_not_merged():
    with pytest.raises(LlafsError, match="one and the same"):
        merge_by_mean_rank([answer("cat"), answer("dog")])


# --- matrix and file -------------------------------------------------------------------------------------------------


def test_the_matrix_holds_the_scores():
    related = Asker().related_to_each(("giraffe", "couch"), COCO_CLASSES)
    matrix = relation_matrix(related, ("zebra", "giraffe", "chair"))
    np.testing.assert_array_equal(matrix, [[0.7, 0, 0], [0, 0, related["couch"].scores["chair"]]])
    assert relation_matrix({}, ("zebra",)).shape == (0, 1)
    everything = relation_matrix(Asker().related_to_each(COCO_CLASSES, COCO_CLASSES), COCO_CLASSES)
    assert everything.shape == (80, 80) and not everything.diagonal().any() and everything.any(axis=1).all()


def test_related_classes_are_read_back_as_written(tmp_path):
    run = RunFolder(tmp_path, "toy", 0)
    related = {
        "cat": answer("cat", ("dog", 0.5), notes=("cut off",), dropped=("fox: not in the list",)),
        "cup": answer("cup", calls=(Call("m", 10, None, True),), raw="[]"),
    }
    save_related(run, related, 0)
    assert load_related(run) == related


def test_a_class_of_either_naming_is_found():
    assert by_text("couch", PASCAL_CLASSES).names == by_text("sofa", PASCAL_CLASSES).names
    assert find_class("aeroplane", COCO_CLASSES) == "airplane"
