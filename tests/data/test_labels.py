"""The cache of label maps: never stale, never half."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from damage import DAMAGES
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from llafs_lib.data import labels
from llafs_lib.data.labels import Painted, label_type, open_labels, void_of
from llafs_lib.errors import LlafsError

CLASSES = ("zebra", "horse")


class Painter:
    """Paints one image and counts how often it is asked to."""

    def __init__(self, value=1):
        self.calls, self.value = 0, value

    def __call__(self, skipped):
        self.calls += 1
        skipped.add("an object without any outline", "annotation 5")
        skipped.add("an object without any outline", "annotation 6")
        yield Painted(3, "3.jpg", np.full((4, 5), self.value, np.uint8))


@pytest.fixture
def source(tmp_path):
    (tmp_path / "a.json").write_text("one")
    return tmp_path / "a.json"


def test_label_maps_are_painted_once(source, tmp_path):
    painter = Painter()
    first = open_labels("train", [source], CLASSES, painter, tmp_path / "cache")
    again = open_labels("train", [source], CLASSES, painter, tmp_path / "cache")
    assert painter.calls == 1
    for store in (first, again):
        assert store.image_ids == (3,) and 3 in store and 4 not in store
        assert store.size(3) == (4, 5) and (store.label_map(3) == 1).all() and store.label_map(3).shape == (4, 5)
        assert store.pixels.tolist() == [[20, 0]] and store.files == {3: "3.jpg"}
        assert store.skipped == ("2 × an object without any outline, the first in annotation 5",)
    assert first.fingerprint == again.fingerprint


def changed_bytes(source, patch):
    source.write_text("another size")


def changed_time(source, patch):
    os.utime(source, ns=(1, 1))


def changed_rule(source, patch):
    patch.setattr(labels, "RULE_VERSION", 99)


@pytest.mark.parametrize("change", [changed_bytes, changed_time, changed_rule])
def test_a_cache_is_made_anew_when_its_cause_changes(source, tmp_path, monkeypatch, change):
    old = open_labels("train", [source], CLASSES, Painter(), tmp_path / "cache")
    change(source, monkeypatch)
    new = open_labels("train", [source], CLASSES, Painter(value=2), tmp_path / "cache")
    assert (new.label_map(3) == 2).all() and new.fingerprint != old.fingerprint
    assert len(list((tmp_path / "cache").iterdir())) == 1  # the outdated one is gone


def test_other_classes_have_a_cache_of_their_own(source, tmp_path):
    painter = Painter()
    for classes in (CLASSES, CLASSES[::-1]):
        open_labels("train", [source], classes, painter, tmp_path / "cache")
    assert painter.calls == 2


def test_an_interrupted_painter_leaves_nothing(source, tmp_path):
    def interrupted(skipped):
        yield Painted(1, "1.jpg", np.zeros((4, 5), np.uint8))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_labels("train", [source], CLASSES, interrupted, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_that_cannot_be_written(source, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(LlafsError, match="the cache of label maps, .*, cannot be written"):
        open_labels("train", [source], CLASSES, Painter(), tmp_path / "cache")


@pytest.mark.parametrize("damage", list(DAMAGES))
@pytest.mark.parametrize("part", ["", "labels.bin", "index.npz", "about.json"])
def test_a_damaged_cache_is_painted_anew(source, tmp_path, part, damage):
    painter = Painter()
    whole = open_labels("train", [source], CLASSES, painter, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    DAMAGES[damage](folder / part if part else folder)
    again = open_labels("train", [source], CLASSES, painter, tmp_path / "cache")
    assert painter.calls == 2 and again.fingerprint == whole.fingerprint and again.skipped == whole.skipped
    assert (again.label_map(3) == 1).all() and again.pixels.tolist() == whole.pixels.tolist()


def test_the_cache_of_other_label_maps_in_its_place_is_not_used(source, tmp_path):
    for name, value in (("train", 1), ("val", 2)):
        open_labels(name, [source], CLASSES, Painter(value), tmp_path / "cache")
    ours, theirs = sorted((tmp_path / "cache").iterdir())
    shutil.copyfile(theirs / "labels.bin", ours / "labels.bin")
    again = open_labels("train", [source], CLASSES, Painter(), tmp_path / "cache")
    assert (again.label_map(3) == 1).all()


def test_another_process_may_be_faster(source, tmp_path):
    others = []

    def overtaken(skipped):
        with ThreadPoolExecutor(1) as other:
            others.append(other.submit(open_labels, "train", [source], CLASSES, Painter(), tmp_path / "cache").result())
        yield from Painter()(skipped)

    ours = open_labels("train", [source], CLASSES, overtaken, tmp_path / "cache")
    assert ours.fingerprint == others[0].fingerprint and (ours.label_map(3) == 1).all()
    assert len(list((tmp_path / "cache").iterdir())) == 1


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=30), elements=st.integers(0, 2)))
def test_any_label_map_survives(tmp_path_factory, label_map):
    folder = tmp_path_factory.mktemp("labels")
    (folder / "a.json").write_text("")
    painted = [Painted(7, "7.jpg", label_map)]
    store = open_labels("val", [folder / "a.json"], CLASSES, lambda skipped: painted, folder / "cache")
    assert np.array_equal(store.label_map(7), label_map)
    assert store.pixels.tolist() == [[(label_map == 1).sum(), (label_map == 2).sum()]]


@given(
    st.sampled_from([254, 255, 300]).flatmap(
        lambda n: st.tuples(
            st.just(n),
            arrays.arrays(
                label_type(n),
                arrays.array_shapes(min_dims=2, max_dims=2, max_side=20),
                elements=st.integers(0, n) | st.just(void_of(np.zeros(1, label_type(n)))),
            ),
        )
    )
)
def test_classes_beyond_a_byte_survive_beside_void(tmp_path_factory, drawn):
    n, label_map = drawn
    folder = tmp_path_factory.mktemp("labels")
    (folder / "a.json").write_text("")
    painted, classes = [Painted(7, "7.jpg", label_map)], tuple(map(str, range(n)))
    store = open_labels("val", [folder / "a.json"], classes, lambda skipped: painted, folder / "cache")
    assert np.array_equal(store.label_map(7), label_map) and store.label_map(7).dtype == label_map.dtype
    assert store.pixels[0].tolist() == [(label_map == value).sum() for value in range(1, n + 1)]


def test_too_many_classes():
    assert label_type(254) == np.uint8 and label_type(255) == label_type(65_534) == np.uint16
    with pytest.raises(LlafsError, match="65,535 classes are too many"):
        label_type(65_535)


def test_what_else_decides_the_label_maps(source, tmp_path):
    painter = Painter()
    for also in (None, ["1.jpg"], ["1.jpg"], ["2.jpg"]):
        open_labels("train", [source], CLASSES, painter, tmp_path / "cache", also=also)
    assert painter.calls == 3
