"""Label maps from annotation files: the painting rule, bad annotations, real photographs."""

import json
import ntpath
import os
import posixpath

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_tools
from pycocotools.coco import COCO

from llafs_lib.classes import COCO_CLASSES, COCO_IDS
from llafs_lib.data.coco import CocoSplit, check_fields
from llafs_lib.data.folds import open_dataset, source_files
from llafs_lib.data.outlines import EMPTY, decode, run_lengths
from llafs_lib.errors import LlafsError

SQUARE = [2.9, 2.9, 12.9, 2.9, 12.9, 12.9, 2.9, 12.9]  # cut to whole pixels: corners at 2 and 12
LATER = [8, 8, 18, 8, 18, 18, 8, 18]
IMAGE = {"id": 1, "file_name": "1.jpg", "width": 40, "height": 30}


def annotation(category, segmentation, **more):
    return {"id": 1 + more.pop("id", 0), "image_id": 1, "category_id": category, "segmentation": segmentation} | more


@pytest.fixture
def make_split(tmp_path):
    return lambda annotations, **more: split_of(tmp_path, annotations, **more)


def split_of(folder, annotations, categories=("zebra", "horse"), images=(IMAGE,)):
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", (40, 30)).save(folder / "images" / "1.jpg")
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate(categories)],
    }
    (folder / "a.json").write_text(json.dumps(content))
    return CocoSplit(folder / "images", folder / "a.json", ("zebra", "horse"))


# --- the painting rule (spec §3.3) -----------------------------------------------------------------------------------


def test_polygons_are_cut_to_whole_pixels_and_filled_with_their_outline(make_split):
    mask = make_split([annotation(1, [SQUARE])]).mask(1, "zebra")
    expected = np.zeros((30, 40), bool)
    expected[2:13, 2:13] = True
    assert np.array_equal(mask, expected)


def test_later_objects_lie_over_earlier_ones(make_split):
    split = make_split([annotation(1, [SQUARE]), annotation(2, [LATER], id=1)])
    labels = split.label_map(1)
    assert labels[5, 5] == 1 and labels[10, 10] == 2 and labels[0, 0] == 0
    assert not (split.mask(1, "zebra") & split.mask(1, "horse")).any()
    assert not split.void(1).any()


def test_crowds_and_unlisted_categories_are_left_out(make_split):
    crowd = {"size": [30, 40], "counts": [0, 1200]}
    split = make_split(
        [annotation(1, crowd, iscrowd=1), annotation(3, [SQUARE], id=1)], categories=("zebra", "horse", "person")
    )
    assert not split.label_map(1).any()
    (skipped,) = split.skipped  # a person is no fault: nobody asked for persons
    assert skipped.startswith("1 × a crowd annotation")


def test_uncompressed_run_lengths(make_split):
    split = make_split([annotation(2, {"size": [30, 40], "counts": [30, 60, 1110]}, iscrowd=0)])
    assert split.mask(1, "horse").sum() == 60 and split.mask(1, "horse")[:, 1:3].all()


def test_the_area_rule(make_split):
    split = make_split([annotation(1, [SQUARE])])
    assert split.pixels.tolist() == [[121, 0]]
    assert split.images_by_class(min_pixels=121)["zebra"] == (1,)
    assert split.images_by_class(min_pixels=122)["zebra"] == ()


polygons = st.lists(st.lists(st.floats(-20, 60), min_size=6, max_size=12).filter(lambda p: len(p) % 2 == 0), max_size=3)


@given(st.lists(st.tuples(st.integers(1, 2), polygons), max_size=4))
def test_masks_are_boolean_disjoint_and_of_the_images_size(tmp_path_factory, objects):
    split = split_of(tmp_path_factory.mktemp("s"), [annotation(c, p, id=i) for i, (c, p) in enumerate(objects)])
    masks = [split.mask(1, c) for c in split.classes]
    assert all(m.dtype == bool and m.shape == split.size(1) == (30, 40) for m in masks)
    assert not (masks[0] & masks[1]).any()
    assert [m.sum() for m in masks] == split.pixels[0].tolist()


