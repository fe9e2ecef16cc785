"""A user's own annotated images: what annotation tools write, and folders of masks."""

import json

import numpy as np
import pytest
from PIL import Image

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


def write(folder, content, names=("p1.jpg", "p2.jpg")):
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(path, format="JPEG")
    (folder / "a.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder / "a.json"


def test_the_plain_file(tmp_path):
    split = open_own(write(tmp_path, plain()))
    assert split.classes == ("zebra", "horse") and split.image_ids == (1, 2) and split.skipped == ()
    assert split.label_map(1).dtype == np.uint8 and split.size(1) == (HEIGHT, WIDTH)
    assert split.mask(1, "zebra")[5, 5] and split.mask(1, "horse")[10, 10] and not split.mask(1, "zebra")[10, 10]
    assert split.image(1).shape == (HEIGHT, WIDTH, 3) and split.file(1) == tmp_path / "images" / "p1.jpg"
    assert split.shown() == {1: ("zebra", "horse"), 2: ("horse",)}
    split.check_files()


def test_boxes_only(tmp_path):
    content = plain()
    for annotation in content["annotations"]:
        annotation |= {"segmentation": [], "bbox": [2, 2, 10, 10]}
    with pytest.raises(LlafsError, match=r"a.json: no object has an outline \(3 boxes only\)"):
        open_own(write(tmp_path, content))


def test_objects_below_the_share(tmp_path):
    split = open_own(write(tmp_path, plain()))
    assert MIN_AREA == pytest.approx(1 / 150)
    assert split.shown(0.09) == {1: ("horse",), 2: ("horse",)} | {1: ("zebra", "horse")}
    assert split.shown(1.0) == {1: ("zebra", "horse")}  # the largest object of each
