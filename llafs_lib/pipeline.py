"""LLaFS in one object: an image and a class name in, a mask out.

from llafs_lib import LLaFS
prediction = LLaFS.from_run("runs/toy/fold0").segment("photo.jpg", "giraffe")

To reach HSNet's correlations from here, read `LLaFS.segment`, then `HSNetSegmenter.segment` in vision/segmenter.py →
`HSNet.match` in vision/hsnet.py → `squeeze` in vision/hsnet_fast.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from llafs_lib.artifacts import RunFolder
from llafs_lib.classes import find_class, normalise
from llafs_lib.data.folds import data_root, load_fold, open_dataset
from llafs_lib.data.splits import SupportReader, read_rgb
from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.presence import Presence
from llafs_lib.language.asking import Asker
from llafs_lib.progress import track
from llafs_lib.records import Episode, Fold, Prediction, RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank, described_by
from llafs_lib.retrieval.policies import Request, choose_rows, has_related_support, load_supports, select_supports
from llafs_lib.settings import METHODS
from llafs_lib.vision.backbone import Backbone, check_image, load_backbone
from llafs_lib.vision.features import query_embedding
from llafs_lib.vision.hsnet import HSNet
from llafs_lib.vision.prototype import PrototypeSegmenter
from llafs_lib.vision.segmenter import HSNetSegmenter

NOT_A_QUERY_ID = -1  # an image of one's own belongs to no data set
MAX_SIDE = 2048  # px; a larger image is segmented at this size


class LLaFS:
    """Language-guided segmentation with a finished run.

    Args:
        method: makes the mask. An `HSNetSegmenter` is shown the few supports that the policy `llm` chooses. A
            `PrototypeSegmenter` compares with the mean of *all* related supports, which it takes from the bank.
        bank: the base-class supports, described by the features of `method`.
        read: loads the image and the mask of a support.
        fold: says which classes are base classes.
        vocabulary: the data set's classes.
        llm: the model to ask which classes look alike, by name or as an `Asker`; None replays recorded answers.
        presence: turns a probability map into the confidence that the class is there; None states no confidence.
    """

    def __init__(
        self,
        method: HSNetSegmenter | PrototypeSegmenter,
        bank: SupportBank,
        read: SupportReader,
        fold: Fold,
        vocabulary: tuple[str, ...],
        llm: str | Asker | None = None,
        presence: Presence | None = None,
    ):
        self.method, self.bank, self.read = method, bank, read
        self.fold, self.vocabulary, self.presence = fold, vocabulary, presence
        self.asker = llm if isinstance(llm, Asker) else Asker(llm)

    @classmethod
    def from_run(cls, run: str | Path, llm: str | Asker | None = None, method: str = "hsnet") -> LLaFS:
        """Open what notebooks 01, 02 and 04 left in a run folder such as `runs/toy/fold0`.

        Args:
            method: "hsnet" shows the trained model a few supports. "prototypes" compares with the mean of all related
                supports, and is the better choice where little was trained on (notebook 04, section 6). On photographs
                it needs no trained model, only a backbone's ImageNet weights. On `toy` notebook 02 trains the backbone
                as well, so that there `hsnet.safetensors` is needed for its backbone.

        Raises:
            LlafsError: the method is unknown, the folder is no run folder, or an artifact is missing or does not fit
                the others; the message names the notebook to run.
        """
        if method not in METHODS:
            raise LlafsError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}.")
        folder = RunFolder.at(run)
        dataset = open_dataset(folder.dataset)
        fold = load_fold(folder, dataset)
        bank = SupportBank.load(folder.require("support_bank"))
        calibration = json.loads(folder.require("calibration.json").read_text(encoding="utf-8"))
        if method == "hsnet":
            segmenter = HSNetSegmenter.from_file(folder.require("hsnet.safetensors"))
            bank.check(**described_by(segmenter.model.backbone, segmenter.size))
            presence = Presence(**calibration["presence"])
        else:
            backbone, size = _backbone_of(bank, folder), bank.made_from.get("size")
            bank.check(**described_by(backbone, size))
            segmenter, presence = PrototypeSegmenter(backbone, size, **calibration["prototypes"]), None
        return cls(segmenter, bank, SupportReader(dataset.train), fold, dataset.classes, llm, presence)

    def related(self, class_name: str) -> RelatedClasses:
        """The base classes that look like `class_name`, most alike first.

        A base class needs no stand-in: it is its own, with score 1 and source "itself".
        """
        base = find_class(class_name, self.fold.base)
        if base is not None:
            return RelatedClasses(class_name, (RelatedClass(base, 1.0),), "itself", "a base class is its own support")
        return self.asker.related(class_name, self.vocabulary, self.fold.base)

    def segment(
        self,
        image: str | Path | np.ndarray,
        class_name: str,
        shots: int = 5,
        related: RelatedClasses | None = None,
    ) -> Prediction:
        """Find `class_name` in an image.

        Args:
            image: a file, or [H, W, 3] uint8 RGB.
            class_name: one of the data set's classes, an alias, or any other name that the language model knows.
            shots: how many supports to use.
            related: the classes that stand in for it; None asks for them.

        Returns: mask and probability at the image's size, the confidence that the class is there at all, the related
            classes and the supports; `notes` says which fallback was taken, if any. An absent class gets a mask, too.
            The confidence says how likely it is there, as far as the model can tell: notebook 04 measures that.

        Raises:
            LlafsError: the image cannot be read, there is neither a recorded answer for the class nor an `llm` to ask,
                or `shots` is below 1.
        """
        pixels = _read(image)  # first, because a question to a language model may cost something
        return self._segment(pixels, class_name, related or self.related(class_name), shots)

    def segment_all(
        self, images: Iterable[str | Path | np.ndarray], class_name: str, shots: int = 5
    ) -> Iterator[Prediction | LlafsError]:
        """`segment` many images and yield one prediction after the other, with a bar; the class is asked about once.

        An image that cannot be read yields its error, so that one bad file does not end the rest.
        """
        related = self.related(class_name)
        for image in track(list(images), f"looking for {class_name}", "image"):
            try:
                yield self._segment(_read(image), class_name, related, shots)
            except LlafsError as error:
                yield error

    def _segment(self, image: np.ndarray, name: str, related: RelatedClasses, shots: int) -> Prediction:
        small = _within(image, MAX_SIDE)
        seen = query_embedding(self.method.describe(small))
        known_as = find_class(name, self.vocabulary) or normalise(name)  # "Giraffe" draws as "giraffe" does
        request = Request(Episode(known_as, NOT_A_QUERY_ID, ()), related, seen)
        supports = load_supports(select_supports("llm", self.bank, request, shots), self.read)
        notes = list(related.notes)
        if not has_related_support(self.bank, related):
            notes.append("no related base class has a support: random base supports were used instead")
        if small is not image:
            notes.append(f"segmented at {small.shape[1]} × {small.shape[0]} px, enlarged to the image's size")
        if isinstance(self.method, PrototypeSegmenter):
            chosen = choose_rows("llm", self.bank, request, "all")
            found = self.method.mark(small, *self.bank.prototypes(chosen.rows, chosen.weights, self.method.plain))
            which = "related" if has_related_support(self.bank, related) else "base"
            notes.append(f"marked by prototypes of all {which} supports; those shown are the first few")
        else:
            found = self.method.segment(small, supports, name)
        return Prediction(
            class_name=name,
            mask=_enlarged(found.mask.astype(np.uint8), image, cv2.INTER_NEAREST) > 0,
            probability=_enlarged(found.probability, image, cv2.INTER_LINEAR),
            supports=supports,
            related=related,
            notes=(*notes, *found.notes),
            confidence=self.presence.confidence(found.probability) if self.presence else None,
        )


def _backbone_of(bank: SupportBank, folder: RunFolder) -> Backbone:
    """The frozen backbone that described a bank: the one in `hsnet.safetensors`, or else one with ImageNet weights.

    Raises:
        LlafsError: there is no `hsnet.safetensors`, and the backbone cannot be had from elsewhere.
    """
    model = folder.path / "hsnet.safetensors"
    if model.exists():
        backbone = HSNet.load(folder.require(model.name))[0].backbone
    else:
        try:
            backbone = load_backbone(bank.made_from.get("backbone"), data_root() / "weights")
        except LlafsError as error:
            raise LlafsError(
                f"{model} is missing, and the backbone of the support bank cannot be had from elsewhere: {error} "
                "Run notebook 02_backbone_training first."
            ) from error
    return backbone.to("cuda" if torch.cuda.is_available() else "cpu")


def _read(image: str | Path | np.ndarray) -> np.ndarray:
    """An image as [H, W, 3] uint8 RGB."""
    pixels = image if isinstance(image, np.ndarray) else read_rgb(image)
    check_image(pixels)
    return pixels


def _within(image: np.ndarray, side: int) -> np.ndarray:
    """The image itself, or a smaller copy whose longer side has `side` px: models look at some hundred px anyway."""
    shrink = side / max(image.shape[:2])
    if shrink >= 1:
        return image
    height, width = (max(round(n * shrink), 1) for n in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _enlarged(found: np.ndarray, image: np.ndarray, how: int) -> np.ndarray:
    """A map at the image's height and width."""
    height, width = image.shape[:2]
    return found if found.shape == (height, width) else cv2.resize(found, (width, height), interpolation=how)
