import json

import numpy as np
import pytest
from PIL import Image

from llafs_lib.classes import COCO_CLASSES
from llafs_lib.data.coco import CocoSplit, DataError, read_rgb
from llafs_lib.data.folds import annotation_files, open_dataset

SQUARE = [2.9, 2.9, 12.9, 2.9, 12.9, 12.9, 2.9, 12.9]  # cut to whole pixels: corners at 2 and 12
LATER = [8, 8, 18, 8, 18, 18, 8, 18]


def annotation(category, segmentation, **more):
    return {"id": 1 + more.pop("id", 0), "image_id": 1, "category_id": category, "segmentation": segmentation} | more


@pytest.fixture
def make_split(tmp_path):
    def make(annotations, categories=("zebra", "horse")):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "pictures" / "1.jpg")
        content = {
            "images": [{"id": 1, "file_name": "1.jpg", "width": 40, "height": 30}],
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": n} for i, n in enumerate(categories)],
        }
        (tmp_path / "a.json").write_text(json.dumps(content))
        return CocoSplit(tmp_path / "pictures", tmp_path / "a.json", ("zebra", "horse"))

    return make


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


def test_crowds_and_unlisted_categories_are_left_out(make_split):
    crowd = {"size": [30, 40], "counts": [0, 1200]}
    split = make_split(
        [annotation(1, crowd, iscrowd=1), annotation(3, [SQUARE], id=1)], categories=("zebra", "horse", "person")
    )
    assert not split.label_map(1).any()


def test_uncompressed_run_lengths(make_split):
    split = make_split([annotation(2, {"size": [30, 40], "counts": [30, 60, 1110]}, iscrowd=0)])
    assert split.mask(1, "horse").sum() == 60 and split.mask(1, "horse")[:, 1:3].all()


def test_the_area_rule(make_split):
    split = make_split([annotation(1, [SQUARE])])
    assert split.images_by_class(min_pixels=121)["zebra"] == (1,)
    assert split.images_by_class(min_pixels=122)["zebra"] == ()


def test_an_annotation_without_any_polygon(make_split):
    assert not make_split([annotation(1, [])]).label_map(1).any()


def test_a_missing_category(make_split):
    with pytest.raises(DataError, match="no category named horse"):
        make_split([], categories=("zebra",))


def test_a_picture_of_another_size(make_split, tmp_path):
    split = make_split([])
    Image.new("RGB", (41, 30)).save(tmp_path / "pictures" / "1.jpg")
    with pytest.raises(DataError, match="do not belong together"):
        split.image(1)


def test_missing_and_broken_files(make_split, tmp_path):
    with pytest.raises(DataError, match="LLAFS_DATA"):
        CocoSplit(tmp_path, tmp_path / "nothing.json", ())
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match="bad.json"):
        CocoSplit(tmp_path, tmp_path / "bad.json", ())
    with pytest.raises(DataError, match="picture 7 is not listed"):
        make_split([]).image(7)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16", "1"])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("p.tif" if mode in ("CMYK", "I;16") else "p.png")
    Image.new(mode, (5, 4)).save(path)
    assert read_rgb(path).shape == (4, 5, 3) and read_rgb(path).dtype == np.uint8


def test_exif_rotation_is_applied(tmp_path):
    picture = Image.new("RGB", (50, 40))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "p.jpg", exif=exif)
    assert read_rgb(tmp_path / "p.jpg").shape == (50, 40, 3)


def test_broken_pictures_are_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:900])
    for name in ("text.jpg", "cut.jpg"):
        with pytest.raises(DataError, match=name):
            read_rgb(tmp_path / name)
    with pytest.raises(DataError, match="does not exist"):
        read_rgb(tmp_path / "nothing.jpg")


def test_unknown_data_set():
    with pytest.raises(DataError, match="choose one of toy, coco-mini, coco-20i"):
        open_dataset("coco")


def test_the_data_root_follows_the_environment(monkeypatch):
    monkeypatch.setenv("LLAFS_DATA", "somewhere")
    assert annotation_files("coco-mini")[0].as_posix() == "somewhere/coco/annotations/instances_train2017.json"
    assert annotation_files("toy")[0].as_posix() == "data/toy/annotations/instances_train.json"


@pytest.mark.parametrize("split", [0, 1])
def test_real_photographs(photographs, monkeypatch, split):
    monkeypatch.setenv("LLAFS_DATA", str(photographs))
    dataset = open_dataset("coco-mini")
    part = (dataset.train, dataset.val)[split]
    assert len(part) == (300, 120)[split]
    lists = part.images_by_class()
    print({name: len(ids) for name, ids in lists.items()})
    assert set(lists) == set(COCO_CLASSES)
    assert len(lists["person"]) == max(map(len, lists.values()))
    image_id = part.image_ids[0]
    assert part.image(image_id).shape[:2] == part.label_map(image_id).shape