# --- bad annotation files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (annotation(1, []), "an object without any outline"),
        (annotation(1, None), "an object without any outline"),
        (annotation(1, [[1, 2, 3]]), "a polygon that is not a list of x, y pairs"),
        (annotation(1, [[1, 2, float("nan"), 4]]), "a polygon that is not a list of x, y pairs"),
        (annotation(9, [SQUARE]), "an annotation of a category that is not listed"),
        (annotation(1, [SQUARE], image_id=5), "an annotation of an image that is not listed"),
    ],
)
def test_faulty_annotations_are_left_out_and_counted(make_split, fault, reason):
    good = annotation(2, [LATER], id=7)
    split = make_split([fault, good])
    assert split.mask(1, "horse").sum() == 121 and not split.mask(1, "zebra").any()
    assert split.skipped == (f"1 × {reason}, the first in annotation 1",)
    again = CocoSplit(split.folder, split.annotations, split.classes)
    assert again.skipped == split.skipped  # the cache remembers


def test_an_image_listed_twice(make_split):
    split = make_split([annotation(1, [SQUARE])], images=(IMAGE, IMAGE))
    assert len(split) == 1 and split.skipped == ("1 × an image listed twice, the first in image 1",)
    with pytest.raises(LlafsError, match="a.json lists image 1 twice, with different facts"):
        make_split([], images=(IMAGE, IMAGE | {"width": 41}))


@pytest.mark.parametrize("fault", [{"width": 0}, {"height": None}, {"height": "30"}, {"file_name": ""}])
def test_an_image_without_a_name_or_size(make_split, fault):
    with pytest.raises(LlafsError, match=r"a.json, entry 1 of 'images': '(width|height|file_name)' must be"):
        make_split([], images=(IMAGE | fault,))


@pytest.mark.parametrize("counts", [[30, 60], "no run lengths", 7])
def test_run_lengths_that_are_none(make_split, counts):
    with pytest.raises(LlafsError, match=r"a.json, annotation 1: (unreadable )?run lengths.* Correct"):
        make_split([annotation(1, {"size": [3, 30], "counts": counts})])


ODD = {
    "missing": ..., "null": None, "a word": "x", "a list": [1], "an object": {}, "NaN": float("nan"), "true": True,
    "negative": -1, "a share": 0.5, "huge": 10**23, "endless": float("inf"), "a long word": 9999 * "x",
}  # fmt: skip
FIELDS = [
    *(("images", field) for field in ("id", "file_name", "height", "width")),
    *(("annotations", field) for field in ("id", "image_id", "category_id", "segmentation", "iscrowd")),
    *(("categories", field) for field in ("id", "name")),
]
A_NAME, MAY_LACK = ("a word", "a long word"), ("missing", "null")


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(("part", "field"), FIELDS)
def test_an_odd_field_is_named_or_counted(tmp_path, part, field, odd):
    lists = {
        "images": [IMAGE, IMAGE | {"id": 2}],
        "annotations": [annotation(2, [SQUARE]), annotation(2, [LATER], id=1)],
        "categories": [{"id": 1, "name": "zebra"}, {"id": 2, "name": "horse"}],
    }
    lists[part][0] = {k: v for k, v in (lists[part][0] | {field: ODD[odd]}).items() if v is not ...}
    (tmp_path / "a.json").write_text(json.dumps(lists))
    fine = (field == "iscrowd" and odd in (*MAY_LACK, "true")) or (field in ("file_name", "name") and odd in A_NAME)
    try:
        split = CocoSplit(tmp_path, tmp_path / "a.json", ("horse",))
    except LlafsError as error:
        said = str(error)
        assert not fine and "a.json" in said and f"entry 1 of '{part}': '{field}' must be" in said and len(said) < 300
    else:
        assert fine or field == "segmentation" and "annotation 1" in "".join(split.skipped)
        left_out = field == "segmentation" or (field == "iscrowd" and odd == "true")
        assert split.pixels.tolist() == [[121 if left_out else 121 + 121 - 25], [0]]


