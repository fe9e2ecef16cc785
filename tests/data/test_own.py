"""A user's own annotated images: what annotation tools write, and folders of masks."""

import copy
import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_rle

from llafs_lib.classes import COCO_CLASSES
from llafs_lib.data.coco import CocoSplit, fill
from llafs_lib.data.own import MIN_AREA, open_own
from llafs_lib.errors import LlafsError

WIDTH, HEIGHT = 40, 30
SQUARE, LATER = [2, 2, 12, 2, 12, 12, 2, 12], [8, 8, 18, 8, 18, 18, 8, 18]


def plain():
    """Two images, two classes, three objects, as COCO itself would write them."""
    return {
        "images": [{"id": i, "file_name": f"p{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in (1, 2)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "segmentation": [polygon], "iscrowd": 0}
            for n, (image, category, polygon) in enumerate([(1, 1, SQUARE), (1, 2, LATER), (2, 2, SQUARE)], 1)
        ],
        "categories": [{"id": 1, "name": "zebra"}, {"id": 2, "name": "horse"}],
    }


def draw(path, width=WIDTH, height=HEIGHT, turned=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (width, height))
    exif = image.getexif()
    if turned:
        exif[0x0112] = 6  # a quarter turn
    image.save(path, format="JPEG", exif=exif)


def write(folder, content, names=("p1.jpg", "p2.jpg")):
    (folder / "images").mkdir(exist_ok=True)
    for name in names:
        draw(folder / "images" / name)
    (folder / "a.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder / "a.json"


def seen_in(split):
    """What two readings of the same annotations must share: classes, images in their order, masks."""
    return [
        (split.file(i).name, split.size(i), {c: split.mask(i, c).tolist() for c in split.classes})
        for i in split.image_ids
    ]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    write(folder, plain())
    return seen_in(CocoSplit(folder / "images", folder / "a.json", ("zebra", "horse")))


def test_the_plain_file_is_read_as_coco_is(tmp_path, expected):
    split = open_own(write(tmp_path, plain()))
    assert seen_in(split) == expected
    assert split.classes == ("zebra", "horse") and split.image_ids == (1, 2) and split.skipped == ()
    assert split.label_map(1).dtype == np.uint8 and split.size(1) == (HEIGHT, WIDTH)
    assert split.image(1).shape == (HEIGHT, WIDTH, 3) and split.file(1) == tmp_path / "images" / "p1.jpg"
    assert [a["category_id"] for a in split.annotations_of(1)] == [1, 2]
    split.check_files()


# --- forms that mean the same ----------------------------------------------------------------------------------------


def each(key, **values):
    """Change entries of a list: each value is a function of the entry, or of its old value under that key."""

    def change(content):
        for entry in content[key]:
            for name, value in values.items():
                entry[name] = value(entry[name]) if callable(value) else value

    return change


def without(key, *names):
    return lambda content: [entry.pop(name, None) for entry in content[key] for name in names]


def ids(key, links, value):
    """Other ids for images or categories, and for what points to them."""

    def change(content):
        each(key, id=value)(content)
        each("annotations", **{links: value})(content)

    return change


def both(*changes):
    return lambda content: [change(content) for change in changes]


def mask_of(polygon):
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    fill(canvas, np.array(polygon, float), 1)
    return canvas


def compressed(polygon, **more):
    return {"size": [HEIGHT, WIDTH], "counts": coco_rle.encode(np.asfortranarray(mask_of(polygon)))["counts"].decode()}


def listed(polygon):
    flat = mask_of(polygon).ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=0))
    return {"size": [HEIGHT, WIDTH], "counts": np.diff(np.concatenate(([0], starts, [flat.size]))).tolist()}


def segmentation(form):
    return each("annotations", segmentation=lambda polygons: form(polygons[0]))


def points(polygon):
    return [polygon[i : i + 2] for i in range(0, len(polygon), 2)]


def twice(key):
    return lambda content: content[key].extend(copy.deepcopy(content[key]))


def of_a_further_category(content):
    content["categories"].append({"id": 9, "name": " Zebra "})
    content["annotations"][0]["category_id"] = 9


