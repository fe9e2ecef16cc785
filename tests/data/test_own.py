"""A user's own annotated images: all the forms in which annotation tools write the same thing."""

import copy
import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_files import (
    ENCODED,
    HEIGHT,
    LATER,
    WIDTH,
    both,
    compressed,
    draw,
    each,
    ids,
    listed,
    plain,
    points,
    seen_in,
    segmentation,
    without,
    write,
)

from llafs_lib.classes import COCO_CLASSES
from llafs_lib.data.coco import CocoSplit
from llafs_lib.data.own import MIN_AREA, open_own
from llafs_lib.errors import LlafsError


def test_the_plain_file_is_read_as_coco_is(tmp_path, expected):
    split = open_own(write(tmp_path, plain()))
    assert seen_in(split) == expected
    assert split.classes == ("zebra", "horse") and split.image_ids == (1, 2) and split.skipped == ()
    assert split.label_map(1).dtype == np.uint8 and split.size(1) == (HEIGHT, WIDTH)
    assert split.image(1).shape == (HEIGHT, WIDTH, 3) and split.file(1) == tmp_path / "images" / "p1.jpg"
    assert [a["category_id"] for a in split.annotations_of(1)] == [1, 2]
    split.check_files()


# --- forms that mean the same ----------------------------------------------------------------------------------------


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
    "sizes: absurd": each("images", height=10**8, width=10**8),
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


@pytest.mark.parametrize(("key", "value"), [("coco_url", "http://example.org/train/p1.jpg"), ("path", "/x/p1.jpg")])
def test_other_keys_of_file_names(tmp_path, expected, key, value):
    content = plain()
    del content["images"][0]["file_name"]
    content["images"][0][key] = value
    assert seen_in(open_own(write(tmp_path, content))) == expected


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


def test_crowds_of_coco_itself_stay_crowds(tmp_path):
    content = plain()
    content["annotations"] += [copy.deepcopy(content["annotations"][2]) for _ in range(40)]
    content["annotations"].append({"image_id": 2, "category_id": 1, "segmentation": listed(LATER), "iscrowd": 1})
    split = open_own(write(tmp_path, content))
    assert split.mask(2, "zebra").any() and split.skipped == ()
    content["info"] = {"description": "A part of COCO 2017", "url": "https://cocodataset.org"}
    split = open_own(write(tmp_path, content))
    assert not split.mask(2, "zebra").any() and "a crowd annotation" in split.skipped[0]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("  plains\tzebra\n", "plains zebra"),
        ("ze\u200bbra\ufeff", "zebra"),
        ("\u202ezebra", "zebra"),
        ("Zu\u0308gel", "Zügel"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👨\u200d🌾", "👨\u200d🌾"),
        (7, "7"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("a/b\\c", "a/b\\c"),
        ("-", "-"),
    ],
)
def test_names_of_classes(tmp_path, written, meant):
    content = plain()
    content["categories"][0]["name"] = written
    split = open_own(write(tmp_path, content))
    assert split.classes == (meant, "horse") and split.mask(1, meant).any()


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
