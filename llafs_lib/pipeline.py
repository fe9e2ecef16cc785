"""LLaFS in one object: an image and a class name in, a mask out.

from llafs_lib import LLaFS
model = LLaFS.from_coco("annotations.json", images="images/")    # one's own annotated classes: no training
model.segment("photo.jpg", "okapi", related=["zebra", "horse"]).save("okapi.png")

To reach HSNet's correlations from here, read `LLaFS.segment`, then `HSNetSegmenter.segment` in vision/segmenter.py →
`HSNet.match` in vision/hsnet.py → `squeeze` in vision/hsnet_fast.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from llafs_lib import bank_folder
from llafs_lib.answering import Finder, Question, Related, check_question, label_map, related_by_class
from llafs_lib.bank_folder import Wanted
from llafs_lib.classes import find_class, normalise
from llafs_lib.data.files import path_of
from llafs_lib.data.images import ReadImage, as_mask, as_rgb, find_images, read_image
from llafs_lib.data.own import MIN_AREA
from llafs_lib.errors import LlafsError, told
from llafs_lib.evaluation.calibration import Calibration
from llafs_lib.language.asking import Asker
from llafs_lib.language.prompts import check_class_name
from llafs_lib.language.relations import given
from llafs_lib.language.replay import ReplayMiss
from llafs_lib.opening import open_bank, open_own_images, open_run
from llafs_lib.progress import track
from llafs_lib.records import Prediction, Predictions, RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.corrections import Correction, Corrections
from llafs_lib.settings import METHODS
from llafs_lib.vision.clicks import Click, corrected
from llafs_lib.vision.prototype import PrototypeSegmenter
from llafs_lib.vision.segmenter import HSNetSegmenter

Image = Any  # a path, a PIL image, [H, W, 3] as an array or a tensor: whatever `data.images.as_rgb` takes


class LLaFS:
    """Language-guided segmentation with a bank of annotated images.

    Args:
        method: makes the mask. An `HSNetSegmenter` is shown the few supports that the policy `llm` chooses. A
            `PrototypeSegmenter` compares with the mean of *all* related supports, which it takes from the bank.
        bank: the supports, described by the features of `method`. Its classes need no stand-ins.
        read: (image id, class) → image [H, W, 3] uint8 and mask [H, W] bool of a support.
        vocabulary: the classes that a language model may name; None takes the bank's.
        llm: the model to ask which classes look alike, by name or as an `Asker`; None replays recorded answers.
        calibration: the thresholds of prototypes, and what to expect; None leaves `method` its own threshold.
        corrections: supports that the user added.
        folder: the bank folder that all this is from, if there is one.
    """

    def __init__(
        self,
        method: HSNetSegmenter | PrototypeSegmenter,
        bank: SupportBank,
        read: Callable[[int, str], tuple[np.ndarray, np.ndarray]],
        vocabulary: Sequence[str] | None = None,
        llm: str | Asker | None = None,
        calibration: Calibration | None = None,
        corrections: Corrections | None = None,
        folder: Path | None = None,
    ):
        self.method, self.bank, self.read = method, bank, read
        self.finder = Finder(method, bank, read, calibration)
        self.vocabulary = bank.classes if vocabulary is None else tuple(vocabulary)
        self.asker = _asker(llm)
        self.calibration, self.corrections, self.folder = calibration, corrections, folder

    # --- opening ---

    @classmethod
    def from_coco(
        cls,
        annotations: str | Path,
        images: str | Path | None = None,
        *,
        bank: str | Path | None = None,
        backbone: str = "auto",
        size: int = 0,
        min_area: float = MIN_AREA,
        llm: str | Asker | None = None,
    ) -> LLaFS:
        """Open annotated images of one's own. Nothing is trained; the first time, a bank is built and calibrated.

        Args:
            annotations: a COCO file as annotation tools export it, or a folder `masks/CLASS/x.png` of binary masks.
            images: the folder of the images; None looks beside the annotations.
            bank: the folder of the bank; None keeps it beside the annotations. It is reused while it is current.
            backbone, size: whose features are compared, and at which size in px; "auto" and 0 take the defaults for
                photographs.
            min_area: share of its image that a mask must cover to be a support.
            llm: the model to ask which classes look alike, by name or as an `Asker`. When the bank is built, it is also
                asked about the file's own classes, to calibrate.

        Raises:
            LlafsError: the files cannot be used, or the bank was made from something else; the message names the
                file and the remedy.
        """
        asker = _asker(llm)
        wanted = Wanted(backbone, size, min_area)
        return cls(**open_own_images(annotations, images, bank, wanted, asker), llm=asker)

    @classmethod
    def from_run(
        cls, run: str | Path, llm: str | Asker | None = None, method: str = "hsnet", annotations: str | Path = ""
    ) -> LLaFS:
        """Open a bank folder, or what notebooks 01, 02 and 04 left in a run folder such as `runs/toy/fold0`.

        Args:
            method: of a run folder; a bank folder has prototypes only. "hsnet" shows the trained model a few supports.
                "prototypes" compares with the mean of all related supports, and is the better choice where little was
                trained on (notebook 04, section 9). On photographs it needs no trained model, only a backbone's
                ImageNet weights. On `toy` notebook 02 trains the backbone as well, so that there `hsnet.safetensors` is
                needed for its backbone.
            annotations: of a run on images of one's own, where the COCO file lies now, if it was moved since.

        Raises:
            LlafsError: the method is unknown, the folder is neither, or an artifact is missing or does not fit the
                others; the message names the notebook to run.
        """
        if method not in METHODS:
            raise LlafsError(f"unknown method {told(method)}: choose one of {', '.join(METHODS)}.")
        run, asker = path_of(run, "run"), _asker(llm)
        moved = str(path_of(annotations, "annotations")) if annotations else ""
        found = open_bank(run) if bank_folder.is_bank_folder(run) else open_run(run, method, moved)
        return cls(**found, llm=asker)

    def save(self, folder: str | Path) -> Path:
        """Copy the bank to a folder that can be moved: `from_run` opens it without the data set.

        Raises:
            LlafsError: the model is from a run (copy its folder instead), or there is something at `folder` already.
        """
        if self.folder is None:
            raise LlafsError("this model is from a run, not from a bank folder: copy the run's folder instead.")
        folder = path_of(folder, "folder")
        bank_folder.copy_bank_folder(self.folder, folder)
        return folder

    # --- asking ---

    def related(self, class_name: str, llm: str | Asker | None = None) -> RelatedClasses:
        """The classes of the bank that look like `class_name`, most alike first.

        A class of the bank needs no stand-in: it is its own, with score 1 and source "itself".
        """
        base = find_class(class_name, self.bank.classes)
        if base is not None:
            return RelatedClasses(
                class_name, (RelatedClass(base, 1.0),), "itself", "an annotated class is its own support"
            )
        asker = self.asker if llm is None else _asker(llm)
        try:
            return asker.related(class_name, self.vocabulary, self.bank.classes)
        except ReplayMiss:
            if self._added(class_name):
                return RelatedClasses(class_name, (), "its corrections alone", "nobody was asked")
            raise

    def segment(
        self,
        image: Image,
        class_name: str | Sequence[str],
        shots: int = 5,
        related: Related | Mapping[str, Related] | None = None,
        llm: str | Asker | None = None,
        min_confidence: float | None = None,
    ) -> Prediction | Predictions:
        """Find a class in an image, or several classes.

        Args:
            image: a file, a PIL image, or [H, W, 3] RGB as an array or a tensor (`data.images.as_rgb`).
            class_name: an annotated class, an alias, or any other name that the language model knows; or a list.
            shots: how many supports to show to HSNet. Prototypes use all, and `supports` holds so many of them.
            related: the classes that stand in for it: `["zebra", "horse"]`, `{"zebra": 0.9, "horse": 0.6}` or
                `"zebra=.9,horse=.6"`. None asks for them. For several classes: class → its related classes; those that
                it lacks are asked for.
            llm: the model to ask in place of the one that the object has.
            min_confidence: a lower confidence makes an empty mask, with a note.

        Returns: mask and probability at the image's size, the confidence by which images can be ranked, the related
            classes and the supports; `notes` says which fallback was taken, if any. An absent class gets a mask, too,
            unless `min_confidence` forbids it. For a list of classes: `Predictions`, with one label map.

        Raises:
            LlafsError: an argument cannot be used, or there is neither a recorded answer for the class nor an `llm` to
                ask. Arguments are looked at before anybody is asked.
        """
        check_question(class_name, shots, min_confidence)
        read = read_image(image)  # first, because a question to a language model may cost something
        question = self._question(class_name, shots, related, llm, min_confidence)
        return self._answer(read, _name_of(image), question)

    def segment_all(
        self,
        images: str | Path | Iterable[Image],
        class_name: str | Sequence[str],
        shots: int = 5,
        related: Related | Mapping[str, Related] | None = None,
        llm: str | Asker | None = None,
        min_confidence: float | None = None,
    ) -> Iterator[Prediction | Predictions | LlafsError]:
        """`segment` many images, one after the other, with a bar; each class is asked about once.

        Images are taken one by one, so that an endless generator works and memory does not grow. An image that cannot
        be read yields its error, so that one bad file does not end the rest.

        Args:
            images: a folder, a pattern such as "photos/*.jpg", or anything that yields images.
        """
        check_question(class_name, shots, min_confidence)
        taken = find_images(images) if isinstance(images, (str, Path)) else images
        if not isinstance(taken, Iterable) or (isinstance(taken, np.ndarray | Tensor) and taken.ndim < 4):
            raise LlafsError(
                f"segment_all takes many images, not {told(taken)}: give a folder, a pattern or a list, or "
                "call segment for one image."
            )
        if isinstance(taken, list | tuple) and not taken:
            raise LlafsError("segment_all was given an empty list: name at least one image.")
        return self._one_by_one(taken, self._question(class_name, shots, related, llm, min_confidence))

    def _one_by_one(
        self, images: Iterable[Image], question: Question
    ) -> Iterator[Prediction | Predictions | LlafsError]:
        for image in track(images, f"looking for {', '.join(question.related)}", "image"):
            try:
                yield self._answer(read_image(image), _name_of(image), question)
            except LlafsError as error:
                yield error

    def rank(
        self, images: str | Path | Iterable[Image], class_name: str, related: Related | None = None
    ) -> list[tuple[str, float]]:
        """(file or number of the image, confidence), the image that most likely shows the class first.

        Images that cannot be read come last, with their error in place of a name and confidence −inf.
        """
        found = []
        for n, one in enumerate(self.segment_all(images, class_name, 1, related)):
            failed = isinstance(one, LlafsError)
            found.append((str(one) if failed else one.source or str(n), float("-inf") if failed else one.confidence))
        return sorted(found, key=lambda pair: -pair[1])

    @property
    def expected(self) -> Calibration | None:
        """What a mask and a ranking can be expected to be worth, measured on the bank's own classes."""
        return self.calibration

    # --- correcting ---

    def correct(self, found: Prediction, clicks: Sequence[Click]) -> Prediction:
        """The same prediction with a mask that agrees with the user's clicks (`vision.clicks.corrected`).

        Args:
            clicks: in the order in which they were made; always all of them, and with the prediction of `segment`.
        """
        features = self.finder.look(found.image, found.source).features
        note = f"corrected by {len(clicks)} click{'s'[: len(clicks) != 1]}"
        return replace(found, mask=corrected(found.mask, features, clicks), notes=(*found.notes, note))

    def add(self, image: Image, mask: Any, class_name: str) -> int:
        """Keep an image with a corrected mask as a support of `class_name`: the next images are compared with it, too.

        Args:
            mask: a file, array, tensor or PIL image of the image's size: bool, 0/1, 0/255, or soft in [0, 1].

        Returns: its number, for `remove`.

        Raises:
            LlafsError: image or mask cannot be used, or the model keeps no corrections.
        """
        check_class_name(class_name)
        if self.corrections is None:
            raise LlafsError("this model has no folder to keep corrections in: open one with from_coco or from_run.")
        pixels = as_rgb(image)
        return self.corrections.add(
            pixels, as_mask(mask, pixels.shape[:2]), self._known_as(class_name), _name_of(image)
        )

    @property
    def added(self) -> list[Correction]:
        """The supports that were added, the oldest first."""
        return [] if self.corrections is None else list(self.corrections.listed)

    def remove(self, number: int) -> None:
        """Take an added support out again."""
        if self.corrections is None:
            raise LlafsError("this model keeps no corrections.")
        self.corrections.remove(number)

    def _added(self, class_name: str) -> list[Correction]:
        return [] if self.corrections is None else self.corrections.of(self._known_as(class_name))

    # --- one image ---

    def _known_as(self, name: str) -> str:
        return find_class(name, self.vocabulary) or normalise(name)  # "Giraffe" draws as "giraffe" does

    def _question(
        self,
        class_name: str | Sequence[str],
        shots: int,
        related: Related | Mapping[str, Related] | None,
        llm: str | Asker | None,
        least: float | None,
    ) -> Question:
        names = [class_name] if isinstance(class_name, str) else list(class_name)
        own = related_by_class(names, related)
        asked = {n: given(n, own[n], self.bank.classes) if n in own else self.related(n, llm) for n in names}
        return Question(asked, not isinstance(class_name, str), shots, least)

    def _answer(self, read: ReadImage, source: str, question: Question) -> Prediction | Predictions:
        query, settings = self.finder.look(read.pixels, source), (question.shots, question.least)
        try:
            answers = [
                self.finder.find(query, name, self._known_as(name), related, self._added(name), *settings)
                for name, related in question.related.items()
            ]
        finally:
            self.finder.method.forget(query.small)  # or memory would grow with the number of images
        found, likeness = zip(*answers, strict=True)
        found = tuple(replace(one, notes=(*read.notes, *one.notes)) for one in found)
        return Predictions(found, label_map(found, likeness), source) if question.several else found[0]


def _asker(llm: str | Asker | None) -> Asker:
    if not isinstance(llm, str | Asker | None):
        raise LlafsError(f"llm must be the name of a model or an Asker, not {told(llm)}.")
    return llm if isinstance(llm, Asker) else Asker(llm)


def _name_of(image: Image) -> str:
    return str(image) if isinstance(image, (str, Path)) else ""