SAME = {
    "category ids: gaps": ids("categories", "category_id", lambda i: 10 * i + 3),
    "category ids: from 0": ids("categories", "category_id", lambda i: i - 1),
    "category ids: negative": ids("categories", "category_id", lambda i: -i),
    "category ids: text": ids("categories", "category_id", lambda i: f"class-{i}"),
    "category ids: floats": ids("categories", "category_id", float),
    "category ids: halves": ids("categories", "category_id", lambda i: i + 0.5),
    "category ids: numbers as text, on one side": each("categories", id=str),
    "image ids: text": ids("images", "image_id", lambda i: f"scene {i}"),
    "image ids: negative": ids("images", "image_id", lambda i: i - 9),
    "image ids: numbers as text": ids("images", "image_id", str),
    "image ids: numbers as text, here": each("images", id=str),
    "image ids: numbers as text, there": each("annotations", image_id=str),
    "image ids: floats": each("annotations", image_id=float),
    "image ids: zeros in front": each("images", id=lambda i: f"{i:012d}"),
    "image ids: huge": ids("images", "image_id", lambda i: 10**30 + i),
    "image ids: 7 and '7' are two": both(
        lambda c: c["images"][0].update(id=7),
        lambda c: c["images"][1].update(id="7"),
        lambda c: [a.update(image_id=7 if a["image_id"] == 1 else "7") for a in c["annotations"]],
    ),
    "no ids of annotations": without("annotations", "id"),
    "one id for all annotations": each("annotations", id=1),
    "no iscrowd": without("annotations", "iscrowd"),
    "polygons called crowds": each("annotations", iscrowd=1),
    "brush masks called crowds, lists": both(segmentation(listed), each("annotations", iscrowd=1)),
    "brush masks called crowds, text": both(segmentation(compressed), each("annotations", iscrowd=True)),
    "size of run lengths as text": segmentation(lambda p: listed(p) | {"size": [str(HEIGHT), str(WIDTH)]}),
    "run lengths without a size": segmentation(lambda p: {"counts": listed(p)["counts"]}),
    "run lengths one level too deep": segmentation(lambda p: [compressed(p)]),
    "no sizes": without("images", "width", "height"),
    "no widths": without("images", "width"),
    "sizes: floats": each("images", width=float, height=float),
    "sizes: text": each("images", width=str, height=str),
    "sizes: 0": each("images", width=0, height=0),
    "sizes: null": each("images", width=None),
    "sizes: NaN": each("images", height=float("nan")),
    "sizes: negative": each("images", height=-1),
    "sizes: no numbers": each("images", height="large", width=[WIDTH]),
    "polygons: flat": segmentation(lambda p: p),
    "polygons: one level too deep": segmentation(lambda p: [[p]]),
    "polygons: points": segmentation(points),
    "polygons: lists of points": segmentation(lambda p: [points(p)]),
    "polygons: numbers as text": segmentation(lambda p: [[str(v) for v in p]]),
    "polygons: text": segmentation(lambda p: json.dumps([p])),
    "polygons: floats": segmentation(lambda p: [[v + 0.4 for v in p]]),
    "polygons: an empty one beside": segmentation(lambda p: [[], p]),
    "area and box: NaN": each("annotations", area=float("nan"), bbox=[float("nan")] * 4),
    "area and box: nonsense": each("annotations", area="much", bbox={}),
    "an unused category": lambda c: c["categories"].insert(0, {"id": 0, "name": "objects"}),
    "a category named twice": lambda c: c["categories"].append({"id": 9, "name": "zebra"}),
    "a category named twice, with objects": of_a_further_category,
    "names with blanks": each("categories", name=lambda name: f"  {name}\n"),
    "images listed twice": twice("images"),
    "annotations listed twice": lambda c: c.update(annotations=[a for a in c["annotations"] for _ in (0, 1)]),
    "further keys": both(lambda c: c.update(info=None, licenses="none"), each("images", coco_url=None, extra={})),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME.keys())
def test_what_tools_write_means_what_coco_would_write(tmp_path, expected, change):
    content = plain()
    change(content)
    split = open_own(write(tmp_path, content))
    assert seen_in(split) == expected and split.classes == ("zebra", "horse")
    assert all(isinstance(i, int) and i >= 0 for i in split.image_ids) and len(split) == 2
    split.check_files()


ENCODED = {
    "a byte order mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "Windows line ends": lambda text: text.replace("\n", "\r\n").encode(),
    "blank lines around": lambda text: f"\n\n{text}\n\n".encode(),
}


