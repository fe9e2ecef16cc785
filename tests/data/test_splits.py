"""Images of a split: they have the size of their annotations, and every fault is named."""

import json

import numpy as np
import pytest
from own_file import draw_own
from PIL import Image

from llafs_lib.data.coco import CocoSplit
from llafs_lib.errors import LlafsError


@pytest.fixture
def split(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in (1, 2)]
    for info in images:
        Image.fromarray(noise).save(tmp_path / info["file_name"])
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "zebra"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return CocoSplit(tmp_path, tmp_path / "a.json", ("zebra",))


def save_turned(path, width, height):
    image = Image.new("RGB", (width, height))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    image.save(path, exif=exif)


@pytest.mark.parametrize(("width", "height"), [(30, 40), (40, 30)])
def test_a_turned_image_comes_at_the_size_it_was_annotated_at(split, width, height):
    save_turned(split.file(1), width, height)
    assert split.image(1).shape == (30, 40, 3)


def test_an_image_of_another_size(split):
    Image.new("RGB", (41, 30)).save(split.file(1))
    with pytest.raises(LlafsError, match=r"1.jpg is 41×30 px, but was annotated at 40×30 px"):
        split.image(1)


def test_broken_images_are_named(split):
    split.file(1).write_text("no image")
    split.file(2).write_bytes(split.file(2).read_bytes()[:700])
    for image_id in (1, 2):
        with pytest.raises(LlafsError, match=f"{image_id}.jpg is not a readable image"):
            split.image(image_id)


def test_missing_files_are_found_before_the_work_begins(split):
    split.check_files()
    split.file(2).unlink()
    with pytest.raises(LlafsError, match=r"1 of 2 images are missing in .*, the first is 2.jpg: run the download"):
        split.check_files()


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "deep/" * 2000 + "a.jpg", "two\nlines.jpg", "\ud800.jpg"])
def test_a_file_name_that_no_file_can_have_is_missing_and_told_on_one_short_line(tmp_path, name):
    content = {"images": [{"id": 1, "file_name": name, "width": 40, "height": 30}], "annotations": []}
    (tmp_path / "a.json").write_text(json.dumps(content | {"categories": [{"id": 1, "name": "zebra"}]}))
    split = CocoSplit(tmp_path, tmp_path / "a.json", ("zebra",))
    with pytest.raises(LlafsError, match="1 of 1 images are missing") as failed:
        split.check_files()
    assert str(failed.value).isprintable() and len(str(failed.value)) < 500


@pytest.mark.parametrize("damage", [lambda b: b[:-300], lambda b: b"", lambda b: b"<html>no such image</html>"])
def test_cut_off_files_are_found_before_the_work_begins(split, damage):
    split.file(2).write_bytes(damage(split.file(2).read_bytes()))
    with pytest.raises(LlafsError, match=r"2.jpg is not a readable image"):
        split.check_files()


def test_bytes_after_the_end_of_an_image_do_no_harm(split):
    with split.file(2).open("ab") as file:
        file.write(b"appended by a camera")
    split.check_files()


def test_a_part_of_a_split_has_ids_and_classes_of_its_own(tmp_path):
    path = draw_own(tmp_path, [("hen", "pony"), ("pony",), ("ewe", "hen")])
    whole = CocoSplit(tmp_path / "images", path, ("hen", "pony", "ewe"))  # images 1, 3 and 5
    part = whole.part({10: 1, 20: 5}, ("owl", "ewe", "hen"))
    assert part.image_ids == (10, 20) and part.file(20) == whole.file(5) and part.size(10) == whole.size(1)
    assert not part.mask(20, "owl").any() and np.array_equal(part.mask(20, "ewe"), whole.mask(5, "ewe"))
    assert np.array_equal(part.label_map(10) > 0, whole.mask(1, "hen")), "what is no class of the part is background"
    assert part.pixels.tolist() == [[part.mask(i, c).sum() for c in part.classes] for i in part.image_ids]
    same = whole.part({1: 1, 5: 5})
    assert len({s.fingerprint for s in (whole, part, same, whole.part({1: 1, 3: 3}))}) == 4
    with pytest.raises(LlafsError, match="image 3 is not listed"):
        same.image(3)


def test_a_part_of_many_classes_has_label_maps_wide_enough(tmp_path):
    names = tuple(f"class {n}" for n in range(300))
    path = draw_own(tmp_path, [(n,) for n in names], size=(12, 9))
    few = CocoSplit(tmp_path / "images", path, names[:200]).part({1: 1, 3: 3}, names)
    many = CocoSplit(tmp_path / "images", path, names).part({599: 599}, names[::-1])
    assert few.label_map(3).max() == 2 and few.label_map(3).dtype == np.uint16
    assert many.mask(599, names[-1]).any() and many.label_map(599).max() == 1
