"""A COCO 2014 that is drawn: names, layout and numbers of the official release, and made-up objects.

Classes are as frequent as in COCO, objects as large (two fifths below 32² px, a quarter above 96²) and as detailed.
Images have the sizes of COCO's, but a few hundred files serve all: each entry is a hard link to one of them, so that
the folder takes little room and a reader meets files of the usual length. What they show is not what is annotated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from llafs_lib.classes import COCO_CLASSES, COCO_IDS
from llafs_lib.data.official import COCO_IMAGES

OBJECTS = 7.31  # an image: 604,907 in train2014
GROUP = 2.6  # objects of one class in an image, where there is one
LARGEST_ID = 581_929
SIZES = ((480, 640), (640, 480), (427, 640), (375, 500))  # height, width
SHARES = (0.5, 0.25, 0.15, 0.1)
FILES = 256  # JPEGs; a file system may allow 65,000 links to one
CROWDS, IN_TWO = 0.012, 0.09  # shares of the objects: crowds, and objects that something cuts in two
# Objects of each class in train2017, in thousands.
FREQUENCY = (
    *(262.5, 7.1, 43.9, 8.7, 5.1, 6.1, 4.6, 10.0, 10.8, 12.9, 1.9, 2.0, 1.3, 9.8, 10.8, 4.8, 5.5, 6.6, 9.5, 8.1),
    *(5.5, 1.3, 5.3, 5.1, 8.7, 11.4, 12.4, 6.5, 6.2, 2.7, 6.6, 2.7, 6.3, 9.1, 3.3, 3.7, 5.5, 6.1, 4.8, 24.3),
    *(7.9, 20.7, 5.5, 7.8, 6.2, 14.4, 9.5, 5.9, 4.4, 6.4, 7.3, 7.9, 2.9, 5.8, 7.2, 6.4, 38.5, 5.8, 8.7, 4.2),
    *(15.7, 4.2, 5.8, 5.0, 2.3, 5.7, 2.9, 6.4, 1.7, 3.3, 0.2, 5.6, 2.6, 24.7, 6.3, 6.6, 1.5, 4.8, 0.2, 2.0),
)


def draw_coco(folder: Path, images: int, seed: int = 0) -> int:
    """Draw a release with so many training images, and as many to validate on as COCO has for these.

    Args:
        folder: becomes `coco/`: train2014/, val2014/, annotations/. The annotations are written last.

    Returns: the number of objects.

    Raises:
        OSError: the file system knows no hard links.
    """
    rng = np.random.default_rng(seed)
    counts = {"train2014": images, "val2014": -(-images * COCO_IMAGES["val2014"] // COCO_IMAGES["train2014"])}
    files, objects = draw_files(folder / "files", min(FILES, images), rng), 0
    ids = rng.permutation(np.arange(1, LARGEST_ID + 1))
    for split, n in counts.items():
        own, ids = np.sort(ids[:n]), ids[n:]
        (folder / split).mkdir()
        entries = [entry(split, int(i), *files[rng.integers(len(files))], folder) for i in own]
        drawn = draw_objects(entries, round(n * OBJECTS), rng, first=objects + 1)
        objects += write(folder / "annotations" / f"instances_{split}.json", entries, drawn)
    return objects


def draw_files(folder: Path, n: int, rng: np.random.Generator) -> list[tuple[Path, tuple[int, int]]]:
    """JPEGs with coarse and fine structure, as photographs have: → (path, (height, width)) of each."""
    folder.mkdir(parents=True)
    found = []
    for number in range(n):
        height, width = SIZES[rng.choice(len(SIZES), p=SHARES)]
        image = np.full((height, width, 3), 128, np.float32)
        for cell, contrast in ((160, 60), (40, 30), (10, 15), (3, 16)):
            coarse = rng.normal(0, contrast, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
            image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        path = folder / f"{number}.jpg"
        cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92])
        found.append((path, (height, width)))
    return found


def entry(split: str, image_id: int, file: Path, size: tuple[int, int], folder: Path) -> dict[str, Any]:
    """The entry of an image, whose file is put in place."""
    name = f"COCO_{split}_{image_id:012d}.jpg"
    os.link(file, folder / split / name)
    url = f"http://images.cocodataset.org/{split}/{name}"
    facts = {"license": 1, "coco_url": url, "date_captured": "2013-11-14 11:18:45", "flickr_url": url}
    return {"id": image_id, "file_name": name, "height": size[0], "width": size[1], **facts}


def draw_objects(images: list[dict], n: int, rng: np.random.Generator, first: int) -> Iterator[dict[str, Any]]:
    """`n` annotations, ids from `first` on. Objects of one class come in groups: an image shows several at once."""
    groups = max(round(n / GROUP), 1)
    kinds = rng.choice(len(COCO_CLASSES), groups, p=np.array(FREQUENCY) / sum(FREQUENCY))
    places = rng.integers(0, len(images), groups)
    group = np.concatenate([np.arange(groups), rng.integers(0, groups, max(n - groups, 0))])[:n]
    areas = np.exp(rng.normal(7.47, 2.35, n))  # 41% below 32² px, 24% above 96²
    crowds, cut = rng.random(n) < CROWDS, rng.random(n) < IN_TWO
    for k in range(n):
        info = images[places[group[k]]]
        height, width = info["height"], info["width"]
        area = float(np.clip(areas[k], 60, 0.55 * height * width))
        centre = rng.random(2) * (width, height)
        if crowds[k]:
            outline = crowd(centre, area, height, width)
        else:
            parts = ((0.0, 0.65), (1.3, 0.35)) if cut[k] else ((0.0, 1.0),)  # how far apart, share of the area
            outline = [polygon(centre + (far * area**0.5, 0), s * area, (width, height), rng) for far, s in parts]
        yield {
            "segmentation": outline,
            "area": round(area, 2),
            "iscrowd": int(crowds[k]),
            "image_id": info["id"],
            "bbox": [*np.round(centre - area**0.5 / 2, 2).tolist(), round(area**0.5, 2), round(area**0.5, 2)],
            "category_id": COCO_IDS[COCO_CLASSES[kinds[group[k]]]],
            "id": first + k,
        }


def polygon(centre: np.ndarray, area: float, size: tuple[int, int], rng: np.random.Generator) -> list[float]:
    """x0, y0, x1, y1, … of a wavy ellipse, cut off at the image's border; `size` is (width, height)."""
    n = int(np.clip((6 + 4 * area**0.25) * rng.uniform(0.6, 1.4), 4, 120))
    angle = np.arange(n) * (2 * np.pi / n)
    wave, stretch = rng.uniform(0, 2 * np.pi, 2), np.exp(rng.normal(0, 0.25))
    radius = (area / np.pi) ** 0.5 * (1 + 0.2 * np.sin(3 * angle + wave[0]) + 0.1 * np.sin(7 * angle + wave[1]))
    points = centre + np.stack([radius * stretch * np.cos(angle), radius / stretch * np.sin(angle)], axis=1)  # [n, 2]
    return np.round(points.clip(0, size), 2).ravel().tolist()


def crowd(centre: np.ndarray, area: float, height: int, width: int) -> dict[str, list[int]]:
    """Run lengths, column by column, of a box around a place."""
    side = int(min(area**0.5, height, width)) or 1
    left, top = (int(np.clip(c - side / 2, 0, n - side)) for c, n in zip(centre, (width, height), strict=True))
    counts = [left * height + top, *([side, height - side] * side)]
    counts[-1] += height * width - sum(counts)
    return {"counts": counts, "size": [height, width]}


def write(path: Path, images: list[dict], annotations: Iterator[dict]) -> int:
    """Write an annotation file, one object after the other; return how many there are."""
    categories = [{"supercategory": "thing", "id": COCO_IDS[name], "name": name} for name in COCO_CLASSES]
    head, n = {"info": {"year": 2014}, "licenses": [], "images": images, "categories": categories}, 0
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head)[:-1] + ', "annotations": [')
        for n, annotation in enumerate(annotations, 1):
            file.write((", " if n > 1 else "") + json.dumps(annotation))
        file.write("]}")
    return n
