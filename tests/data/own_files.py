"""A small annotation file of a user's own, the images to it, and ways to write it differently."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as coco_rle

from llafs_lib.data.coco import fill

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


ENCODED = {
    "a byte order mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "Windows line ends": lambda text: text.replace("\n", "\r\n").encode(),
    "blank lines around": lambda text: f"\n\n{text}\n\n".encode(),
}
