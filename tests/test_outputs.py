"""Results as files: read again by PIL, pycocotools and the way that YOLO's readers fill polygons."""

import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as drawn
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from llafs_lib.errors import LlafsError
from llafs_lib.outputs import FORMATS, class_colours, plan_output, safe_name
from llafs_lib.records import Prediction, Predictions
from llafs_lib.writing import Writer, yolo_lines

HEIGHT, WIDTH = 40, 60
MASKS = drawn.arrays(bool, drawn.array_shapes(min_dims=2, max_dims=2, max_side=24))


def disc(x, y, radius, shape=(HEIGHT, WIDTH)):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def found(name="okapi", mask=None, source="photos/a.jpg", **more):
    mask = disc(30, 20, 9) if mask is None else mask
    image = np.full((*mask.shape, 3), 200, np.uint8)
    return Prediction(name, mask, mask.astype(np.float32) * 0.5, image=image, source=source, **more)


def several(names, shape=(HEIGHT, WIDTH), source="photos/a.jpg"):
    masks = [disc(4 + 7 * (i % 7), 20, 4, shape) for i in range(len(names))]
    labels = np.zeros(shape, np.uint16)
    for number, mask in enumerate(masks, 1):
        labels[mask] = number
    return Predictions(tuple(found(n, m, source) for n, m in zip(names, masks, strict=True)), labels, source)


def written(results, path, format=None):
    """Write the results of many images; return what the writer says about each."""
    sources, first = [r.source for r in results], results[0]
    classes = [p.class_name for p in first] if isinstance(first, Predictions) else [first.class_name]
    with Writer(plan_output(path, format, sources, classes)) as writer:
        return [writer.write(i, result) for i, result in enumerate(results)]


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# --- one result, its format by the ending ----------------------------------------------------------------------------


def test_a_mask_has_the_size_of_the_image_and_two_values(in_tmp):
    result = found()
    path = result.save("okapi.png")
    assert path.as_posix() == "okapi.png"
    with Image.open(path) as image:
        assert image.size == (WIDTH, HEIGHT) and image.mode == "L"
        assert np.array_equal(np.array(image), result.mask * 255)
    assert files_below(in_tmp) == ["okapi.png"], "no temporary file is left"


def test_a_folder_takes_the_name_of_the_image(in_tmp):
    assert found(source="/elsewhere/photo.one.jpg").save("masks").as_posix() == "masks/photo.one.png"
    assert found(source="").save("masks/").as_posix() == "masks/okapi.png", "an array has no name"


def test_an_overlay_shows_the_mask_in_colour_and_leaves_the_rest(in_tmp):
    result = found()
    pixels = np.array(Image.open(result.save("a.jpg"))).astype(int)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    inside = np.abs(pixels - 200)[cv2.erode(result.mask.astype(np.uint8), np.ones((5, 5))) > 0]
    outside = np.abs(pixels - 200)[cv2.dilate(result.mask.astype(np.uint8), np.ones((9, 9))) == 0]
    assert inside.max(axis=1).min() > 40 and outside.max() < 12
    assert len({tuple(c) for c in class_colours(300)}) > 250 and class_colours(2)[0].tolist() == [0, 0, 0]


def test_several_classes_make_a_label_map_or_a_folder_each(in_tmp):
    result = several(["okapi", "lion"])
    assert result.save("found.png").as_posix() == "found.png"
    assert np.array_equal(np.array(Image.open("found.png")), result.label_map)
    assert cv2.imread("found.png", cv2.IMREAD_UNCHANGED).dtype == np.uint8
    assert json.loads((in_tmp / "found.classes.json").read_text()) == {"0": "background", "1": "okapi", "2": "lion"}
    assert result.save("masks").as_posix() == "masks"
    assert files_below(in_tmp / "masks") == ["lion/a.png", "okapi/a.png"]
    result.save("shown.jpg")
    assert list(json.loads((in_tmp / "shown.colours.json").read_text())) == ["okapi", "lion"]


@pytest.mark.parametrize(("n", "kind"), [(1, np.uint8), (255, np.uint8), (256, np.uint16), (300, np.uint16)])
def test_label_maps_hold_any_number_of_classes(in_tmp, n, kind):
    result = several([f"class {i}" for i in range(n)]) if n > 1 else found()
    result.save("map.png", "labelmap")
    for pixels in (np.array(Image.open("map.png")), cv2.imread("map.png", cv2.IMREAD_UNCHANGED)):
        assert pixels.dtype == kind and pixels.max() == n