@pytest.mark.parametrize("odd", [["a"] * 6, [["a"] * 6], [[1e300] * 6], [[2**70] * 6], [[[[1]]]], 7, "x", [None], [{}]])
def test_an_odd_outline_is_counted(make_split, odd):
    split = make_split([annotation(1, odd), annotation(2, [LATER], id=1)])
    assert split.mask(1, "horse").sum() == 121 and not split.mask(1, "zebra").any()
    assert split.skipped[0].endswith("× a polygon that is not a list of x, y pairs, the first in annotation 1")


@pytest.mark.parametrize(
    "runs",
    [
        {},
        {"size": [30, 40]},
        {"size": [30, 40], "counts": None},
        {"size": [30, 40], "counts": [0, 1201]},
        {"size": [30, 40], "counts": [0, 1199]},
        {"size": [30, 40], "counts": [-1, 1201]},
        {"size": [30, 40], "counts": [0.5, 1199.5]},
        {"size": [30, 40], "counts": [2**40, 2**40]},
        {"size": [30, 40], "counts": [[1200]]},
        {"size": [30, 40], "counts": "o"},
        {"size": [30, 40], "counts": "é" * 40},
        {"size": [40, 30], "counts": [0, 1200]},
        {"size": [-30, -40], "counts": [0, 1200]},
        {"size": [10**6, 10**6], "counts": [0, 10**12]},
        {"size": "30 40", "counts": [0, 1200]},
        {"size": None, "counts": [0, 1200]},
    ],
)
def test_run_lengths_are_looked_at_before_they_are_decoded(make_split, runs):
    with pytest.raises(LlafsError, match=r"a.json, annotation 1: (unreadable )?run lengths.* Correct"):
        make_split([annotation(1, runs | {"x": 1})])


@given(st.lists(st.integers(0, 300), min_size=1, max_size=30))
def test_run_lengths_are_decoded_as_pycocotools_does(lengths):
    size = (7, 1 + sum(lengths) // 7)
    counts = [*lengths, 7 * size[1] - sum(lengths)]
    theirs = mask_tools.decode(packed := mask_tools.frPyObjects({"size": size, "counts": counts}, *size))
    for form in (counts, packed["counts"], packed["counts"].decode()):
        plain, fault = run_lengths({"size": list(size), "counts": form}, size)
        assert np.array_equal(decode(plain), theirs) if theirs.any() else fault == EMPTY


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../1.jpg", "a/../../1.jpg", "C:\\1.jpg", "..\\1.jpg", "\\\\a\\b\\1"]
)
def test_a_name_that_leads_out_of_the_folder(make_split, name):
    with pytest.raises(LlafsError, match="a.json, entry 1 of 'images': 'file_name' must be a file in the image folder"):
        make_split([], images=(IMAGE | {"file_name": name},))


pieces = st.sampled_from(["..", ".", "/", "\\", "a", "1.jpg", "C:", "~", "\0", " ", "//x/y", "file:///", "%2e%2e/"])


@given(st.lists(pieces, max_size=6).map("".join))
def test_no_drawn_name_leads_out_of_the_folder(name):
    try:
        check_fields({"images": [IMAGE | {"file_name": name}], "annotations": [], "categories": []}, "a.json")
    except LlafsError as error:
        assert "'file_name' must be a file in the image folder" in str(error)
    else:
        for system in (posixpath, ntpath):
            assert system.normpath(system.join("folder", name)).startswith("folder")


def test_an_id_that_stands_twice(make_split):
    split = make_split([annotation(1, [SQUARE]), annotation(2, [LATER])])
    assert split.pixels.tolist() == [[121 - 25, 121]]
    assert split.skipped == (
        "1 × an annotation with the id of a later one, painted as well, the first in annotation 1",
    )
    with pytest.raises(LlafsError, match="lists an id or a name of a category twice"):
        make_split([], categories=("zebra", "horse", "horse"))


def test_a_huge_image_is_refused_before_its_label_map_is_made(make_split):
    with pytest.raises(LlafsError, match="states 1000000000 × 30 px, which is more than"):
        make_split([], images=(IMAGE | {"width": 10**9},))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(make_split, tmp_path):
    split = make_split([annotation(1, [SQUARE])])
    (tmp_path / "images" / "1.jpg").unlink()
    os.mkfifo(tmp_path / "images" / "1.jpg")
    with pytest.raises(LlafsError, match="1.jpg is a pipe"):
        split.check_files()


