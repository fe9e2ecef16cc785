"""Folders of binary masks beside a folder of images."""

import numpy as np
import pytest
from own_files import HEIGHT, LATER, SQUARE, WIDTH, draw, mask_of, seen_in
from PIL import Image

from llafs_lib.data.own import open_own
from llafs_lib.errors import LlafsError


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


def test_a_stray_mask_does_no_harm(masks):
    before = seen_in(open_own(masks))
    save_mask(masks / "p2.png", 255 * mask_of(SQUARE))
    (masks / "zebra" / "dead.png").symlink_to("nowhere.png")
    split = open_own(masks)
    assert seen_in(split) == before and len(split.skipped) == 2


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


FAULTS = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "two classes": lambda path: save_mask(path, mask_of(SQUARE) + mask_of(LATER)),
    "another size": lambda path: save_mask(path, 255 * mask_of(SQUARE)[:20]),
    "no image": lambda path: path.write_text("no image"),
}


@pytest.mark.parametrize("spoil", FAULTS.values(), ids=FAULTS.keys())
def test_a_mask_that_is_none_is_left_out_and_counted(masks, spoil):
    spoil(masks / "zebra" / "p1.png")
    split = open_own(masks)
    assert (
        split.mask(1, "horse").any()
        and not split.mask(1, "zebra").any()
        and split.shown(0) == {i: ("horse",) for i in (1, 2)}
    )
    assert split.skipped == (
        f"1 × a mask that is none of one class, in the size of its image, the first in {masks / 'zebra' / 'p1.png'}",
    )
    assert len(split.annotations_of(1)) == 1
    spoil(masks / "horse" / "p1.png")
    with pytest.raises(LlafsError, match="masks: 2 of 3 masks cannot be used. .*p1.png"):
        open_own(masks)


def test_folders_without_a_mask(masks, tmp_path):
    for path in masks.rglob("*.png"):
        save_mask(path, 0 * mask_of(SQUARE))
    with pytest.raises(LlafsError, match="no mask shows a single pixel"):
        open_own(masks)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LlafsError, match="empty holds no folder of a class with mask images in it. Put each mask"):
        open_own(tmp_path / "empty")