# --- COCO ------------------------------------------------------------------------------------------------------------


def test_pycocotools_opens_both_files(in_tmp):
    ring = disc(30, 20, 12) & ~disc(30, 20, 6)
    first = Predictions((found("okapi", ring, confidence=0.4), found("lion", confidence=-0.1)), ring.astype(np.uint16))
    nothing = found(mask=np.zeros((HEIGHT, WIDTH), bool))
    second = Predictions((nothing, found("lion")), np.zeros((HEIGHT, WIDTH), np.uint16))
    output = plan_output("found.json", None, ["photos/a/x.jpg", "photos/b/Bär 1.PNG"], ["okapi", "lion"])
    with Writer(output) as writer:
        assert writer.write(0, first) == writer.write(1, second) == [Path("found.json")]
    coco = COCO("found.json")
    results = coco.loadRes("found.results.json")
    assert [i["file_name"] for i in coco.loadImgs([1, 2])] == ["a/x.jpg", "b/Bär 1.PNG"]
    assert [(c["id"], c["name"]) for c in coco.loadCats(coco.getCatIds())] == [(1, "okapi"), (2, "lion")]
    for opened in (coco, results):
        own = opened.loadAnns(opened.getAnnIds())
        assert [(a["image_id"], a["category_name"]) for a in own] == [(1, "okapi"), (1, "lion"), (2, "lion")]
        assert np.array_equal(opened.annToMask(own[0]).astype(bool), ring), "a mask keeps its hole"
        assert own[0]["area"] == ring.sum() and list(own[0]["bbox"]) == [19, 9, 23, 23]
        assert [a["score"] for a in own] == [0.4, -0.1, 0.5], "without a confidence, the mean probability"
        assert own[0]["file_name"] == "a/x.jpg" and isinstance(own[0]["segmentation"]["counts"], str)
    judged = COCOeval(coco, results, "segm")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    assert judged.stats[0] == pytest.approx(1)


def test_no_object_at_all_is_still_a_coco_file(in_tmp):
    found(mask=np.zeros((HEIGHT, WIDTH), bool)).save("found.json")
    assert COCO("found.json").getAnnIds() == [] and json.loads((in_tmp / "found.results.json").read_text()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, LlafsError])
def test_what_was_found_before_an_interruption_is_kept(in_tmp, error):
    with pytest.raises(error), Writer(plan_output("out/", "coco", ["a.jpg", "b.jpg"], ["okapi"])) as writer:
        writer.write(0, found())
        raise error("in the second image")
    assert [i["file_name"] for i in COCO("out/predictions.json").dataset["images"]] == ["a.jpg"]


# --- YOLO ------------------------------------------------------------------------------------------------------------


def filled(lines, shape, whole=np.trunc):
    """The mask as YOLO's readers make it: each polygon scaled, made whole (ultralytics cuts, others round), filled."""
    height, width = shape
    mask = np.zeros(shape, np.uint8)
    for line in lines:
        _, *numbers = line.split()
        points = np.array(numbers, float).reshape(-1, 2)
        assert len(points) > 2 and (points >= 0).all() and (points <= 1).all()
        cv2.fillPoly(mask, [whole(points * (width, height)).astype(np.int32)], 1)
    return mask.astype(bool)


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_yolo_polygons_cover_every_pixel_and_hardly_more(mask):
    again = filled(yolo_lines(mask, 0), mask.shape)
    assert (again >= mask).all() and np.array_equal(again, filled(yolo_lines(mask, 0), mask.shape, np.round))
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    whole = cv2.drawContours(np.zeros(mask.shape, np.uint8), outlines, -1, 1, -1)
    holes = (whole > 0) & ~mask
    assert not (again & ~mask & ~holes).any(), "more than a cut through a hole"


@pytest.mark.parametrize("turned", [False, True])
def test_yolo_keeps_holes_but_for_a_cut(turned):
    ring = disc(30, 20, 18) & ~disc(24, 20, 5) & ~disc(38, 20, 6) | disc(38, 20, 3)
    ring = ring.T.copy() if turned else ring
    lines = yolo_lines(ring, 3)
    again = filled(lines, ring.shape)
    assert len(lines) == 2 and {line.split()[0] for line in lines} == {"3"}
    assert (ring & again).sum() / (ring | again).sum() > 0.97


