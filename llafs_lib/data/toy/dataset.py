"""`toy`: drawn scenes of twenty COCO classes, in COCO's own layout, made in seconds.

Five families of four look-alikes stand in for the classes of COCO (`llafs_lib.classes.TOY_FAMILIES`), so that
a novel class can be segmented from images of its relatives on a CPU. `draw_scene` draws one image with its masks,
`make_toy` the whole data set:

    toy/annotations/instances_{train,val}.json
    toy/{train,val}/000000000001.jpg …
    toy/sums.json                              a hash of every file, by which damage is noticed
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock

from llafs_lib.artifacts import file_hash, read_json, replacing
from llafs_lib.classes import COCO_IDS, COCO_SUPERCATEGORIES, TOY_CLASSES
from llafs_lib.data.toy.backgrounds import draw_background
from llafs_lib.data.toy.indoors import INDOORS
from llafs_lib.data.toy.ink import Rng
from llafs_lib.data.toy.outdoors import OUTDOORS
from llafs_lib.data.toy.sketch import Sketch, finish, shrink
from llafs_lib.errors import LlafsError, writing_to
from llafs_lib.progress import track
from llafs_lib.seals import read_sealed, write_sealed
from llafs_lib.writing import coco_object

RENDERER_VERSION = 1  # raise it when images change: old data sets are told from new by it

SPLITS = ("train", "val")
SUMS = "sums.json"
SIDES = (176, 288)  # px, shortest and longest side of an image
AREAS = (2_400, 16_000)  # px, of an object before anything hides it
MIN_VISIBLE = 400  # px; what shows less of itself is painted but not annotated
MIN_SHARE = 0.55  # of an object that should stay visible when others stand before it
MAX = 99_999  # images per split, so that the image ids of the two splits do not meet
DRAWINGS = OUTDOORS | INDOORS

Scene = tuple[np.ndarray, list[tuple[str, np.ndarray]]]
Pair = tuple[int, int]  # a size (height, width) or a place (top, left), in px


# ------------------------------------------------------------------------------- objects and scenes


def draw_scene(rng: Rng, first_class: str | None = None) -> Scene:
    """An image of 1 to 4 objects, classes drawn uniformly from the twenty, the nearer before the farther.

    Args:
        first_class: a class that is sure to be among the objects.

    Returns:
        image [H, W, 3] uint8 RGB with H and W in `SIDES`, and per object, from back to front, its class and
        the mask [H, W] bool of its visible pixels: disjoint, `MIN_VISIBLE` px each at least.
    """
    size = _image_size(rng)
    canvas = draw_background(rng, *size).astype(np.float32)
    n_objects = rng.choice([1, 2, 3, 4], p=[0.2, 0.35, 0.3, 0.15])
    names = [str(name) for name in rng.choice(TOY_CLASSES, n_objects)]
    if first_class is not None:
        names[0] = first_class
    cut_outs = [_fit(*_cut_out(name, rng), size, n_objects, rng) for name in names]
    placed = _arrange([alpha for _, alpha in cut_outs], size, rng)

    for index, corner in placed:
        _paint(canvas, *cut_outs[index], corner)
    canvas *= rng.uniform(0.92, 1.06) * rng.uniform(0.97, 1.03, 3)  # the light of the hour
    canvas += 3.5 * rng.standard_normal((*size, 1), dtype=np.float32)  # grain of the sensor
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    owner = _owners(placed, [alpha for _, alpha in cut_outs], size)
    masks = [(names[index], owner == index) for index, _ in placed]
    return image, [(name, mask) for name, mask in masks if mask.sum() >= MIN_VISIBLE]


def _cut_out(class_name: str, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    sketch = Sketch()
    DRAWINGS[class_name](sketch, rng)
    return finish(sketch, rng)


def _image_size(rng: Rng) -> Pair:
    """Height and width, px: mostly around 192 × 256, a third upright, some squarish."""
    long, ratio = rng.integers(236, SIDES[1] + 1), rng.choice([0.75, 0.75, 0.8, 0.95])
    short = max(SIDES[0], int(long * ratio))
    return (long, short) if rng.random() < 0.35 else (short, long)


def _fit(colour: np.ndarray, mask: np.ndarray, size: Pair, n_objects: int, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Shrink a cut-out to an area drawn log-uniformly from `AREAS`, or to what fits beside the others."""
    largest = min(AREAS[1], 0.62 * size[0] * size[1] / n_objects)
    area = np.exp(rng.uniform(*np.log([AREAS[0], largest])))
    factor = np.sqrt(area / np.count_nonzero(mask))
    factor = min(factor, 0.92 * size[0] / mask.shape[0], 0.92 * size[1] / mask.shape[1])
    return shrink(colour, mask, factor)


