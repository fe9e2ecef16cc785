"""A folder with all that segmenting needs but the backbone's weights: it can be moved, and the data set may be gone.

okapi-bank/bank.json         what it was made from, and what can be expected of it
okapi-bank/files.json        size and time of the rows' files and of the images, by which they are known again
okapi-bank/support_bank/     the rows (`retrieval.bank`)
okapi-bank/thumbnails/       small copies of the supports, to be shown
okapi-bank/added/            supports that the user added (`retrieval.corrections`)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llafs_lib.artifacts import discard, read_json, replacing
from llafs_lib.data.folds import data_root
from llafs_lib.data.own import OwnSplit, images_of
from llafs_lib.data.splits import SupportReader
from llafs_lib.errors import LlafsError, told
from llafs_lib.evaluation.calibration import Calibration, calibrate
from llafs_lib.language.asking import Asker
from llafs_lib.language.replay import ReplayMiss
from llafs_lib.records import RelatedClasses
from llafs_lib.retrieval.bank import DamagedBank, SupportBank, build_bank, described_by, states_of
from llafs_lib.retrieval.scoring import by_looks
from llafs_lib.retrieval.thumbnails import Thumbnails
from llafs_lib.seals import described, is_unchanged, read_sealed, write_sealed
from llafs_lib.settings import PHOTOGRAPHS_BACKBONE
from llafs_lib.sharing import held
from llafs_lib.vision.backbone import Backbone, load_backbone, toy_backbone, usual_device
from llafs_lib.vision.prototype import PrototypeSegmenter
from llafs_lib.vision.recipes import size_compared

ABOUT, FILES, ROWS, THUMBNAILS, ADDED = "bank.json", "files.json", "support_bank", "thumbnails", "added"
SHARDS = "shards"  # of rows, while they are made on several machines
FORMAT = 2  # raise it when an older folder can no longer be read
HOW = {"plain": True, "sharpness": 8.0}  # of the prototypes; what benchmarks/policies.py found best


@dataclass(frozen=True)
class Wanted:
    """What a bank is to be made from. `threads` and the place of the folder decide nothing.

    Args:
        backbone: a name that `vision.backbone.load_backbone` knows, or "auto".
        size: side of the square that images are squashed to, px; 0 takes the backbone's (`size_compared`).
        min_area: share of its image that a mask must cover to be a support.
    """

    backbone: str = "auto"
    size: int = 0
    min_area: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.backbone, str):
            raise LlafsError(f"backbone must be the name of one, not {told(self.backbone)}.")
        if not (isinstance(self.size, int) and (self.size == 0 or 32 <= self.size <= 4096)):
            raise LlafsError(f"size must be a whole number of pixels from 32 to 4096, not {told(self.size)}.")
        if not (isinstance(self.min_area, int | float) and 0 <= self.min_area < 1):
            raise LlafsError(f"min_area must be a share of the image from 0 to 1, not {told(self.min_area)}.")

    def settings(self) -> dict[str, Any]:
        """As `bank.json` records it."""
        name = PHOTOGRAPHS_BACKBONE if self.backbone == "auto" else self.backbone
        return {"backbone": name, "size": self.size or size_compared(name), "min_area": self.min_area}


def is_bank_folder(path: str | Path) -> bool:
    return (Path(path) / ABOUT).is_file()


def bank_folder_for(annotations: Path) -> Path:
    """Where the bank of an annotation file is kept if nobody says where: beside it, else in ./data/cache."""
    beside = annotations.with_name(f"{annotations.stem}-bank")
    if beside.is_dir() or os.access(annotations.parent, os.W_OK):
        return beside
    return Path("data/cache") / beside.name


def read_about(folder: Path) -> dict[str, Any]:
    """`bank.json`, checked.

    Raises:
        DamagedBank: it is missing, damaged or of another version.
    """
    file = folder / ABOUT
    version = read_json(file).get("format", FORMAT)
    if version != FORMAT:
        raise DamagedBank(f"{file} is of format {version}, this version reads {FORMAT}: {_again(folder)}.")
    about = read_sealed(file)
    if not about:
        raise DamagedBank(f"{file} is not the file of a bank, or is damaged: {_again(folder)}.")
    return {**about, "calibration": Calibration.from_dict(about["calibration"])}


def read_bank(folder: Path, about: Mapping[str, Any]) -> SupportBank:
    """The rows of a bank folder.

    Raises:
        DamagedBank: they are not what `bank.json` says.
    """
    try:
        made_from = {"data": about["data"], "min_area": about["settings"]["min_area"]}
        return SupportBank.load(folder / ROWS, read_sealed(folder / FILES).get("rows"), **made_from)
    except LlafsError as error:
        raise DamagedBank(f"{folder / ROWS} is damaged, or of another bank: {_again(folder)}.") from error


def _again(folder: Path) -> str:
    return f"make it anew with `llafs bank IMAGES ANNOTATIONS -o {folder}`"


def load_segmenter(settings: Mapping[str, Any], threshold: float) -> tuple[PrototypeSegmenter, dict[str, Any]]:
    """The segmenter of a bank's settings, and what its features depend on (`described_by`)."""
    name = settings["backbone"]
    backbone: Backbone = toy_backbone() if name == "small" else load_backbone(name, data_root() / "weights")
    described = described_by(backbone, settings["size"])
    backbone = backbone.to(usual_device())
    return PrototypeSegmenter(backbone, settings["size"], threshold, **HOW, cache_mb=0), described


