"""PASCAL-5i from files in the official layouts, made small."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from llafs_lib.classes import PASCAL_CLASSES
from llafs_lib.data.folds import make_fold, open_dataset
from llafs_lib.data.pascal import VocSplit, merged_list
from llafs_lib.errors import LlafsError

AEROPLANE, CAT = PASCAL_CLASSES.index("aeroplane") + 1, PASCAL_CLASSES.index("cat") + 1
LISTS = {
    "voc/train": ["2007_000032", "2007_000039"],
    "voc/val": ["2007_000033", "2008_000002"],
    "sbd/train": ["2007_000032", "2008_000003"],  # one of VOC's training images again
    "sbd/val": ["2007_000033", "2008_000007"],  # one of VOC's validation images: must not be trained on
}


@pytest.fixture
def root(tmp_path):
    """`pascal/`: VOC's cats stand on the left and have void around them, SBD's aeroplanes are on the right."""
    voc, sbd = tmp_path / "pascal/VOCdevkit/VOC2012", tmp_path / "pascal/benchmark_RELEASE/dataset"
    for folder in (voc / "ImageSets/Segmentation", voc / "JPEGImages", voc / "SegmentationClass", sbd / "cls"):
        folder.mkdir(parents=True)
    for key, names in LISTS.items():
        source, part = key.split("/")
        path = voc / "ImageSets/Segmentation" / f"{part}.txt" if source == "voc" else sbd / f"{part}.txt"
        path.write_text("".join(f"{n}\n" for n in names))
        for name in names:
            Image.new("RGB", (120, 80)).save(voc / "JPEGImages" / f"{name}.jpg")
            labels = np.zeros((80, 120), np.uint8)
            if source == "voc":
                labels[:, :40], labels[:, 40:42] = CAT, 255
                mask = Image.fromarray(labels, "P")
                mask.putpalette([v for i in range(256) for v in (i, i, i)])
                mask.save(voc / "SegmentationClass" / f"{name}.png")
            else:
                labels[:, 60:] = AEROPLANE
                savemat(sbd / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": labels, "Boundaries": 0}})
    return tmp_path / "pascal"


def test_the_training_list_is_merged_and_leaves_validation_out(root):
    names = merged_list(root / "VOCdevkit/VOC2012", root / "benchmark_RELEASE/dataset")
    assert names == ["2007_000032", "2007_000039", "2008_000003", "2008_000007"]


def test_vocs_own_masks_go_before_sbds_and_void_stays_void(root):
    train, val = VocSplit(root, "train"), VocSplit(root, "val")
    assert train.image_ids == (2007000032, 2007000039, 2008000003, 2008000007)
    assert train.mask(2007000032, "cat").sum() == 40 * 80 and not train.mask(2007000032, "aeroplane").any()
    assert train.void(2007000032).sum() == 2 * 80
    assert train.mask(2008000007, "aeroplane").sum() == 60 * 80 and not train.void(2008000007).any()
    assert val.image_ids == (2007000033, 2008000002) and val.mask(2007000033, "cat").any()
    assert val.file(2007000033).name == "2007_000033.jpg" and val.image(2007000033).shape == (80, 120, 3)
    assert val.pixels[0, PASCAL_CLASSES.index("cat")] == 3200 and val.pixels.sum() == 6400  # void counts for nothing


def test_a_list_that_is_not_the_fields_is_reported(root):
    (skipped,) = VocSplit(root, "train").skipped
    assert "a merged training list of 4 images instead of 10,582" in skipped


def test_a_fold_of_it(root, monkeypatch):
    monkeypatch.setenv("LLAFS_DATA", str(root.parent))
    mask = Image.open(root / "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png")
    mask.paste(AEROPLANE, (60, 0, 120, 80))
    mask.save(mask.filename)
    dataset = open_dataset("pascal-5i")
    fold = make_fold(dataset, 1)
    assert fold.novel == ("bus", "car", "cat", "chair", "cow")
    assert fold.test_images["cat"] == dataset.val.image_ids
    assert fold.train_images["aeroplane"] == (2008000003, 2008000007) and len(fold.test_images["aeroplane"]) == 1
    with pytest.raises(LlafsError, match="pascal-5i fold 3 is too small, because no novel class .* take fold 0 or 1"):
        make_fold(dataset, 3)


@pytest.mark.parametrize("gone", ["VOCdevkit/VOC2012/JPEGImages", "benchmark_RELEASE/dataset/train.txt"])
def test_what_is_missing_is_named(root, gone):
    (root / gone).rename(root / "elsewhere")
    with pytest.raises(LlafsError, match=f"PASCAL-5i lacks .*{gone.split('/')[-1]}: run .*download_pascal.py"):
        VocSplit(root, "train")


def damage_png(root):
    (root / "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png").write_bytes(b"\x89PNG")
    return "2007_000032.png is not a readable mask"


def colour_png(root):  # what happens when a palette PNG is opened and saved by a careless tool
    Image.new("RGB", (120, 80)).save(root / "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png")
    return "2007_000032.png is not a mask of VOC classes"


def damage_mat(root):
    (root / "benchmark_RELEASE/dataset/cls/2008_000003.mat").write_bytes(b"cut")
    return "2008_000003.mat is not a readable SBD mask"


def remove_mat(root):
    (root / "benchmark_RELEASE/dataset/cls/2008_000003.mat").unlink()
    return "2008_000003.mat does not exist"


@pytest.mark.parametrize("fault", [damage_png, colour_png, damage_mat, remove_mat])
def test_bad_masks_are_named(root, fault):
    message = fault(root)
    with pytest.raises(LlafsError, match=message):
        VocSplit(root, "train")
