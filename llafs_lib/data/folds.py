"""The one switch between data sets, and the folds made from each."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from llafs_lib.artifacts import RunFolder, write_json
from llafs_lib.classes import DATASETS, Benchmark
from llafs_lib.data.coco import CocoSplit
from llafs_lib.data.halves import as_second, halves
from llafs_lib.data.labels import void_of
from llafs_lib.data.own import MIN_AREA, open_own
from llafs_lib.data.pascal import VocSplit, list_files
from llafs_lib.data.splits import MIN_PIXELS, Split
from llafs_lib.data.toy.dataset import make_toy
from llafs_lib.errors import LlafsError
from llafs_lib.records import Fold
from llafs_lib.settings import NOVEL_IN_TRAIN, Settings, data_name

TOY_FOLDER = Path("data/toy")  # under the working directory; drawn on first use


@dataclass(frozen=True)
class DataSet:
    """A data set: its classes with their folds, and its two splits.

    `min_area` is the share of an image that a class must cover to count, of data of one's own; a benchmark counts
    2,048 label pixels instead (spec §3.3), and its `min_area` is 0. `source` says where data of one's own lie:
    annotations, images and val, as `open_dataset` takes them.
    """

    name: str
    benchmark: Benchmark
    train: Split
    val: Split
    min_area: float = 0.0
    source: Mapping[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names in index order."""
        return self.benchmark.classes

    @property
    def fingerprint(self) -> str:
        """A short hash of file names and label maps. Every fold made from this data set carries it."""
        return sha256((self.train.fingerprint + self.val.fingerprint).encode()).hexdigest()[:16]

    def least_pixels(self, split: Split) -> np.ndarray:
        """From how many label pixels on an image counts for a class, [images], in the order of `split.image_ids`."""
        if not self.min_area:
            return np.full(len(split), MIN_PIXELS)
        return split.areas() * self.min_area

    def listed(self, split: Split) -> dict[str, tuple[int, ...]]:
        """Class → ids of the images of a split that count for it, ascending."""
        return dict(split.images_by_class(self.least_pixels(split)))


def data_root() -> Path:
    """The folder of downloaded data sets and weights: `LLAFS_DATA`, or `./data`. It may be read-only."""
    return Path(os.environ.get("LLAFS_DATA") or "data")


def open_dataset(name: str, images: str = "", val: str = "", min_area: float = 0.0) -> DataSet:
    """Open a data set by its name, or one's own by the path of its COCO file. `toy` is drawn if it is not there yet.

    Args:
        images, val, min_area: of data of one's own; see `open_own_dataset`.

    Raises:
        LlafsError: an unknown name, or files that are missing or unreadable; the message names them.
    """
    chosen = Settings(dataset=name, images=images, val=val, min_area=min_area)
    if chosen.own:
        return open_own_dataset(chosen.dataset, chosen.images, chosen.val, min_area)
    if name == "toy":
        make_toy(TOY_FOLDER)
    benchmark = DATASETS[name]
    if name == "pascal-5i":
        return DataSet(name, benchmark, *(VocSplit(data_root() / "pascal", part) for part in ("train", "val")))
    splits = []
    for file in source_files(name):
        folder = file.parent.parent / file.stem.removeprefix("instances_")
        splits.append(CocoSplit(folder, file, benchmark.classes))
    return DataSet(name, benchmark, *splits)


def open_own_dataset(annotations: str, images: str = "", val: str = "", min_area: float = 0.0) -> DataSet:
    """A data set made of one's own images: the folds are made from the classes of the file.

    Args:
        annotations: the COCO file to train on.
        images: the folder of the images, of both files; empty where they lie beside the files.
        val: a second file, to test on. Without it, `validation_images` of the first are held out for that.
        min_area: the share of an image that a class must cover to count; 0 stands for `MIN_AREA`.

    Raises:
        LlafsError: files that are missing or unreadable, fewer than two classes, or none with images on both sides.
    """
    whole, min_area = open_own(annotations, images or None), min_area or MIN_AREA
    name, path = data_name(annotations), Path(annotations)
    if len(whole.classes) < 2:
        raise LlafsError(
            f"{path} has one class, {whole.classes[0]!r}, and no fold can be made of it: a fold needs a novel class "
            "and a base class. Annotate a second class."
        )
    if val:
        train, test = whole, as_second(whole, open_own(val, images or None))
    else:
        train, test = halves(whole, min_area)
    source = {"annotations": str(path.resolve()), "images": images, "val": val}
    found = DataSet(name, Benchmark(whole.classes), train, test, min_area, source)
    to_train, to_test = found.listed(train), found.listed(test)
    askable = tuple(c for c in whole.classes if to_train[c] and to_test[c])
    if not askable:
        counts = ", ".join(f"{c} {len(to_train[c])} + {len(to_test[c])}" for c in whole.classes[:12])
        raise LlafsError(
            f"{path}: no class has an image to train on and one to test on ({counts}{', …' * (len(whole.classes) > 12)}"
            f"; an object counts from {min_area:.2%} of its image on). Annotate more images, or lower min_area."
        )
    return replace(found, benchmark=Benchmark(whole.classes, askable=askable))


def class_names(dataset: str, images: str = "") -> tuple[str, ...]:
    """The classes of a data set, which need not be there if it has a name; of one's own file those with an object."""
    return DATASETS[dataset].classes if dataset in DATASETS else open_own(dataset, images or None).classes