def _arrange(alphas: list[np.ndarray], size: Pair, rng: Rng, tries: int = 15) -> list[tuple[int, Pair]]:
    """Choose where objects stand: (index, (top, left)) from back to front, the one standing lower in front.

    The first random arrangement that leaves `MIN_SHARE` of every object visible is taken, else the best.
    """
    best, best_share = [], -1.0
    for _ in range(tries):
        corners = [_corner(alpha.shape, size, rng) for alpha in alphas]
        placed = sorted(enumerate(corners), key=lambda item: item[1][0] + alphas[item[0]].shape[0])
        share = _least_visible(placed, alphas, size)
        if share > best_share:
            best, best_share = placed, share
        if best_share >= MIN_SHARE:
            break
    return best


def _corner(shape: Pair, size: Pair, rng: Rng) -> Pair:
    """Top left corner of an object standing in the lower third, a twentieth of it out of sight at most."""
    (rows, columns), (height, width) = shape, size
    foot = rng.uniform(max(rows, 0.65 * height), height + 0.05 * rows)
    return int(foot) - rows, int(rng.uniform(-0.05 * columns, width - 0.95 * columns))


def _least_visible(placed: list[tuple[int, Pair]], alphas: list[np.ndarray], size: Pair) -> float:
    """The share of itself that the most hidden object still shows."""
    owner = _owners(placed, alphas, size)
    return min(np.sum(owner == index) / np.sum(alpha >= 0.5) for index, alpha in enumerate(alphas))


def _owners(placed: list[tuple[int, Pair]], alphas: list[np.ndarray], size: Pair) -> np.ndarray:
    """[H, W] int8: which object shows at each pixel, −1 for none."""
    owner = np.full(size, -1, np.int8)
    for index, corner in placed:
        owner[_moved(alphas[index], corner, size) >= 0.5] = index
    return owner


def _moved(layer: np.ndarray, corner: Pair, size: Pair) -> np.ndarray:
    """A layer [h, w] or [h, w, 3] float32 on an image of `size`, 0 around it; what would stick out is cut off."""
    shift = np.float32([[1, 0, corner[1]], [0, 1, corner[0]]])
    return cv2.warpAffine(layer, shift, (int(size[1]), int(size[0])), flags=cv2.INTER_NEAREST)