# --- making one -------------------------------------------------------------------------------------------------------


def make_bank_folder(
    folder: Path, split: OwnSplit, source: Mapping[str, Any], wanted: Wanted, asker: Asker | None = None
) -> None:
    """Describe every support of `split`, calibrate, and write the folder. What the user added to an older one stays.

    An interrupted call is continued by the next one. Two at once wait for each other.

    Args:
        source: the annotation file's state, by which `is_current` knows it again.
        asker: whom to ask for the classes' look-alikes when calibrating; None replays recorded answers, and takes the
            likeness of the features for classes without one.

    Raises:
        LlafsError: there is no support, something else is at `folder`, or it cannot be written.
    """
    shown = split.shown(wanted.min_area)
    if not shown:
        raise LlafsError(f"{source['name']} leaves no support: no mask covers {wanted.min_area:.2%} of its image.")
    check_place(folder)
    made_by = describer(split, wanted)  # before anything is written
    with held(folder, wait=True):
        _make(folder, split, shown, source, wanted, asker, *made_by)


def _make(
    folder: Path,
    split: OwnSplit,
    shown: Mapping[int, tuple[str, ...]],
    source: Mapping[str, Any],
    wanted: Wanted,
    asker: Asker | None,
    segmenter: PrototypeSegmenter,
    made_from: Mapping[str, Any],
) -> None:
    for what in split.skipped:
        print(f"note: {what}")
    settings, read = wanted.settings(), SupportReader(split, keep=1)
    rows = folder / ROWS
    if _made_from(rows, made_from) and (folder / THUMBNAILS).is_dir():
        bank = SupportBank.load(rows)
    else:
        discard(folder / ABOUT)  # written last: without it the folder counts as begun
        discard(rows)
        if not (folder / THUMBNAILS).is_dir():
            discard(folder / THUMBNAILS)
        bank = fill_rows(rows, folder / THUMBNAILS, split, shown, segmenter, made_from)
    everything = {i: tuple(c for c, n in zip(split.classes, row, strict=True) if n) for i, row in _pixels(split)}
    found = calibrate(bank, segmenter, everything, read.with_masks, stand_ins(bank, asker))
    about = {
        "format": FORMAT,
        "classes": list(split.classes),
        "data": split.fingerprint,
        "source": dict(source),
        "settings": settings,
        "calibration": found.to_dict(),
        "skipped": list(split.skipped),
    }
    there = [file for file in map(split.file, shown) if file.is_file()]  # one may have gone since it was described
    images = {os.path.relpath(file, split.folder): described(file) for file in there}
    for name, content in ((FILES, {"rows": states_of(rows), "images": images}), (ABOUT, about)):
        if (folder / name).is_dir():
            discard(folder / name)
        write_sealed(folder / name, content)


def describer(split: OwnSplit, wanted: Wanted) -> tuple[PrototypeSegmenter, dict[str, Any]]:
    """What describes the supports of a split, and all that decides their rows (`made_from` of the bank)."""
    segmenter, described = load_segmenter(wanted.settings(), Calibration().novel.threshold)
    return segmenter, {"data": split.fingerprint, "min_area": wanted.min_area, **described}


def fill_rows(
    rows: Path,
    thumbnails: Path,
    split: OwnSplit,
    shown: Mapping[int, tuple[str, ...]],
    segmenter: PrototypeSegmenter,
    made_from: Mapping[str, Any],
) -> SupportBank:
    """Make the rows and the thumbnails of some images: `shown` maps their ids to their classes."""
    read, keep = SupportReader(split, keep=1), Thumbnails(thumbnails, split.classes).keep

    def read_and_keep(image_id: int) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        image, masks = read.with_masks(image_id, shown[image_id])
        keep(image_id, image, masks)
        return image, masks

    return build_bank(rows, shown, split.classes, read_and_keep, _inference(segmenter), made_from)


