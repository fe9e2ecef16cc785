"""LLaFS in one object: a picture and a class name in, a mask out.

from llafs_lib import LLaFS
prediction = LLaFS.from_run("runs/toy/fold0").segment("photo.jpg", "giraffe")
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from llafs_lib.artifacts import RunFolder
from llafs_lib.classes import find_class, normalise
from llafs_lib.data.folds import load_fold, open_dataset
from llafs_lib.data.splits import Split, read_rgb
from llafs_lib.language.asking import Asker
from llafs_lib.records import Episode, Fold, Prediction, RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank, embed
from llafs_lib.retrieval.policies import Request, has_related_support, load_supports, select_supports
from llafs_lib.vision.backbone import check_picture
from llafs_lib.vision.segmenter import HSNetSegmenter

NOT_A_QUERY_ID = -1  # a picture of one's own belongs to no data set


class SupportReader:
    """(picture id, class) → (image [H, W, 3] uint8, mask [H, W] bool); the pictures read last stay in memory."""

    def __init__(self, split: Split, keep: int = 256):
        self.split = split
        self._load = functools.lru_cache(keep)(lambda image_id: (split.image(image_id), split.label_map(image_id)))

    def __call__(self, image_id: int, class_name: str) -> tuple[np.ndarray, np.ndarray]:
        image, labels = self._load(image_id)
        return image, labels == self.split.classes.index(class_name) + 1


class LLaFS:
    """Language-guided segmentation with a trained run.

    Args:
        segmenter: the few-shot model.
        bank, read: the base-class supports and how to load one.
        fold: says which classes are base classes.
        vocabulary: the data set's classes.
        llm: the model to ask which classes look alike, by name or as an `Asker`; None replays recorded answers.
    """

    def __init__(
        self,
        segmenter: HSNetSegmenter,
        bank: SupportBank,
        read: SupportReader,
        fold: Fold,
        vocabulary: tuple[str, ...],
        llm: str | Asker | None = None,
    ):
        self.segmenter, self.bank, self.read = segmenter, bank, read
        self.fold, self.vocabulary = fold, vocabulary
        self.asker = llm if isinstance(llm, Asker) else Asker(llm)

    @classmethod
    def from_run(cls, run: str | Path, llm: str | Asker | None = None) -> LLaFS:
        """Open what notebooks 01, 02 and 04 left in a run folder such as `runs/toy/fold0`.

        Raises:
            LlafsError: not a run folder, or one of its artifacts is missing: the message names the notebook to run.
        """
        folder = RunFolder.at(run)
        dataset = open_dataset(folder.dataset)
        return cls(
            segmenter=HSNetSegmenter.from_file(folder.require("hsnet.safetensors")),
            bank=SupportBank.load(folder.require("support_bank.safetensors")),
            read=SupportReader(dataset.train),
            fold=load_fold(folder, dataset),
            vocabulary=dataset.classes,
            llm=llm,
        )

    def related(self, class_name: str) -> RelatedClasses:
        """The base classes that look like `class_name`, most alike first.

        A base class needs no stand-in: it is its own, with score 1 and source "itself".
        """
        base = find_class(class_name, self.fold.base)
        if base is not None:
            return RelatedClasses(class_name, (RelatedClass(base, 1.0),), "itself", "a base class is its own support")
        return self.asker.related(class_name, self.vocabulary, self.fold.base)

    def segment(self, picture: str | Path | np.ndarray, class_name: str, shots: int = 5) -> Prediction:
        """Find `class_name` in a picture.

        Args:
            picture: a file, or [H, W, 3] uint8 RGB.
            class_name: any name; one of the data set's classes, an alias, or whatever the language model knows.
            shots: how many supports to use.

        Returns: mask and probability at the picture's size, the related classes and the supports; `notes` says which
            fallback was taken, if any.

        Raises:
            LlafsError: unreadable picture, a class without a recorded answer and no `llm` to ask, `shots` below 1.
        """
        image = picture if isinstance(picture, np.ndarray) else read_rgb(picture)
        check_picture(image)
        related = self.related(class_name)
        notes = list(related.notes)
        if related.source == "fallback":
            notes.append(f"the related classes come from {related.provenance}")
        if not has_related_support(self.bank, related):
            notes.append("no related base class has a support: random base supports were used instead")
        known_as = find_class(class_name, self.vocabulary) or normalise(class_name)  # "Giraffe" draws as "giraffe" does
        request = Request(Episode(known_as, NOT_A_QUERY_ID, ()), related, embed(self.segmenter.features(image)))
        supports = load_supports(select_supports("llm", self.bank, request, shots), self.read)
        found = self.segmenter.segment(image, supports, class_name)
        return Prediction(class_name, found.mask, found.probability, supports, related, (*notes, *found.notes))
