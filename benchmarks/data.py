"""What it costs to read data: the label maps of a whole release, and one episode. Run it by hand on an idle machine.

    python benchmarks/data.py --data path/to/the/folder/that/holds/coco

The first table is about label maps and lists of images. The annotations of coco-mini are repeated until they list as
many images as COCO train2014. Each size runs in its own process, because the peak memory of a process never falls.

The second table is about episodes of 1 query and 5 supports: decode, label map, resize, mask. Each step is stated as a
multiple of decoding the JPEGs by PIL. The steps take turns in one process, and their medians are compared.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from memory import peak_of
from PIL import Image

from llafs_lib.classes import COCO_CLASSES
from llafs_lib.data import labels
from llafs_lib.data.coco import CocoSplit
from llafs_lib.data.splits import read_rgb
from llafs_lib.vision.backbone import squash, to_input, to_mask

TRAIN2014 = 82_783  # images
BUDGET_S, BUDGET_MB = 8 * 60, 4096  # what train2014 may cost on two cores
SIZE, EPISODE = 400, 6  # px, images
BASELINE = "decode with PIL, nothing else"


def scaled_up(annotations: Path, n: int, out: Path) -> int:
    """Write annotations of `n` images, which repeat those of `annotations`; return the number of objects."""
    content = json.loads(annotations.read_text(encoding="utf-8"))
    objects: dict[int, list[dict]] = {}
    for a in content["annotations"]:
        objects.setdefault(a["image_id"], []).append(a)
    originals = [content["images"][i % len(content["images"])] for i in range(n)]
    content["images"] = [image | {"id": i} for i, image in enumerate(originals)]
    copies = [a | {"image_id": i} for i, image in enumerate(originals) for a in objects.get(image["id"], [])]
    content["annotations"] = [a | {"id": i} for i, a in enumerate(copies)]
    out.write_text(json.dumps(content), encoding="utf-8")
    return len(copies)


def open_split(folder: Path, annotations: Path, cache: Path) -> tuple[float, int, str]:
    """(seconds, peak MB, fingerprint) of opening a split and listing the images of each class."""
    labels.CACHE = cache
    started = time.perf_counter()
    split, _, peak = peak_of(lambda: CocoSplit(folder, annotations, COCO_CLASSES))
    split.images_by_class()
    return time.perf_counter() - started, peak, split.fingerprint


def in_a_process(*arguments: Path) -> tuple[float, int, str]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(open_split, arguments)


def release(coco: Path, images: int) -> None:
    print(f"label maps and lists, train2017 of coco-mini repeated; budget {BUDGET_S} s, {BUDGET_MB} MB")
    print(f"{'images':>9} {'objects':>9} {'painted':>9} {'peak':>9} {'cached':>8} {'ratio':>7} {'cache':>8}")
    for n in (images // 16, images // 4, images):
        with tempfile.TemporaryDirectory() as folder:
            file, cache = Path(folder) / "instances_scaled.json", Path(folder) / "cache"
            objects = scaled_up(coco / "annotations" / "instances_train2017.json", n, file)
            painted, peak, first = in_a_process(coco / "train2017", file, cache)
            cached, _, second = in_a_process(coco / "train2017", file, cache)
            assert first == second
            size = sum(p.stat().st_size for p in cache.rglob("*") if p.is_file()) / 2**20
            row = f"{n:9,} {objects:9,} {painted:7.1f} s {peak:6,} MB {cached:6.2f} s {painted / cached:6.0f}x"
            print(f"{row} {size:5.0f} MB", flush=True)
    print(f"of the budget: {painted / BUDGET_S:.0%} of the time, {peak / BUDGET_MB:.0%} of the memory\n")


def decode_with_pil(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def medians(steps: dict[str, tuple[Callable, list]], rounds: int) -> dict[str, float]:
    """The median of the seconds that each step, (function, items), takes for all its items. The steps take turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (step, items) in steps.items():
            started = time.perf_counter()
            for item in items:
                step(item)  # the result is dropped at once, as in a training loop
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(t) for name, t in times.items()}


def episodes(coco: Path, rounds: int, threads: int) -> None:
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    split = CocoSplit(coco / "train2017", coco / "annotations" / "instances_train2017.json", COCO_CLASSES)
    ids = split.image_ids[: 20 * EPISODE]
    images, maps = [split.image(i) for i in ids], [split.label_map(i) for i in ids]

    def read(image_id: int) -> None:
        squash(split.image(image_id), SIZE)
        to_mask(split.mask(image_id, "person"), SIZE)

    with tempfile.TemporaryDirectory() as folder:
        pngs = [Path(folder) / f"{i}.png" for i in ids]
        for path, label_map in zip(pngs, maps, strict=True):
            Image.fromarray(label_map).save(path)
        steps = {
            BASELINE: (decode_with_pil, [split.file(i) for i in ids]),
            "decode, label map, resize": (read, ids),
            "  decode": (read_rgb, [split.file(i) for i in ids]),
            "  label map from the cache": (split.label_map, ids),
            "  resize the image": (lambda image: squash(image, SIZE), images),
            "  resize the mask": (lambda mask: to_mask(mask, SIZE), [m == 1 for m in maps]),
            "resize and standardise": (lambda image: to_input(image, SIZE), images),
            "resize with PIL": (lambda image: Image.fromarray(image).resize((SIZE, SIZE), Image.BILINEAR), images),
            "label map from a PNG": (lambda path: np.asarray(Image.open(path)), pngs),
        }
        seconds = medians(steps, rounds)
    baseline = seconds[BASELINE]
    print(f"an episode of {EPISODE} images at {SIZE} px, {threads} thread(s), medians of {rounds} rounds")
    for name, s in seconds.items():
        print(f"{name:30s} {1000 * s / len(ids) * EPISODE:7.2f} ms {s / baseline:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(os.environ.get("LLAFS_DATA") or "data")
    parser.add_argument(
        "--data", type=Path, default=root, help="folder that holds coco/ with coco-mini (default: LLAFS_DATA, or data)"
    )
    parser.add_argument("--images", type=int, default=TRAIN2014, help="the largest size (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="of the second table (default: %(default)s)")
    options = parser.parse_args()
    os.environ["LLAFS_PROGRESS"] = "none"
    release(options.data / "coco", options.images)
    with tempfile.TemporaryDirectory() as folder:
        labels.CACHE = Path(folder)
        for threads in (1, 2):
            episodes(options.data / "coco", options.rounds, threads)


if __name__ == "__main__":
    main()