def _paint(canvas: np.ndarray, colour: np.ndarray, alpha: np.ndarray, corner: Pair) -> None:
    """Lay an object and the shadow at its foot over `canvas`."""
    rows, columns = alpha.shape
    size = canvas.shape[:2]
    shadow = np.zeros(size, np.float32)
    foot = (corner[1] + columns // 2, corner[0] + rows - max(2, rows // 40))
    cv2.ellipse(shadow, foot, (int(columns * 0.48), max(3, columns // 14)), 0, 0, 360, 0.35, cv2.FILLED)
    canvas *= 1 - cv2.blur(shadow, (9, 9))[..., None]
    canvas += (_moved(colour, corner, size) - canvas) * _moved(alpha, corner, size)[..., None]


# ------------------------------------------------------------------------------------- the data set


def make_toy(out: Path, n_train: int = 400, n_val: int = 160, seed: int = 0, force: bool = False) -> Path:
    """Draw the data set into the folder `out` and return `out`. The same arguments give the same bytes.

    A finished data set of the same renderer, seed and counts is left as it is, and drawn anew where it is damaged. The
    folder appears under its name when everything in it is written.

    Args:
        n_train, n_val: images per split, 1 to 99,999. From 20 on, every class is in the split.
        seed: 0 to 99,999. Image i of a split depends on the seed, the split and i alone.
        force: draw again, and replace another `toy` data set at `out`.

    Raises:
        LlafsError: an argument is out of range, or `out` holds something else: with `force` something that is not a
            `toy` data set.
    """
    out, counts = Path(out), {"train": n_train, "val": n_val}
    for name, value, low in (("n_train", n_train, 1), ("n_val", n_val, 1), ("seed", seed, 0)):
        if not low <= value <= MAX:
            raise LlafsError(f"{name} must be a number from {low} to {MAX:,}, not {value!r}.")
    info = _info(counts, seed)
    if not force and _is_finished(out, info):
        return out
    _refuse_to_overwrite(out, info, force)

    target = out.resolve()
    with writing_to(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with writing_to(target), FileLock(target.with_name(f".{target.name}.lock")):  # several runs may start at once
        if not force and _is_finished(out, info):
            return out
        with replacing(target) as fresh:
            for split in SPLITS:
                _write_split(fresh, split, counts[split], seed, info)
            sums = {path.relative_to(fresh).as_posix(): file_hash(path) for path in sorted(fresh.glob("*/*"))}
            write_sealed(fresh / SUMS, {"info": info, "files": sums})
            if target.exists():  # an empty folder, or with `force` another toy data set, which can be drawn again
                shutil.rmtree(target)
    return out


def _annotation_file(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}.json"


def _info(counts: dict[str, int], seed: int) -> dict:
    return {
        "description": "toy: drawn scenes in COCO format for language-guided few-shot segmentation",
        "version": str(RENDERER_VERSION),
        "renderer_version": RENDERER_VERSION,
        "seed": int(seed),
        "n_train": int(counts["train"]),
        "n_val": int(counts["val"]),
    }


def _known_infos(root: Path) -> list[dict]:
    """What the readable ones of the files that describe a `toy` data set say it is; empty if it is none."""
    found = [read_json(file).get("info") for file in (root / SUMS, *(_annotation_file(root, s) for s in SPLITS))]
    return [info for info in found if isinstance(info, dict) and "renderer_version" in info]


def _is_finished(out: Path, info: dict) -> bool:
    """Whether such a data set is there, whole and as it was drawn."""
    known = read_sealed(out / SUMS)
    try:
        return known.get("info") == info and all(file_hash(out / n) == sha256 for n, sha256 in known["files"].items())
    except OSError:
        return False


def _refuse_to_overwrite(out: Path, info: dict, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    found = _known_infos(out)
    if not found:
        raise LlafsError(f"{out} is not a toy data set, so it is not replaced. Move it away, or choose another folder.")
    if force:
        return
    others = [one for one in found if one != info]
    if others:
        raise LlafsError(
            f"{out} holds another toy data set: it was made with {_summary(others[0])}, not with {_summary(info)}. "
            "Choose another folder, or replace it with `data_scripts/make_toy.py --force`."
        )
    print(f"note: {out} is not as it was drawn, so it is drawn anew", file=sys.stderr)


def _summary(info: dict) -> str:
    return ", ".join(f"{key} {info.get(key)}" for key in ("n_train", "n_val", "seed", "renderer_version"))


def _write_split(root: Path, split: str, count: int, seed: int, info: dict) -> None:
    folder, file = root / split, _annotation_file(root, split)
    folder.mkdir(parents=True)
    file.parent.mkdir(exist_ok=True)
    images, annotations = [], []
    for index in track(range(count), f"drawing toy/{split}", "image"):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        image, objects = draw_scene(rng, TOY_CLASSES[index % len(TOY_CLASSES)])
        image_id = SPLITS.index(split) * (MAX + 1) + index + 1
        name, (height, width) = f"{image_id:012d}.jpg", image.shape[:2]
        jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        (folder / name).write_bytes(jpeg.tobytes())
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for i, (class_name, mask) in enumerate(objects):
            ids = {"id": image_id * 10 + i, "image_id": image_id, "category_id": COCO_IDS[class_name]}
            annotations.append(ids | coco_object(mask))
    content = {"info": info, "licenses": [], "images": images, "annotations": annotations}
    file.write_text(json.dumps(content | {"categories": _categories()}))


def _categories() -> list[dict]:
    family = {name: group for group, names in COCO_SUPERCATEGORIES.items() for name in names}
    return [
        {"supercategory": family[name], "id": COCO_IDS[name], "name": name}
        for name in sorted(TOY_CLASSES, key=COCO_IDS.__getitem__)
    ]
