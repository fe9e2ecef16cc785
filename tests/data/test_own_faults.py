"""A user's own annotation files that are faulty in part, of no use at all, or of another format."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_files import (
    HEIGHT,
    LATER,
    WIDTH,
    both,
    compressed,
    each,
    listed,
    plain,
    seen_in,
    segmentation,
    without,
    write,
)

from llafs_lib.data.own import open_own
from llafs_lib.errors import LlafsError

# --- what is left out, with its count --------------------------------------------------------------------------------


def further(**values):
    """A fault in a fourth annotation of an otherwise plain file."""
    return lambda content: content["annotations"].append(copy.deepcopy(content["annotations"][2]) | {"id": 4} | values)


def run_lengths(**values):
    return further(segmentation=compressed(LATER) | values)


LEFT_OUT = {
    "no outline": (further(segmentation=[]), "an object without any outline, the first in annotation 4"),
    "only a box": (further(segmentation=None, bbox=[1, 1, 5, 5]), "a box without an outline"),
    "an empty list in a list": (further(segmentation=[[]], bbox=[1, 1, 5, 5]), "a box without an outline"),
    "two points": (further(segmentation=[[1, 1, 5, 5]]), "a polygon with fewer than three points"),
    "an odd number": (further(segmentation=[[1, 1, 5, 5, 6, 6, 7]]), "a polygon that is not a list of x, y pairs"),
    "NaN": (further(segmentation=[[1, 1, 5, float("nan"), 6, 6]]), "a polygon that is not a list of x, y pairs"),
    "null": (further(segmentation=[[1, 1, 5, None, 6, 6]]), "a polygon that is not a list of x, y pairs"),
    "words": (further(segmentation=[["a", "b", "c", "d", "e", "f"]]), "a polygon that is not a list"),
    "far away": (further(segmentation=[[1, 1, 1e300, 5, 6, 6]]), "a polygon that is not a list of x, y pairs"),
    "outside": (further(segmentation=[[100, 1, 120, 5, 110, 9]]), "an outline outside of its image"),
    "shares": (further(segmentation=[[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]), "an outline smaller than a pixel"),
    "a second polygon": (further(segmentation=[LATER, [1, 1]]), "a polygon with fewer than three points"),
    "too short": (run_lengths(counts=[3, 4]), "run lengths that do not fit the image's size"),
    "too long": (run_lengths(counts=[0, 10**9]), "run lengths that do not fit the image's size"),
    "negative": (run_lengths(counts=[1201, -1]), "unreadable run lengths"),
    "halves": (run_lengths(counts=[0.5, 1199.5]), "unreadable run lengths"),
    "another size": (run_lengths(size=[WIDTH, HEIGHT]), "run lengths that do not fit the image's size"),
    "cut off": (run_lengths(counts=compressed(LATER)["counts"][:-2]), "unreadable run lengths"),
    "one number more": (run_lengths(counts=compressed(LATER)["counts"] + "1"), "run lengths that do not fit"),
    "no run lengths": (run_lengths(counts="no run lengths, but words"), "unreadable run lengths"),
    "emoji": (run_lengths(counts="🦓"), "unreadable run lengths"),
    "endless": (run_lengths(counts="o" * 100 + "0"), "unreadable run lengths"),
    "no counts": (further(segmentation={"size": [HEIGHT, WIDTH]}), "unreadable run lengths"),
    "an empty mask": (run_lengths(counts=[1200]), "an empty mask"),
    "a strange image": (further(image_id=77), "an object whose image is not listed"),
    "no image": (further(image_id=None), "an object whose image is not listed"),
    "a strange category": (further(category_id=77), "an object whose category is not listed"),
    "a list for an id": (further(category_id=[1]), "an object whose category is not listed"),
    "no object": (lambda c: c["annotations"].append("object"), "an entry of 'annotations' that is no JSON object"),
    "a nameless category": (
        both(lambda c: c["categories"].append({"id": 3, "name": " "}), further(category_id=3)),
        "an object of a category without a name",
    ),
    "a category id of two names": (
        both(
            lambda c: c["categories"].extend([{"id": 3, "name": "cow"}, {"id": 3, "name": "ox"}]),
            further(category_id=3),
        ),
        "an object whose category id is ambiguous",
    ),
    "an image without a name": (
        both(lambda c: c["images"].append({"id": 3, "file_name": None}), further(image_id=3)),
        "an object of an image without a file name",
    ),
    "a missing image": (
        both(lambda c: c["images"].append({"id": 3, "file_name": "p3.jpg"}), further(image_id=3)),
        "an image that is missing, the first in image 3 (p3.jpg)",
    ),
    "a NUL in a name": (lambda c: c["images"].append({"id": 3, "file_name": "p\0.jpg"}), "an image that is missing"),
    "half a pair": (lambda c: c["images"].append({"id": 3, "file_name": "\ud800.jpg"}), "an image that is missing"),
    "a long name": (lambda c: c["images"].append({"id": 3, "file_name": "p" * 9999}), "an image that is missing"),
    "the folder": (lambda c: c["images"].append({"id": 3, "file_name": "."}), "an image that is missing"),
    "another's file": (
        lambda c: c["images"].append(c["images"][0] | {"id": 3, "file_name": "other/p1.jpg"}),
        "an image whose name fits the file of another one",
    ),
}


@pytest.mark.parametrize(("change", "reason"), LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_faulty_entries_are_left_out_and_counted(tmp_path, expected, change, reason):
    content = plain()
    change(content)
    split = open_own(write(tmp_path, content))
    if reason.startswith("a polygon with fewer") and len(content["annotations"][3]["segmentation"]) == 2:
        assert split.mask(2, "horse")[15, 15]  # the polygon beside it is painted
    else:
        assert seen_in(split) == expected
    assert any(f"1 × {reason}" in sentence for sentence in split.skipped), split.skipped
    assert open_own(tmp_path / "a.json").skipped == split.skipped  # the cache remembers


def test_an_unreadable_image_without_a_size(tmp_path):
    content = plain()
    del content["images"][0]["width"]
    annotations = write(tmp_path, content)
    (tmp_path / "images" / "p1.jpg").write_text("no image")
    content["annotations"].append(content["annotations"][2])
    annotations.write_text(json.dumps(content))
    split = open_own(annotations)
    assert len(split) == 1 and split.classes == ("horse",)
    assert split.skipped[0].startswith("1 × an image without a size that cannot be read, the first in image 1 (p1.jpg)")


def test_what_was_mended_is_said(tmp_path):
    content = plain()
    without("images", "width")(content)
    content["categories"] += [{"id": 3, "name": "Zebra"}, {"id": 4, "name": "okapi"}]
    skipped = open_own(write(tmp_path, content)).skipped
    assert any(s.startswith("2 × an image without a size, which was read from the image") for s in skipped)
    assert any(s.startswith("1 × a category with the name of another one") for s in skipped)
    assert any(
        s.startswith("1 × a category without a usable object, which is no class, the first in 'okapi'") for s in skipped
    )


# --- files that cannot be used ---------------------------------------------------------------------------------------


def no_outlines(count=3, **values):
    def change(content):
        for annotation in content["annotations"][:count]:
            del annotation["segmentation"]
            annotation |= values

    return change


REFUSED = {
    "boxes": (no_outlines(bbox=[1, 1, 9, 9]), r"no object has an outline \(3 boxes only\). LLaFS needs masks: draw"),
    "empty polygons": (both(segmentation(lambda p: [[]]), each("annotations", bbox=[1, 1, 9, 9])), r"\(3 boxes only\)"),
    "captions": (no_outlines(caption="two zebras"), r"no object has an outline \(3 captions only\)"),
    "keypoints": (no_outlines(keypoints=[1, 2, 2]), r"no object has an outline \(3 sets of keypoints only\)"),
    "nothing": (no_outlines(), r"no object has an outline \(3 objects only\)"),
    "two of three": (
        no_outlines(2, bbox=[1, 1, 9, 9]),
        r"2 of 3 objects cannot be used \(2 × a box without an outline\)",
    ),
    "causes": (
        both(no_outlines(1), lambda c: c["annotations"][1].update(segmentation=[[1, 2]])),
        r"2 of 3 objects cannot be used \(1 × an object without any outline; 1 × a polygon with fewer",
    ),
    "no objects": (lambda c: c.update(annotations=[]), "a.json lists no object: export it again"),
    "no annotations": (lambda c: c.pop("annotations"), "a.json lists no object: export it again"),
    "no images": (lambda c: c.update(images=[]), "a.json lists no image, so"),
    "no categories": (lambda c: c.pop("categories"), r"3 of 3 objects .*3 × an object whose category is not listed"),
    "nameless categories": (without("categories", "name"), "3 × an object of a category without a name"),
    "strange categories": (each("annotations", category_id="cow"), "3 × an object whose category is not listed"),
    "strange images": (each("annotations", image_id=77), "3 of 3 objects .*3 × an object whose image is not listed"),
    "missing images": (
        each("images", file_name=lambda name: f"other-{name}"),
        r"2 of 2 images cannot be used \(2 × an image that is missing\). The first is other-p1.jpg. The "
        r"images were looked for in .*images and its subfolders: name the folder",
    ),
    "one id for all images": (
        each("images", id=1),
        r"2 of 2 images .*\(2 × an image with the id of another one\). The first is p1.jpg. Correct the file",
    ),
    "run lengths of another size": (
        segmentation(lambda p: listed(p) | {"size": [3, 4]}),
        "3 × run lengths that do not fit the image's size",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_of_which_most_is_lost_is_refused(tmp_path, change, message):
    content = plain()
    change(content)
    with pytest.raises(LlafsError, match="a.json.*" + message.replace("a.json", "")):
        open_own(write(tmp_path, content))


FOREIGN = {
    "VIA": ({"_via_img_metadata": {}, "_via_settings": {}}, "a project of VIA.*Export Annotations"),
    "VIA, annotations": ({"p1.jpg1234": {"filename": "p1.jpg", "regions": []}}, "a project of VIA"),
    "LabelMe": ({"version": "5.0", "shapes": [], "imagePath": "p1.jpg"}, "a file of LabelMe.*labelme2coco"),
    "Label Studio": ([{"id": 1, "data": {"image": "p1.jpg"}, "annotations": []}], "Label Studio.*Export → COCO"),
    "results": ([{"image_id": 1, "category_id": 1, "score": 0.5, "bbox": []}], "a list of results"),
    "Datumaro": ({"info": {}, "infos": {}, "categories": {}, "items": []}, "Datumaro.*-if datumaro"),
    "panoptic": (
        {"images": [], "annotations": [{"segments_info": [], "file_name": "p1.png"}], "categories": []},
        "COCO panoptic.*-if coco_panoptic",
    ),
    "GeoJSON": ({"type": "FeatureCollection", "features": []}, "GeoJSON"),
    "video": ({"videos": [], "annotations": [], "categories": []}, "video"),
    "Supervisely": ({"description": "", "tags": [], "size": {}, "objects": []}, "Supervisely"),
    "settings": ({"theme": "dark"}, "'images' and 'annotations' are not both lists .its keys: theme"),
    "nothing": ({}, "are not both lists"),
    "a list": ([1, 2], "a list of another format"),
    "a number": (3, "a single value"),
    "other lists": ({"images": {}, "annotations": {}}, "are not both lists"),
}


@pytest.mark.parametrize(("content", "message"), FOREIGN.values(), ids=FOREIGN.keys())
def test_other_formats_are_recognised(tmp_path, content, message):
    with pytest.raises(LlafsError, match="a.json is not a COCO file but .*" + message):
        open_own(write(tmp_path, content))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.xml", b"<annotation/>", "XML, as PASCAL VOC"),
        ("data.yaml", b"names: [zebra]", "a YOLO data set"),
        ("labels.txt", b"0 0.1 0.2 0.3 0.4 0.5 0.6", "a YOLO data set"),
        ("a.csv", b"file,class", "a table"),
        ("a.zip", b"PK", "an archive. Unpack it"),
        ("a.json", b"", "not readable JSON"),
        ("a.json", b'{"images": [', "not readable JSON"),
        ("a.json", b"[" * 100_000, "not readable JSON"),
        ("a.json", b'{"id": ' + b"1" * 5000 + b"}", "not readable JSON"),
        ("a.json", b'{"name": "\xe9"}', "not readable JSON"),
    ],
    ids=["xml", "yaml", "txt", "csv", "zip", "empty", "cut off", "too deep", "a huge number", "Latin-1"],
)
def test_files_that_are_no_json(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(LlafsError, match=f"{name} is .*{message}"):
        open_own(tmp_path / name)


def test_paths_that_lead_nowhere(tmp_path):
    annotations = write(tmp_path, plain())
    for arguments, message in [
        ((tmp_path / "none.json",), "none.json do not exist"),
        ((annotations, tmp_path / "none"), "image folder .*none does not exist"),
        ((annotations, annotations), "image folder .*a.json is a file"),
        ((None,), "annotations=None is no path"),
        ((annotations, 3), "images=3 is no path"),
        ((tmp_path,), "It holds a.json: if that is a COCO file, name the file itself"),
    ]:
        with pytest.raises(LlafsError, match=message):
            open_own(*arguments)


def test_most_objects_are_in_missing_images(tmp_path):
    annotations = write(tmp_path, plain())
    (tmp_path / "images" / "p1.jpg").unlink()
    with pytest.raises(
        LlafsError, match=r"2 of 3 .*\(2 × an object of an image that is missing\). The images were looked"
    ):
        open_own(annotations)


# --- any rubbish -----------------------------------------------------------------------------------------------------

RUBBISH = st.sampled_from(
    [None, True, -1, 0, 2, 3.5, float("nan"), float("inf"), 1e308, 10**40, "", "1", "é", "\ud800", "\0", "..", "p1.jpg"]
    + [[], {}, [[]], [None], [1, 2], [[1, 2], [3, 4], [5, 6]], {"a": 1}, [[[[[1, 2, 3, 4, 5, 6]]]]], [[10**400] * 6]]
    + [{"counts": "a", "size": [1, 2]}, [{"counts": [0, 1200]}], {"counts": None, "size": None}, {"counts": [[1], [2]]}]
)


def places_in(value, place=()):
    """The keys that lead to each part of nested lists and dicts."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place] * bool(place) + [p for key, part in parts for p in places_in(part, (*place, key))]


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_rubbish_anywhere_is_read_or_refused_in_a_sentence(tmp_path_factory, data):
    content = plain()
    segmentation(compressed)(content)
    for _ in range(data.draw(st.integers(1, 3))):
        *before, last = data.draw(st.sampled_from(places_in(content)))
        part = content
        for key in before:
            part = part[key]
        part[last] = copy.deepcopy(data.draw(RUBBISH))
    try:
        split = open_own(write(tmp_path_factory.mktemp("rubbish"), content))
    except LlafsError as error:
        assert "a.json" in str(error) or "leads out of the image folder" in str(error)
    else:
        assert split.pixels.any() and all(split.mask(i, c).any() for i, names in split.shown(0).items() for c in names)