def test_yolo_writes_one_file_per_image_and_the_classes(in_tmp):
    results = [several(["okapi", "salt,\npepper"], source=f"photos/{name}") for name in ("a.jpg", "classes.jpg")]
    results.append(Predictions((found(mask=np.zeros((5, 5), bool)),) * 2, np.zeros((5, 5), np.uint16), "photos/c.jpg"))
    written(results, "labels", "yolo")
    assert files_below(in_tmp / "labels") == ["a.txt", "c.txt", "classes.jpg.txt", "classes.txt"]
    assert (in_tmp / "labels" / "classes.txt").read_text() == "okapi\nsalt, pepper\n"
    assert (in_tmp / "labels" / "c.txt").read_text() == "", "an image without the class"
    assert [line[0] for line in (in_tmp / "labels" / "a.txt").read_text().splitlines()] == ["0", "1"]
    found(mask=np.eye(4, dtype=bool)).save("one.txt", "yolo")
    assert (in_tmp / "one.txt").is_file() and (in_tmp / "classes.txt").read_text() == "okapi\n"


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["a/x.jpg", "b/x.jpg"], ["a/x.png", "b/x.png"]),
        (["a/x.jpg", "a/y.jpg"], ["x.png", "y.png"]),
        (["x.jpg", "x.png", "y.jpg"], ["x.jpg.png", "x.png.png", "y.png"]),
        (["x.jpg", "x.png", "x.jpg.webp"], ["x.jpg.png", "x.png.png", "x.jpg-2.png"]),
        (["X.jpg", "x.jpg"], ["X.jpg.png", "x.jpg-2.png"]),
        (["a.jpg", "sub/a.jpg", "../a.jpg"], None),
        (["x.jpg", "x.jpg"], ["x.jpg.png", "x.jpg-2.png"]),
        (['"><img src=x>.png', "con.jpg", ".hidden", "ü" * 120 + ".jpg"], None),
        (["a\udcff.jpg", "a\udcfe.jpg", "\udcff/a.jpg"], None),
        (["http://host/a.jpg?size=3", "frame 1", "", "\0"], None),
    ],
)
def test_names_never_clash_and_stay_in_the_folder(in_tmp, sources, names):
    files = [one for (one,) in written([found(source=source or "x") for source in sources], "masks")]
    if names:
        assert [file.relative_to("masks").as_posix() for file in files] == names
    assert len({file.as_posix().casefold() for file in files}) == len(sources)
    assert len(files_below(in_tmp)) == len(sources) == len(files_below(in_tmp / "masks"))


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=300), min_size=1, max_size=6))
def test_any_text_can_be_a_name(texts):
    for text in texts:
        name = safe_name(text)
        assert name.strip(" .") and not name.startswith(".") and not set(name) & set('<>:"/\\|?*\0\n')
        assert len(name.encode()) < 150 and safe_name(name) == name
    output = plan_output("nowhere/", "mask", texts, ["okapi"])
    targets = [target for i in range(len(texts)) for target in output.files(i)]
    assert len({t.as_posix().casefold() for t in targets}) == len(texts)
    assert all(os.path.normpath(t).startswith("nowhere" + os.sep) for t in targets)


def test_classes_become_folders_that_can_be_made(in_tmp):
    several(["../../etc", "a/b", "a?b", "aux", "A:B"]).save("masks")
    assert files_below(in_tmp) == files_below(in_tmp) and len(files_below(in_tmp / "masks")) == 5
    assert sorted(p.name for p in in_tmp.iterdir()) == ["masks"]


