"""The one switch between data sets, and the folds made from each."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from llafs_lib.artifacts import RunFolder, write_json
from llafs_lib.classes import DATASETS, base_classes, novel_classes
from llafs_lib.data.coco import CocoSplit, DataError
from llafs_lib.data.toy import make_toy
from llafs_lib.records import Fold

TOY_FOLDER = Path("data/toy")  # drawn on first use, under the working directory


@dataclass(frozen=True)
class DataSet:
    """A named data set: its classes and its two splits."""

    name: str
    classes: tuple[str, ...]
    train: CocoSplit
    val: CocoSplit

    @property
    def fingerprint(self) -> str:
        """A short hash of what is annotated; it goes into every manifest made from this data set."""
        return hashlib.sha256((self.train.fingerprint + self.val.fingerprint).encode()).hexdigest()[:16]


def data_root() -> Path:
    """Where downloaded data sets and weights lie: `LLAFS_DATA`, or `./data`. May be read-only."""
    return Path(os.environ.get("LLAFS_DATA") or "data")


def open_dataset(name: str) -> DataSet:
    """Open a data set by name; `toy` is drawn first if it is not there yet.

    Raises:
        DataError: an unknown name, or files that are missing; the message says where they are expected.
    """
    if name not in DATASETS:
        raise DataError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}.")
    if name == "toy":
        make_toy(TOY_FOLDER)
    classes, (train, val) = DATASETS[name], annotation_files(name)
    return DataSet(name, classes, _open_split(train, classes), _open_split(val, classes))


def annotation_files(name: str) -> tuple[Path, Path]:
    """Where the annotations of a data set's two splits are expected, training first."""
    if name == "toy":
        folder, splits = TOY_FOLDER, ("train", "val")
    else:
        year = "2014" if name == "coco-20i" else "2017"
        folder, splits = data_root() / "coco", (f"train{year}", f"val{year}")
    train, val = (folder / "annotations" / f"instances_{split}.json" for split in splits)
    return train, val


def _open_split(annotations: Path, classes: tuple[str, ...]) -> CocoSplit:
    split = annotations.stem.removeprefix("instances_")
    return CocoSplit(annotations.parent.parent / split, annotations, classes)


def make_fold(dataset: DataSet, index: int) -> Fold:
    """Split the classes of a data set and list the pictures of each class (spec §3.1–3.3).

    The novel classes' *training* pictures are listed too: a few-shot model is shown some of them as supports. No model
    here is trained on their masks.

    Raises:
        LlafsError: `index` is not 0…3.
    """
    return Fold(
        dataset=dataset.name,
        index=index,
        base=base_classes(dataset.classes, index),
        novel=novel_classes(dataset.classes, index),
        train_images=dataset.train.images_by_class(),
        test_images=dataset.val.images_by_class(),
    )


def save_fold(run: RunFolder, fold: Fold, dataset: DataSet) -> None:
    """Write `folds.json`."""
    parameters = {"dataset": fold.dataset, "fold": fold.index, "data": dataset.fingerprint}
    with run.writing("folds.json", parameters) as path:
        write_json(path, asdict(fold))


def load_fold(run: RunFolder, dataset: DataSet) -> Fold:
    """Read `folds.json`, checked against the data set it is used with."""
    stored = json.loads(run.require("folds.json", data=dataset.fingerprint).read_text(encoding="utf-8"))
    for key in ("base", "novel"):
        stored[key] = tuple(stored[key])
    for key in ("train_images", "test_images"):
        stored[key] = {name: tuple(ids) for name, ids in stored[key].items()}
    return Fold(**stored)
