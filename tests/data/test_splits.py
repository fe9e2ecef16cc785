"""Images of a split: they have the size of their annotations, and every fault is named."""

import json

import numpy as np
import pytest
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


@pytest.mark.parametrize("damage", [lambda b: b[:-300], lambda b: b"", lambda b: b"<html>no such image</html>"])
def test_cut_off_files_are_found_before_the_work_begins(split, damage):
    split.file(2).write_bytes(damage(split.file(2).read_bytes()))
    with pytest.raises(LlafsError, match=r"2.jpg is not a readable image"):
        split.check_files()


def test_bytes_after_the_end_of_an_image_do_no_harm(split):
    with split.file(2).open("ab") as file:
        file.write(b"appended by a camera")
    split.check_files()