@pytest.mark.parametrize("encode", ENCODED.values(), ids=ENCODED.keys())
def test_encodings(tmp_path, expected, encode):
    content = plain()
    content["categories"][0]["name"] = "Zébra 🦓"
    split = open_own(write(tmp_path, encode(json.dumps(content, indent=1, ensure_ascii=False))))
    assert split.classes == ("Zébra 🦓", "horse") and [s[:2] for s in seen_in(split)] == [s[:2] for s in expected]


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("p1.jpg", "p1.jpg"),
        ("./p1.jpg", "p1.jpg"),
        ("scene\\day one\\p1.jpg", "scene/day one/p1.jpg"),
        (".\\p1.jpg", "p1.jpg"),
        ("P1.JPG", "p1.jpg"),
        ("img_1.jpg", "IMG_1.JPG"),
        ("Tiere/Grösse.jpg", "tiere/GRÖSSE.JPG"),
        (unicodedata.normalize("NFD", "Löwe é.jpg"), unicodedata.normalize("NFC", "Löwe é.jpg")),
        (unicodedata.normalize("NFC", "Löwe é.jpg"), unicodedata.normalize("NFD", "Löwe é.jpg")),
        ("images/p1.jpg", "p1.jpg"),
        ("images/p1.jpg", "images/p1.jpg"),
        ("p1.jpg", "train/p1.jpg"),
        ("/home/somebody/export/images/p1.jpg", "p1.jpg"),
        ("/data/train/p1.jpg", "train/p1.jpg"),
        ("C:\\Users\\me\\p1.jpg", "p1.jpg"),
        ("\\\\server\\share\\p1.jpg", "p1.jpg"),
        ("file:///mnt/p1.jpg", "p1.jpg"),
        ("https://example.org/a/my%20p1.jpg?sig=1/2#x", "my p1.jpg"),
        ("s3://bucket/a/p1.jpg", "p1.jpg"),
        ("/data/local-files/?d=a/p1.jpg", "p1.jpg"),
        ("my%20p1.jpg", "my p1.jpg"),
        ("50%.jpg", "50%.jpg"),
        ("a:b?.jpg", "a:b?.jpg"),
        (" p1.jpg ", "p1.jpg"),
        ("sub/../p1.jpg", "p1.jpg"),
        ("../images/p1.jpg", "p1.jpg"),
        ("..p1.jpg", "..p1.jpg"),
        ('"><img src=x>.jpg', '"><img src=x>.jpg'),
    ],
)
def test_names_of_images(tmp_path, expected, written, there):
    content = plain()
    content["images"][0]["file_name"] = written
    split = open_own(write(tmp_path, content, (there, "p2.jpg")))
    assert split.file(1) == tmp_path / "images" / there and split.image(1).shape == (HEIGHT, WIDTH, 3)
    assert [s[1:] for s in seen_in(split)] == [s[1:] for s in expected]
    split.check_files()


@pytest.mark.parametrize("name", ["../secret.jpg", "..\\secret.jpg", "sub/../../secret.jpg", "ABSOLUTE", "../none.jpg"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    draw(tmp_path / "secret.jpg")
    content = plain()
    content["images"][0]["file_name"] = str(tmp_path / "secret.jpg") if name == "ABSOLUTE" else name
    with pytest.raises(LlafsError, match="leads out of the image folder .*images. Correct the name"):
        open_own(write(tmp_path, content))


def test_an_absolute_path_into_the_folder(tmp_path, expected):
    content = plain()
    each("images", file_name=lambda name: str(tmp_path / "images" / name))(content)
    assert seen_in(open_own(write(tmp_path, content))) == expected


@pytest.mark.parametrize("stated", [True, False])
def test_a_turned_image(tmp_path, expected, stated):
    content = plain()
    if not stated:
        without("images", "width", "height")(content)
    write(tmp_path, content)
    draw(tmp_path / "images" / "p1.jpg", HEIGHT, WIDTH, turned=True)  # shown, it is WIDTH × HEIGHT
    split = open_own(tmp_path / "a.json")
    assert seen_in(split) == expected and split.image(1).shape == (HEIGHT, WIDTH, 3)


def test_images_that_state_their_size_are_not_opened(tmp_path, expected):
    annotations = write(tmp_path, plain())
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"not to be opened")
    assert seen_in(open_own(annotations)) == expected
    with pytest.raises(LlafsError, match="not a readable image"):
        open_own(annotations).check_files()


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
        r"2 of 2 images cannot be used \(2 × an image that is missing\), the first is other-p1.jpg. They "
        r"were looked for in .*images and its subfolders: name the folder",
    ),
    "one id for all images": (each("images", id=1), r"2 of 2 images .*\(2 × an image with the id of another one\)"),
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
    "settings": ({"theme": "dark"}, "it lacks the lists 'images' and 'annotations' .its keys: 'theme'"),
    "nothing": ({}, "it lacks the lists"),
    "a list": ([1, 2], "a list of another format"),
    "a number": (3, "a single value"),
    "other lists": ({"images": {}, "annotations": {}}, "it lacks the lists"),
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