def _inference(segmenter: PrototypeSegmenter) -> Callable[[np.ndarray], torch.Tensor]:
    def describe(image: np.ndarray) -> torch.Tensor:
        with torch.inference_mode():
            return segmenter.describe(image)

    return describe


def _pixels(split: OwnSplit):
    return zip(split.image_ids, split.pixels, strict=True)


def _made_from(rows: Path, made_from: Mapping[str, Any]) -> bool:
    try:
        SupportBank.load(rows, **made_from)
        return True
    except LlafsError:
        return False


def check_place(folder: Path) -> None:
    """Raise a LlafsError if something else than a bank, finished or begun, is at `folder`."""
    if folder.exists() and not (folder.is_dir() and (is_bank_folder(folder) or is_begun(folder))):
        raise LlafsError(f"{folder} exists and is no bank, so it is not replaced: choose another folder for the bank.")


def is_begun(folder: Path) -> bool:
    """Whether there is nothing in a folder but parts of a bank, so that it may be made anew."""
    parts = {ABOUT, FILES, ROWS, SHARDS, THUMBNAILS, ADDED}
    return {p.name for p in folder.iterdir() if not p.name.startswith(".")} <= parts


def stand_ins(bank: SupportBank, asker: Asker | None = None) -> Callable[[str], RelatedClasses]:
    """The other classes that look like a class: as the language model says, else as their features say."""
    asker, classes = asker or Asker(mode="replay"), bank.classes

    def related(name: str) -> RelatedClasses:
        others = set(classes) - {name}
        if len(others) == 0:
            return RelatedClasses(name, (), "nothing", "the only class")
        try:
            answer = asker.related(name, classes, others)
        except ReplayMiss:
            return by_looks(bank, name)
        return answer if answer.ranked and answer.source != "fallback" else by_looks(bank, name)

    return related


# --- knowing one again ------------------------------------------------------------------------------------------------


def state_of(annotations: Path, images: Path | None) -> dict[str, Any]:
    """By what an annotation file, or a folder of masks, is known again without being read."""
    files = sorted(p for p in annotations.rglob("*") if p.is_file()) if annotations.is_dir() else [annotations]
    stats = [p.stat() for p in files]
    where = "" if images is None else str(images.resolve())
    return {
        "name": annotations.name,
        "path": str(annotations.resolve()),
        "images": where,
        "files": len(files),
        "size": sum(stat.st_size for stat in stats),
        "mtime_ns": max((stat.st_mtime_ns for stat in stats), default=0),
    }


def check_current(folder: Path, source: Mapping[str, Any], opened: Callable[[], OwnSplit], wanted: Wanted) -> None:
    """Compare a finished bank with what it would be made from now.

    Args:
        opened: reads the data set; called only where the file's state has changed.

    Raises:
        DamagedBank: it is damaged.
        LlafsError: they differ; the message says in what, and what to do.
    """
    about, files = read_about(folder), read_sealed(folder / FILES)
    if not files or not (folder / THUMBNAILS).is_dir():
        raise DamagedBank(f"{folder} has lost {THUMBNAILS if files else FILES}, or it is damaged: {_again(folder)}.")
    keeps = "what you added to it is kept"
    for name, value in wanted.settings().items():
        if about["settings"].get(name) != value:
            raise LlafsError(
                f"the bank {folder} was made with {name}={about['settings'].get(name)!r}, not {value!r}: "
                f"{_again(folder)} ({keeps}), or choose another folder for the bank."
            )
    to_go_on = f"To go on, {_again(folder)} ({keeps}), or choose another folder for the bank."
    where = images_of(Path(source["path"]), source["images"] or None)
    if about["source"] != dict(source):
        split = opened()
        if about["data"] != split.fingerprint:
            raise LlafsError(f"the bank {folder} is stale: {source['name']} is not what it was made from. {to_go_on}")
    for name, known in files["images"].items():
        if not is_unchanged(where / name, *known) and (where / name).exists():
            raise LlafsError(f"the bank {folder} is stale: {where / name} is not the image that it knows. {to_go_on}")


def copy_bank_folder(folder: Path, to: Path) -> None:
    """Write a copy of a bank folder, whole or not at all.

    Raises:
        LlafsError: something is at `to` already, or it cannot be written.
    """
    if to.exists():
        raise LlafsError(f"{to} exists: choose a new folder.")
    with replacing(to) as new:
        shutil.copytree(folder, new, ignore=shutil.ignore_patterns(".*"))
