"""The one switch between data sets, and the folds made from each."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from llafs_lib.artifacts import RunFolder, write_json
from llafs_lib.classes import DATASETS, base_classes, novel_classes, validation_classes
from llafs_lib.data.coco import CocoSplit
from llafs_lib.data.labels import void_of
from llafs_lib.data.pascal import VocSplit, list_files
from llafs_lib.data.splits import Split
from llafs_lib.data.toy.dataset import make_toy
from llafs_lib.errors import LlafsError
from llafs_lib.records import Fold
from llafs_lib.settings import NOVEL_IN_TRAIN

TOY_FOLDER = Path("data/toy")  # under the working directory; drawn on first use


@dataclass(frozen=True)
class DataSet:
    """A named data set: its classes and its two splits."""

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split

    @property
    def fingerprint(self) -> str:
        """A short hash of file names and label maps. Every fold made from this data set carries it."""
        return sha256((self.train.fingerprint + self.val.fingerprint).encode()).hexdigest()[:16]


def data_root() -> Path:
    """The folder of downloaded data sets and weights: `LLAFS_DATA`, or `./data`. It may be read-only."""
    return Path(os.environ.get("LLAFS_DATA") or "data")


def open_dataset(name: str) -> DataSet:
    """Open a data set by name. `toy` is drawn first if it is not there yet.

    Raises:
        LlafsError: an unknown name, or files that are missing or unreadable; the message names them.
    """
    if name not in DATASETS:
        raise LlafsError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}.")
    if name == "toy":
        make_toy(TOY_FOLDER)
    classes = DATASETS[name].classes
    if name == "pascal-5i":
        return DataSet(name, classes, *(VocSplit(data_root() / "pascal", part) for part in ("train", "val")))
    splits = []
    for file in source_files(name):
        images = file.parent.parent / file.stem.removeprefix("instances_")
        splits.append(CocoSplit(images, file, classes))
    return DataSet(name, classes, *splits)


def source_files(name: str) -> tuple[Path, ...]:
    """The annotation files of a data set, training first; for PASCAL its lists of images. They need not exist yet."""
    if name == "pascal-5i":
        return list_files(data_root() / "pascal")
    if name == "toy":
        folder, splits = TOY_FOLDER, ("train", "val")
    else:
        year = "2014" if name in ("coco-20i", "coco-blocks") else "2017"
        folder, splits = data_root() / "coco", (f"train{year}", f"val{year}")
    return tuple(folder / "annotations" / f"instances_{split}.json" for split in splits)


def make_fold(dataset: DataSet, index: int, novel_in_train: str = "background", hold_out: bool = True) -> Fold:
    """Split the classes of a data set and list the images of each class (spec §3.1–3.3).

    The *training* images of the novel classes are listed, too, because a few-shot model is shown some of them as
    supports. No model here is trained on their masks.

    Args:
        index: which fold, 0 to 3.
        novel_in_train: what to do about novel objects in training images. They are in 27 to 59% of the training images
            of COCO-20i; the choice is worth points, and papers differ (spec §3.5). "background" keeps the images and
            calls novel pixels background (HSNet, PFENet). "ignore" keeps the images and takes no loss from novel pixels
            (RePRI). "drop" leaves out every image with a novel pixel (BAM, HDMNet).
        hold_out: set `validation_classes` aside to choose a model on. False trains on all base classes, as HSNet does.

    Raises:
        LlafsError: `index` is not from 0 to 3, `novel_in_train` is none of the three, a listed image is missing or cut
            off, or no image is left to train on or to ask about.
    """
    if novel_in_train not in NOVEL_IN_TRAIN:
        raise LlafsError(f"novel_in_train={novel_in_train!r} is unknown: choose one of {', '.join(NOVEL_IN_TRAIN)}.")
    base, novel = base_classes(dataset.name, index), novel_classes(dataset.name, index)
    for split in (dataset.train, dataset.val):
        split.check_files()
    train_images = dict(dataset.train.images_by_class())
    if novel_in_train == "drop":
        dropped = set(images_with(dataset.train, novel, min_pixels=1))
        train_images |= {c: tuple(i for i in train_images[c] if i not in dropped) for c in base}
    fold = Fold(
        dataset=dataset.name,
        index=index,
        base=base,
        novel=novel,
        train_images=train_images,
        test_images=dict(dataset.val.images_by_class()),
        validation=validation_classes(dataset.name, index) if hold_out else (),
        novel_in_train=novel_in_train,
        fingerprint=dataset.fingerprint,
    )
    for what, images, classes in (("train on", fold.train_images, fold.training), ("test on", fold.test_images, novel)):
        if not any(images[c] for c in classes):
            raise LlafsError(f"{dataset.name} fold {index} is empty: no image to {what} shows any of its classes.")
    return fold


def images_with(split: Split, classes: tuple[str, ...], min_pixels: int) -> tuple[int, ...]:
    """The ids of the images with at least `min_pixels` label pixels of any one of `classes`."""
    columns = [split.classes.index(c) for c in classes]
    shown = (split.pixels[:, columns] >= min_pixels).any(axis=1)
    return tuple(np.array(split.image_ids)[shown].tolist())


def training_labels(labels: np.ndarray, classes: tuple[str, ...], fold: Fold) -> np.ndarray:
    """A label map as training may see it, without the novel and the held-out classes.

    Args:
        labels: [H, W] uint8 or uint16, as `Split.label_map` returns it.
        classes: the classes of the data set in index order.

    Returns: [H, W] of the same type, in which the pixels of these classes are background, or void if
        `fold.novel_in_train` is "ignore".
    """
    void = void_of(labels)
    table = np.arange(void + 1, dtype=labels.dtype)
    hidden = [classes.index(c) + 1 for c in (*fold.novel, *fold.validation)]
    table[hidden] = void if fold.novel_in_train == "ignore" else 0
    return table[labels]


def save_fold(run: RunFolder, fold: Fold) -> None:
    """Write `folds.json`."""
    parameters = {"dataset": fold.dataset, "fold": fold.index, "data": fold.fingerprint}
    with run.writing("folds.json", parameters) as path:
        write_json(path, asdict(fold))


def load_fold(run: RunFolder, dataset: DataSet) -> Fold:
    """Read `folds.json` and check that it was made from `dataset`.

    Raises:
        LlafsError: there is none, or it was made from other data or was cut off.
    """
    stored = json.loads(run.require("folds.json", data=dataset.fingerprint).read_text(encoding="utf-8"))
    for key in ("base", "novel", "validation"):
        stored[key] = tuple(stored[key])
    for key in ("train_images", "test_images"):
        stored[key] = {name: tuple(ids) for name, ids in stored[key].items()}
    return Fold(**stored)