def test_where_images_are_looked_for(tmp_path, expected):
    content = plain()
    each("images", file_name=lambda name: f"set/{name}")(content)
    for folder in ("", "images", "elsewhere"):
        root = tmp_path / (folder or "beside")
        (root / "annotations").mkdir(parents=True)
        for name in ("p1.jpg", "p2.jpg"):
            draw(root / folder / "set" / name)
        (root / "annotations" / "a.json").write_text(json.dumps(content))
        (root / "a.json").write_text(json.dumps(content))
        images = root / folder if folder == "elsewhere" else None
        assert seen_in(open_own(str(root / "a.json"), images)) == expected
    assert seen_in(open_own(tmp_path / "images" / "annotations" / "a.json")) == expected  # as CVAT has it


def test_a_cache_knows_when_images_come_or_go(tmp_path):
    annotations = write(tmp_path, plain())
    assert len(open_own(annotations)) == 2
    (tmp_path / "images" / "p2.jpg").unlink()
    assert len(open_own(annotations)) == 1
    draw(tmp_path / "images" / "p2.jpg")
    split = open_own(annotations)
    assert len(split) == 2 and split.skipped == ()
    (tmp_path / "images" / "p1.jpg").unlink()
    with pytest.raises(LlafsError, match="1 of 2 images are missing .* put them back, or open the annotations again"):
        split.check_files()


def test_most_objects_are_in_missing_images(tmp_path):
    annotations = write(tmp_path, plain())
    (tmp_path / "images" / "p1.jpg").unlink()
    with pytest.raises(
        LlafsError, match=r"2 of 3 .*\(2 × an object of an image that is missing\). The images were looked"
    ):
        open_own(annotations)


def test_crowds_of_coco_itself_stay_crowds(tmp_path):
    content = plain()
    content["annotations"] += [copy.deepcopy(content["annotations"][2]) for _ in range(40)]
    content["annotations"].append({"image_id": 2, "category_id": 1, "segmentation": listed(LATER), "iscrowd": 1})
    split = open_own(write(tmp_path, content))
    assert split.mask(2, "zebra").any() and split.skipped == ()
    content["info"] = {"description": "A part of COCO 2017", "url": "https://cocodataset.org"}
    split = open_own(write(tmp_path, content))
    assert not split.mask(2, "zebra").any() and "a crowd annotation" in split.skipped[0]


# --- which class an image shows --------------------------------------------------------------------------------------


def test_a_class_is_shown_from_a_share_of_the_image_on(tmp_path):
    assert pytest.approx(1 / 150) == MIN_AREA
    split = open_own(write(tmp_path, plain()))  # zebra: 96 of 1,200 px; horse: 121 in both
    assert split.shown() == {1: ("zebra", "horse"), 2: ("horse",)}
    assert split.shown(96 / 1200) == {1: ("zebra", "horse"), 2: ("horse",)}
    assert split.shown(0.09) == {1: ("zebra", "horse"), 2: ("horse",)}  # no zebra is so large: the largest one stays
    assert split.shown(0.5) == {1: ("zebra", "horse")}


def test_a_class_that_others_cover_is_not_shown(tmp_path):
    content = plain()
    content["annotations"][1]["segmentation"] = [[0, 0, 39, 0, 39, 29, 0, 29]]
    split = open_own(write(tmp_path, content))
    assert split.classes == ("zebra", "horse") and split.shown(0) == {1: ("horse",), 2: ("horse",)}


# --- vocabularies beyond a byte --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "dtype"), [(254, np.uint8), (255, np.uint16), (300, np.uint16)])
def test_classes_by_the_hundred(tmp_path, count, dtype):
    content = plain()
    content["categories"] = [{"id": i, "name": f"tool {i}"} for i in range(count)]
    corners = [(x, y) for y in range(HEIGHT) for x in range(0, WIDTH - 1, 2)][:count]
    content["annotations"] = [
        {"image_id": 1, "category_id": i, "segmentation": [[x, y, x + 1, y, x + 1, y]]}
        for i, (x, y) in enumerate(corners)
    ]
    split = open_own(write(tmp_path, content))
    assert split.label_map(1).dtype == dtype and split.label_map(1).max() == count
    assert (split.pixels[0] == 2).all() and not split.void(1).any()
    for i in (0, 253, count - 1):
        assert np.argwhere(split.mask(1, f"tool {i}")).tolist() == [[corners[i][1], corners[i][0] + d] for d in (0, 1)]
    assert len(split.shown()[1]) == count
    with pytest.raises(LlafsError, match="'tol 7' is not a class .* tool 39, ….* Did you mean 'tool 7'"):
        split.mask(1, "tol 7")


