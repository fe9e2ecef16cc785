"""What `LLaFS` is made of: a run that the notebooks left, a bank folder, or annotated images of one's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from llafs_lib import bank_folder
from llafs_lib.artifacts import RunFolder
from llafs_lib.bank_folder import Wanted
from llafs_lib.data.files import path_of
from llafs_lib.data.folds import data_root, open_fold
from llafs_lib.data.own import open_own
from llafs_lib.data.splits import SupportReader
from llafs_lib.errors import LlafsError
from llafs_lib.language.asking import Asker
from llafs_lib.retrieval.bank import DamagedBank, SupportBank, described_by
from llafs_lib.retrieval.corrections import Corrections
from llafs_lib.retrieval.thumbnails import Thumbnails
from llafs_lib.vision.backbone import Backbone, load_backbone, usual_device
from llafs_lib.vision.hsnet import HSNet
from llafs_lib.vision.prototype import PrototypeSegmenter
from llafs_lib.vision.segmenter import HSNetSegmenter

MODEL = "hsnet.safetensors"


def open_run(run: str | Path, method: str, annotations: str = "") -> dict[str, Any]:
    """The arguments of `LLaFS` for what notebooks 01, 02 and 04 left.

    Args:
        annotations: of a run on images of one's own, where the COCO file lies now, if it was moved since.

    Raises:
        LlafsError: it is no run folder, or an artifact is missing or does not fit the others.
    """
    folder = RunFolder.at(run)
    dataset, fold = open_fold(folder, annotations)  # checks that the run belongs to the data
    first = MODEL if method == "hsnet" else "support_bank"
    folder.require(first, fold=fold.index, data=fold.digest)
    made_with = folder.parameters(first)  # all that is read was made with the same model
    bank = SupportBank.load(folder.require("support_bank", **made_with))
    calibration = json.loads(folder.require("calibration.json", **made_with).read_text(encoding="utf-8"))
    if method == "hsnet":
        segmenter = HSNetSegmenter.from_file(folder.path / MODEL)
        described = described_by(segmenter.model.backbone, segmenter.compared_at)
    else:
        backbone, size = _backbone_of(bank, folder), bank.made_from.get("size")
        described = described_by(backbone, size)
        segmenter = PrototypeSegmenter(backbone, size, **calibration["prototypes"])
    bank.check(**described)
    return {
        "method": segmenter,
        "bank": bank,
        "read": SupportReader(dataset.train),
        "vocabulary": dataset.classes,
        "corrections": Corrections(folder.path / bank_folder.ADDED, segmenter.describe, described),
    }


def open_bank(folder: str | Path) -> dict[str, Any]:
    """The arguments of `LLaFS` for a bank folder.

    Raises:
        LlafsError: a part is missing, unreadable, or was described by other weights.
    """
    folder = Path(folder)
    about = bank_folder.read_about(folder)
    segmenter, described = bank_folder.load_segmenter(about["settings"], about["calibration"].novel.threshold)
    bank = bank_folder.read_bank(folder, about)
    bank.check(**described)
    return {
        "method": segmenter,
        "bank": bank,
        "read": Thumbnails(folder / bank_folder.THUMBNAILS, bank.classes),
        "calibration": about["calibration"],
        "corrections": Corrections(folder / bank_folder.ADDED, segmenter.describe, described),
        "folder": folder,
    }


def open_own_images(
    annotations: str | Path, images: str | Path | None, bank: str | Path | None, wanted: Wanted, asker: Asker
) -> dict[str, Any]:
    """The arguments of `LLaFS` for annotated images of one's own, whose bank is built if there is none.

    Raises:
        LlafsError: see `LLaFS.from_coco`.
    """
    annotations = path_of(annotations, "annotations")
    images = None if images is None else path_of(images, "images")
    if not annotations.exists():
        raise LlafsError(f"{annotations} does not exist: give a COCO file, or a folder of masks.")
    folder = bank_folder.bank_folder_for(annotations) if bank is None else path_of(bank, "bank")
    source = bank_folder.state_of(annotations, images)
    if bank_folder.is_bank_folder(folder):
        try:
            bank_folder.check_current(folder, source, lambda: open_own(annotations, images), wanted)
            return open_bank(folder)
        except DamagedBank as damage:
            if not bank_folder.is_begun(folder):
                raise
            print(f"note: {str(damage).partition(': make')[0]}; it is made anew.", file=sys.stderr)
    asked = asker if asker.model else None
    bank_folder.make_bank_folder(folder, open_own(annotations, images), source, wanted, asked)
    return open_bank(folder)


def _backbone_of(bank: SupportBank, folder: RunFolder) -> Backbone:
    """The frozen backbone that described a bank: the one in `hsnet.safetensors`, or else one with ImageNet weights.

    Raises:
        LlafsError: there is no `hsnet.safetensors`, and the backbone cannot be had from elsewhere.
    """
    model = folder.path / MODEL
    if model.exists():
        backbone = HSNet.load(folder.require(MODEL))[0].backbone
    else:
        try:
            backbone = load_backbone(bank.made_from.get("backbone"), data_root() / "weights")
        except LlafsError as error:
            raise LlafsError(
                f"{model} is missing, and the backbone of the support bank cannot be had from elsewhere: {error} "
                "Run notebook 02_backbone_training first."
            ) from error
    return backbone.to(usual_device())