def source_files(name: str, val: str = "") -> tuple[Path, ...]:
    """The annotation files of a data set, training first; for PASCAL its lists of images. They need not exist yet."""
    if name not in DATASETS:
        return tuple(Path(path) for path in (name, val) if path)
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
        index: which fold, from 0 on.
        novel_in_train: what to do about novel objects in training images. They are in 27 to 59% of the training images
            of COCO-20i; the choice is worth points, and papers differ (spec §3.5). "background" keeps the images and
            calls novel pixels background (HSNet, PFENet). "ignore" keeps the images and takes no loss from novel pixels
            (RePRI). "drop" leaves out every image with a novel pixel (BAM, HDMNet).
        hold_out: set `validation_classes` aside to choose a model on. False trains on all base classes, as HSNet does.

    Raises:
        LlafsError: there is no such fold, `novel_in_train` is none of the three, a listed image is missing or cut
            off, or too few images are left to train on or to ask about.
    """
    if novel_in_train not in NOVEL_IN_TRAIN:
        raise LlafsError(f"novel_in_train={novel_in_train!r} is unknown: choose one of {', '.join(NOVEL_IN_TRAIN)}.")
    try:
        base, novel = dataset.benchmark.base(index), dataset.benchmark.novel(index)
    except LlafsError as error:
        raise LlafsError(f"{dataset.name}: {error}") from None
    for split in (dataset.train, dataset.val):
        split.check_files()
    train_images = dataset.listed(dataset.train)
    if novel_in_train == "drop":
        dropped = set(images_with(dataset.train, novel, min_pixels=1))
        train_images |= {c: tuple(i for i in train_images[c] if i not in dropped) for c in base}
    images = {"train_images": train_images, "test_images": dataset.listed(dataset.val)}
    made_from = {"novel_in_train": novel_in_train, "fingerprint": dataset.fingerprint}
    fold = _with_classes(Fold(dataset.name, index, base, novel, **images, **made_from), dataset, index, hold_out)
    if lack := _lack(fold):
        more = "Annotate more images: three of a class are two to train on and one to test on"
        others = [f for f in range(dataset.benchmark.n_folds) if not _lack(_with_classes(fold, dataset, f, hold_out))]
        more += f", or take fold {' or '.join(map(str, others))}" if others else ""
        more += ", or do not drop the images with novel objects" if novel_in_train == "drop" else ""
        raise LlafsError(f"{dataset.name} fold {index} is too small, because {lack}. {more}.")
    return fold


def _with_classes(fold: Fold, dataset: DataSet, index: int, hold_out: bool) -> Fold:
    """The same images with the classes of a fold, perhaps another one."""
    classes = dataset.benchmark
    validation = classes.validation(index) if hold_out else ()
    return replace(fold, index=index, base=classes.base(index), novel=classes.novel(index), validation=validation)


def _lack(fold: Fold) -> str:
    """What a fold lacks to be trained on and asked about, in words; "" if nothing."""
    shown, asked = fold.train_images, fold.test_images
    trained, novel = (", ".join(names[:8]) + ", …" * (len(names) > 8) for names in (fold.training, fold.novel))
    if not any(len(shown[c]) >= 2 for c in fold.training):
        return f"no class to train on has two training images ({trained})"
    if not any(shown[c] and asked[c] for c in fold.training):
        return f"no class to train on has a training image and a test image ({trained})"
    if not any(shown[c] and asked[c] for c in fold.novel):
        return f"no novel class has a training image and a test image ({novel})"
    return ""


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


def save_fold(run: RunFolder, fold: Fold, dataset: DataSet | None = None) -> None:
    """Write `folds.json`. The manifest says where a `dataset` of one's own lies, so that the run finds it again."""
    parameters = {"dataset": fold.dataset, "fold": fold.index, "data": fold.fingerprint}
    if dataset is not None and dataset.source:
        parameters |= {**dataset.source, "min_area": dataset.min_area}
    with run.writing("folds.json", parameters) as path:
        write_json(path, asdict(fold))


def load_fold(run: RunFolder, dataset: DataSet | None = None) -> Fold:
    """Read `folds.json`.

    Args:
        dataset: what it must have been made from, if that is to be checked.

    Raises:
        LlafsError: there is none, or it was made from other data than `dataset`, or was cut off.
    """
    needed = {} if dataset is None else {"data": dataset.fingerprint}
    stored = json.loads(run.require("folds.json", **needed).read_text(encoding="utf-8"))
    for key in ("base", "novel", "validation"):
        stored[key] = tuple(stored[key])
    for key in ("train_images", "test_images"):
        stored[key] = {name: tuple(ids) for name, ids in stored[key].items()}
    return Fold(**stored)


def open_fold(run: RunFolder, annotations: str = "") -> tuple[DataSet, Fold]:
    """The data set of a run, and its fold. A run on data of one's own knows where they lie.

    Args:
        annotations: where one's own COCO file lies now, if it was moved since; its images beside it.

    Raises:
        LlafsError: there is no such fold, or the data set is missing, has changed or was cut off.
    """
    run.require("folds.json", dataset=run.dataset, fold=run.fold)
    made = run.parameters("folds.json")
    if "annotations" in made:
        dataset = _found_again(run, made, annotations)
    else:
        dataset = open_dataset(made["dataset"])
    return dataset, load_fold(run, dataset)


def _found_again(run: RunFolder, made: Mapping[str, Any], annotations: str) -> DataSet:
    """The data set of one's own that a run was made from."""
    moved = {"annotations": annotations, "images": ""} if annotations else {}
    places = {name: made[name] for name in ("annotations", "images", "val")} | moved
    for name, path in places.items():
        if path and not Path(path).exists():
            raise LlafsError(
                f"{run.path} was made from {path} ({name}), which is not there any more. Put it back, or open the run "
                "with LLaFS.from_run(run, annotations=…), which takes the new place of the COCO file."
            )
    return replace(open_own_dataset(**places, min_area=made["min_area"]), name=run.dataset)