# --- folders of masks ------------------------------------------------------------------------------------------------


def save_mask(path, pixels, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def masks(tmp_path):
    """The plain example as masks/CLASS/x.png beside images/x.jpg."""
    for i in (1, 2):
        draw(tmp_path / "images" / f"p{i}.jpg")
    for i, name, polygon in [(1, "horse", LATER), (1, "zebra", SQUARE), (2, "horse", SQUARE)]:
        save_mask(tmp_path / "masks" / name / f"p{i}.png", 255 * mask_of(polygon))
    return tmp_path / "masks"


def test_a_folder_of_masks(masks):
    split = open_own(masks)
    assert split.classes == ("horse", "zebra") and split.skipped == () and split.image_ids == (1, 2)
    assert np.array_equal(split.mask(1, "zebra"), mask_of(SQUARE) > 0)
    assert np.array_equal(split.mask(2, "horse"), mask_of(SQUARE) > 0)
    assert split.image(1).shape == (HEIGHT, WIDTH, 3) and split.file(2).name == "p2.jpg"
    assert seen_in(open_own(masks.parent)) == seen_in(open_own(masks, masks.parent / "images")) == seen_in(split)
    save_mask(masks / "zebra" / "p1.png", 255 * mask_of([20, 20, 30, 20, 30, 28, 20, 28]))
    assert open_own(masks).mask(1, "zebra")[25, 25]  # the cache is made anew


ALPHA = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
ALPHA[..., 3] = 255 * mask_of(SQUARE)
FORMS = {
    "0 and 1": lambda: Image.fromarray(mask_of(SQUARE)),
    "0 and 7": lambda: Image.fromarray(7 * mask_of(SQUARE)),
    "one bit": lambda: Image.fromarray(255 * mask_of(SQUARE)).convert("1"),
    "palette": lambda: Image.fromarray(255 * mask_of(SQUARE)).convert("P"),
    "colour": lambda: Image.fromarray(mask_of(SQUARE)[..., None] * np.uint8([200, 0, 30])),
    "16 bits": lambda: Image.fromarray(mask_of(SQUARE).astype(np.uint16) * 65535),
    "transparent": lambda: Image.fromarray(ALPHA),
    "opaque": lambda: Image.fromarray(255 * mask_of(SQUARE)).convert("RGBA"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_forms_of_masks(masks, form):
    form().save(masks / "zebra" / "p1.png")
    assert np.array_equal(open_own(masks).mask(1, "zebra"), mask_of(SQUARE) > 0)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a/p3.JPG", "a/p3.png"),
        ("a/p3.jpg", "p3.png"),
        ("p3.jpg", "P3.PNG"),
        ("p3.jpg", "p3.jpg.png"),
        ("é.jpg", "é.png"),
    ],
)
def test_names_of_masks(masks, image, mask):
    draw(masks.parent / "images" / image)
    save_mask(masks / "cow" / mask, 255 * mask_of(SQUARE))
    assert open_own(masks).mask(1, "cow").any()


def test_masks_that_fit_no_image(masks):
    save_mask(masks / "zebra" / "p7.png", 255 * mask_of(SQUARE))
    save_mask(masks / "p2.png", 255 * mask_of(SQUARE))
    assert open_own(masks).skipped == (
        "1 × a mask that is in no folder of a class, the first in p2.png",
        "1 × a mask without an image of its name, the first in zebra/p7.png",
    )
    for image in (masks.parent / "images").iterdir():
        image.rename(image.with_name(f"scan-{image.name}"))
    with pytest.raises(LlafsError, match=r"masks: 5 of 5 objects .*4 × a mask without an image.*masks/zebra/x.png for"):
        open_own(masks)


def test_masks_that_are_none(masks, tmp_path):
    (masks / "zebra" / "p1.png").write_bytes((masks / "zebra" / "p1.png").read_bytes()[:60])
    with pytest.raises(LlafsError, match="p1.png is not a readable image"):
        open_own(masks)
    save_mask(masks / "zebra" / "p1.png", mask_of(SQUARE) + mask_of(LATER))
    with pytest.raises(LlafsError, match="p1.png holds several classes"):
        open_own(masks)
    save_mask(masks / "zebra" / "p1.png", 255 * mask_of(SQUARE)[:20])
    with pytest.raises(LlafsError, match="p1.png is 40 × 20 px, but the image is 40 × 30 px: give a mask"):
        open_own(masks)
    for path in masks.rglob("*.png"):
        save_mask(path, 0 * mask_of(SQUARE))
    with pytest.raises(LlafsError, match="no mask shows a single pixel"):
        open_own(masks)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LlafsError, match="empty holds no folder of a class with mask images in it. Put each mask"):
        open_own(tmp_path / "empty")