# --- what is refused, before anything is written ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "format", "message"),
    [
        ("x.npy", None, r"x.npy: a result is not written as .npy. End the name with .png"),
        ("x.txt", None, "for a .txt, choose format yolo"),
        ("x.tif", None, "is not written as .tif"),
        ("x.jpg", "mask", "format mask is written as .png, not .jpg .JPEG blurs its values."),
        ("x.png", "coco", "format coco is written as .json"),
        ("x.png", "yolo", "format yolo is written as .txt"),
        ("x.png", "masks", "format 'masks' is unknown: choose one of mask, .*Did you mean 'mask'"),
        ("x.png", "figure", "llafs segment --format figure"),
        ("sheet.png", "sheet", "llafs segment --format sheet"),
        ("classes.txt", "yolo", "choose another name"),
        ("a_file/", None, "a_file is a file, not a folder"),
        ("a_file", "coco", "a_file is a file, not a folder"),
        ("a_file/x.png", None, "a_file is a file, not a folder"),
        ("taken/", None, "taken.photo.png is a folder"),
        ("photo.jpg", None, "photo.jpg would overwrite the input photo.jpg"),
        ("./sub/../photo.jpg", None, "would overwrite the input photo.jpg"),
        ("link.jpg", None, "would overwrite the input photo.jpg"),
        ("", None, "is no name for a result"),
        ("x\0.png", None, "is no name for a result"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(in_tmp, path, format, message):
    Image.new("RGB", (9, 9)).save("photo.jpg")
    (in_tmp / "a_file").touch()
    (in_tmp / "sub").mkdir()
    (in_tmp / "taken" / "photo.png").mkdir(parents=True)
    os.link("photo.jpg", "link.jpg")
    before = files_below(in_tmp)
    with pytest.raises(LlafsError, match=message) as refused:
        found(source="photo.jpg").save(path, format)
    assert files_below(in_tmp) == before and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "format", "n_images", "n_classes", "message"),
    [
        ("x.png", None, 2, 1, "2 images do not fit into the one mask x.png: name a folder, such as x/"),
        ("x.png", None, 2, 2, "2 images do not fit into the one labelmap"),
        ("x.jpg", None, 3, 1, "3 images do not fit into the one overlay"),
        ("x.txt", "yolo", 2, 1, "2 images do not fit"),
        ("x.png", "mask", 1, 2, "2 classes do not fit into the one mask x.png"),
        ("x.png", "sheet", 501, 1, "501 images do not fit onto one sheet"),
    ],
)
def test_what_does_not_fit_into_one_file_is_refused(in_tmp, path, format, n_images, n_classes, message):
    classes = [f"class {i}" for i in range(n_classes)]
    with pytest.raises(LlafsError, match=message):
        plan_output(path, format, [f"{i}.jpg" for i in range(n_images)], classes, drawn=True)


def test_other_inputs_are_not_overwritten(in_tmp):
    (in_tmp / "annotations.json").touch()
    (in_tmp / "annotations.results.json").touch()
    for inputs in (["annotations.json"], ["annotations.results.json"]):
        with pytest.raises(LlafsError, match="would overwrite the input annotations"):
            plan_output("annotations.json", None, ["a.jpg"], ["okapi"], inputs=inputs)
    Image.new("RGB", (9, 9)).save("a.png")
    with pytest.raises(LlafsError, match="a.png would overwrite the input a.png"):
        plan_output(".", None, ["b.jpg", "a.png"], ["okapi"])


@pytest.mark.skipif(sys.platform != "linux", reason="nobody may write to /proc")
@pytest.mark.parametrize("path", ["/proc/masks/", "/proc/x.png", "/proc/a/b/c.json"])
def test_a_folder_that_nobody_may_write_to_is_refused(path):
    with pytest.raises(LlafsError, match="/proc.* cannot be written to .*choose another folder"):
        plan_output(path, None, ["a.jpg"], ["okapi"])


@pytest.mark.parametrize("format", ["yolo", "labelmap"])
def test_numbers_of_other_classes_are_not_mixed(in_tmp, format):
    written([several(["okapi", "lion"])], "out", format)
    written([several(["okapi", "lion"])], "out", format)  # the same again is no mixture
    with pytest.raises(LlafsError, match="lists other classes"):
        written([several(["lion", "okapi"])], "out", format)


@pytest.mark.parametrize("format", ["mask", "labelmap", "overlay", "coco", "yolo"])
def test_a_second_run_replaces_whole_files(in_tmp, format):
    for _ in range(2):
        written([found(source="a.jpg"), found(source="b.jpg")], "out", format)
        names = files_below(in_tmp / "out")
    assert not any("partial" in name for name in names) and len(names) in (2, 3)
    assert set(FORMATS) >= {format}


def test_a_full_disk_is_one_sentence(in_tmp, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(LlafsError, match=r"x.png cannot be written \(No space left on device\)"):
        found().save("x.png")


def test_an_overlay_needs_the_image(in_tmp):
    bare = Prediction("okapi", disc(30, 20, 9), np.zeros((HEIGHT, WIDTH), np.float32))
    with pytest.raises(LlafsError, match="does not hold its image"):
        bare.save("x.jpg")
    assert bare.save("x.png").is_file()