def test_a_missing_category(make_split):
    with pytest.raises(LlafsError, match="no category named horse"):
        make_split([], categories=("zebra",))


def test_no_image_at_all(make_split):
    with pytest.raises(LlafsError, match="no image is listed"):
        make_split([], images=())


def test_missing_and_broken_files(make_split, tmp_path):
    with pytest.raises(LlafsError, match="LLAFS_DATA"):
        CocoSplit(tmp_path, tmp_path / "nothing.json", ())
    for content in ("{", "[]", '{"annotations": [{}]}', ""):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(LlafsError, match="bad.json"):
            CocoSplit(tmp_path, tmp_path / "bad.json", ())
    with pytest.raises(LlafsError, match="image 7 is not listed"):
        make_split([]).image(7)
    with pytest.raises(LlafsError, match="'okapi' is not a class of this data set: choose one of zebra, horse"):
        make_split([]).mask(1, "okapi")


def test_the_wrong_layout_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAFS_DATA", str(tmp_path))
    (tmp_path / "annotations").mkdir()  # somebody pointed LLAFS_DATA at coco/ itself
    with pytest.raises(LlafsError, match="LLAFS_DATA names the folder that holds coco/"):
        open_dataset("coco-mini")


# --- where the data lie ----------------------------------------------------------------------------------------------


def test_unknown_data_set():
    with pytest.raises(LlafsError, match="choose one of toy, coco-mini, coco-20i"):
        open_dataset("coco")


@pytest.mark.parametrize(
    ("dataset", "year"),
    [
        ("coco-mini", 2017),
        ("coco-20i", 2014),
        ("coco-20i-2017", 2017),
        ("coco-blocks", 2014),
        ("coco-blocks-2017", 2017),
    ],
)
def test_the_data_root_follows_the_environment(monkeypatch, dataset, year):
    monkeypatch.setenv("LLAFS_DATA", "somewhere")
    train, val = source_files(dataset)
    assert train.as_posix() == f"somewhere/coco/annotations/instances_train{year}.json"
    assert val.as_posix() == f"somewhere/coco/annotations/instances_val{year}.json"
    assert source_files("toy")[0].as_posix() == "data/toy/annotations/instances_train.json"


# --- real photographs ------------------------------------------------------------------------------------------------


def painted_plainly(coco, image_id):
    """The rule of spec §3.3 in its shortest form, to compare with."""
    info = coco.imgs[image_id]
    labels, values = (
        np.zeros((info["height"], info["width"]), np.uint8),
        {i: v for v, i in enumerate(COCO_IDS.values(), 1)},
    )
    for a in coco.imgToAnns[image_id]:
        if not a["iscrowd"]:
            shapes = [np.array(p).reshape(-1, 2).astype(np.int32) for p in a["segmentation"]]
            for shape in shapes:
                cv2.fillPoly(labels, [shape], values[a["category_id"]])
    return labels


@pytest.mark.parametrize("part", ["train", "val"])
def test_real_photographs(photographs, monkeypatch, part):
    monkeypatch.setenv("LLAFS_DATA", str(photographs))
    split = getattr(open_dataset("coco-mini"), part)
    coco = COCO(str(split.annotations))
    if len(split) > 1000:
        pytest.skip("the full release lies here: this test is about coco-mini")
    assert len(split) == {"train": 300, "val": 120}[part]
    lists = {c: [] for c in COCO_CLASSES}
    for image_id in split.image_ids:
        plain = painted_plainly(coco, image_id)
        assert np.array_equal(split.label_map(image_id), plain)
        for value, n in zip(*np.unique(plain, return_counts=True), strict=True):
            if value and n >= 2048:
                lists[COCO_CLASSES[value - 1]].append(image_id)
    assert {c: list(ids) for c, ids in split.images_by_class().items()} == lists
    print(f"\nimages per class, {split.annotations.stem}:", {name: len(ids) for name, ids in lists.items()})
    assert split.image(split.image_ids[0]).shape[:2] == split.label_map(split.image_ids[0]).shape
    split.check_files()