# --- any dialect -----------------------------------------------------------------------------------------------------

corner = st.tuples(st.integers(0, WIDTH - 9), st.integers(0, HEIGHT - 9), st.integers(4, 20), st.integers(4, 20))
ID_FORMS = [lambda i: i, lambda i: 3 * i + 7, str, float, lambda i: f"n-{i}", lambda i: -i, lambda i: f"{i:06d}"]
SIZE_FORMS = [lambda v: v, float, str, lambda v: None, lambda v: 0, lambda v: f"{v}.0"]
OUTLINE_FORMS = [lambda p: [p], lambda p: p, lambda p: [[p]], points, listed, compressed, lambda p: [compressed(p)]]
NAME_FORMS = [
    lambda name: name,
    str.upper,
    lambda name: unicodedata.normalize("NFD", name),
    lambda name: f"C:\\export\\{name}",
    lambda name: f"https://example.org/data/{name}?key=1",
    lambda name: f"images/{name}",
]
CLASS_NAMES = ["zebra", "milk cow", "Pferd", "löwe", "café ☕", "<script>"]


@st.composite
def data_sets(draw_from):
    """A small valid data set: images, classes, rectangles; plain."""
    n_images, names = draw_from(st.integers(1, 4)), draw_from(st.permutations(CLASS_NAMES))[:3]
    objects = draw_from(
        st.lists(st.tuples(st.integers(1, n_images), st.integers(1, len(names)), corner), min_size=1, max_size=8)
    )
    return {
        "images": [
            {"id": i, "file_name": f"é{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in range(1, n_images + 1)
        ],
        "annotations": [
            {
                "id": n,
                "image_id": image,
                "category_id": category,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                "iscrowd": 0,
            }
            for n, (image, category, (x, y, w, h)) in enumerate(objects, 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }


@settings(max_examples=40, deadline=None)
@given(data=st.data(), content=data_sets())
def test_every_dialect_says_the_same(tmp_path_factory, data, content):
    folder = tmp_path_factory.mktemp("dialect")
    names = [image["file_name"] for image in content["images"]]
    reference = open_own(write(folder, content, names))

    def form(forms):
        return data.draw(st.sampled_from(forms))

    ids("categories", "category_id", form(ID_FORMS))(content)
    ids("images", "image_id", form(ID_FORMS))(content)
    for annotation in content["annotations"]:
        annotation["segmentation"] = form(OUTLINE_FORMS)(annotation["segmentation"][0])
        annotation["iscrowd"] = form([0, 1, None])
    for image in content["images"]:
        image["file_name"] = form(NAME_FORMS)(image["file_name"])
        for side in ("width", "height"):
            image[side] = form(SIZE_FORMS)(image[side])
    content["categories"].insert(form([0, 1, 3]), {"id": 99, "name": form(["unused", "", None, " "])})
    split = open_own(write(folder, form(list(ENCODED.values()))(json.dumps(content)), names))
    assert split.classes == reference.classes and seen_in(split) == seen_in(reference)


def test_photographs_read_as_ones_own(photographs):
    """A part of COCO is the same data whether its name or its file is given."""
    annotations, images = photographs / "coco/annotations/instances_val2017.json", photographs / "coco/val2017"
    own, coco = open_own(annotations, images), CocoSplit(images, annotations, COCO_CLASSES)
    if len(coco) > 1000:
        pytest.skip("the full release lies here: this test is about coco-mini")
    shown = {c for c, s in zip(COCO_CLASSES, coco.pixels.any(axis=0), strict=True) if s}
    assert own.image_ids == coco.image_ids and set(own.classes) >= shown
    columns = [COCO_CLASSES.index(c) for c in own.classes]
    assert np.array_equal(own.pixels, coco.pixels[:, columns])
    values = np.array([0, *(column + 1 for column in columns)])
    assert all(np.array_equal(values[own.label_map(i)], coco.label_map(i)) for i in own.image_ids[:20])
