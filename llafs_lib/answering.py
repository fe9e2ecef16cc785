"""What is asked of an image, and the answer: from features and related classes to a prediction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from llafs_lib.classes import normalise
from llafs_lib.errors import LlafsError, told
from llafs_lib.evaluation.calibration import Calibration
from llafs_lib.evaluation.presence import presence_score
from llafs_lib.language.prompts import check_class_name
from llafs_lib.records import Episode, Prediction, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.corrections import Correction
from llafs_lib.retrieval.evidence import class_prototypes, shown_supports
from llafs_lib.retrieval.policies import Request
from llafs_lib.retrieval.thumbnails import within
from llafs_lib.settings import MOST_SHOTS
from llafs_lib.vision.backbone import resize
from llafs_lib.vision.features import query_embedding
from llafs_lib.vision.prototype import PrototypeSegmenter, similarity, stretched
from llafs_lib.vision.segmenter import HSNetSegmenter

NOT_A_QUERY_ID = -1  # an image of one's own belongs to no data set
MAX_SIDE = 2048  # px; a larger image is segmented at this size

Related = RelatedClasses | Mapping[str, float] | Iterable[str] | str


@dataclass(frozen=True)
class Question:
    """What is asked of every image: each class with those that stand in for it, and the caller's settings."""

    related: Mapping[str, RelatedClasses]
    several: bool
    shots: int
    least: float | None


def related_by_class(names: Sequence[str], related: Any) -> Mapping[str, Related]:
    """Class → the related classes that were given for it; without those for which none were given.

    Raises:
        LlafsError: several classes, and the related ones are not given by class.
    """
    if related is None:
        return {}
    if len(names) == 1:
        named = related.get(names[0]) if isinstance(related, Mapping) else None
        keyed = named is not None and not isinstance(named, int | float)  # a number is a score: a class for itself
        return related if keyed else {names[0]: related}
    if not isinstance(related, Mapping) or not set(related) <= set(names):
        raise LlafsError(
            "for several classes, give the related ones by class, such as "
            f"related={{{names[0]!r}: ['zebra', 'horse']}}; the others are asked for."
        )
    return related


def check_question(class_name: str | Sequence[str], shots: int, least: float | None) -> None:
    """Look at what was asked for: a class or several, how many supports, the least confidence or None.

    Raises:
        LlafsError: it cannot be answered.
    """
    several = isinstance(class_name, Collection) and not isinstance(class_name, str | bytes)
    names = list(class_name) if several else [class_name]
    if not names:
        raise LlafsError("no class was asked for: give a name, or a list of names.")
    for name in names:
        check_class_name(name)
    if len({normalise(n) for n in names}) < len(names):
        raise LlafsError(f"a class is asked for twice in {', '.join(names)}: name each once.")
    if type(shots) is not int or not 1 <= shots <= MOST_SHOTS:
        raise LlafsError(f"shots must be a whole number of at least 1 and at most {MOST_SHOTS:,}, not {told(shots)}.")
    if least is not None and not (isinstance(least, int | float) and np.isfinite(least)):
        raise LlafsError(f"min_confidence must be a number, not {told(least)}.")


# --- answering it -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Query:
    """An image that was looked at: `pixels` [H, W, 3], the copy that is segmented, its unit features [C, h, w].

    `alike` is what prototypes need beside the features (`PrototypeSegmenter.alike`), the same for all classes.
    """

    pixels: np.ndarray
    small: np.ndarray
    features: Tensor
    alike: Tensor | None
    source: str


@dataclass(frozen=True)
class Finder:
    """Finds classes in images. The fields are those of `LLaFS`."""

    method: HSNetSegmenter | PrototypeSegmenter
    bank: SupportBank
    read: Callable[[int, str], tuple[np.ndarray, np.ndarray]]
    calibration: Calibration | None

    def look(self, pixels: np.ndarray, source: str) -> Query:
        """Pass an image [H, W, 3] uint8 through the backbone, once for all classes."""
        small = within(pixels, MAX_SIDE)
        with torch.inference_mode():
            features = self.method.describe(small)
            alike = self.method.alike(features) if isinstance(self.method, PrototypeSegmenter) else None
        return Query(pixels, small, features, alike, source)

    @torch.inference_mode()
    def find(
        self,
        query: Query,
        name: str,
        known_as: str,
        related: RelatedClasses,
        added: Sequence[Correction],
        shots: int,
        least: float | None,
    ) -> tuple[Prediction, Tensor]:
        """The prediction of one class, and its similarity map [h, w], by which classes compete for pixels.

        Args:
            name, known_as: the class as it was asked for, and as draws and answers know it.
            added: supports of the class itself that the user added.
            least: the confidence below which the mask is left empty; None for never.
        """
        request = Request(Episode(known_as, NOT_A_QUERY_ID, ()), related, query_embedding(query.features))
        prototypes, made_of = class_prototypes(self.bank, request, added)
        both = tuple(torch.from_numpy(p).to(query.features) for p in prototypes)
        likeness = similarity(query.features, *both)
        supports = shown_supports(self.bank, request, added, shots, self.read)
        if isinstance(self.method, PrototypeSegmenter):
            found = self._marked(query, name, likeness, both if added or related.source == "itself" else None)
        else:
            found = self.method.segment(query.small, supports, name)
        notes, confidence = [*related.notes, *made_of, *found.notes], presence_score(likeness)
        mask = _enlarged(found.mask.astype(np.uint8), query.pixels, cv2.INTER_NEAREST) > 0
        if query.small is not query.pixels:
            height, width = query.small.shape[:2]
            notes.append(f"segmented at {width} × {height} px, enlarged to the image's size")
        if least is not None and confidence < least:
            notes.append(f"taken as absent, because the confidence {confidence:.2f} is below {least:g}")
            mask = np.zeros_like(mask)
        probability = _enlarged(found.probability, query.pixels, cv2.INTER_LINEAR)
        about = (supports, related, tuple(notes), confidence, query.pixels, query.source)
        return Prediction(name, mask, probability, *about), likeness

    def _marked(self, query: Query, name: str, likeness: Tensor, own: tuple[Tensor, Tensor] | None) -> Prediction:
        """What a similarity map [h, w] marks; `own` are its prototypes if they hold supports of the class itself."""
        threshold = self.method.threshold
        if self.calibration is None:  # a run's threshold is for look-alikes
            own = None
        else:
            threshold = (self.calibration.novel if own is None else self.calibration.own).threshold
        score = stretched(likeness, query.small.shape[:2], query.alike, own).cpu().numpy()
        return Prediction(name, score >= threshold, score)


def label_map(found: Sequence[Prediction], likeness: Sequence[Tensor]) -> np.ndarray:
    """[H, W] uint16: 0, or the number of the class, from 1, whose mask has the pixel and whose likeness is highest.

    Args:
        likeness: of each prediction, its similarity map [h, w].
    """
    size = found[0].mask.shape
    best, labels = np.full(size, -np.inf, np.float32), np.zeros(size, np.uint16)
    for number, (one, grid) in enumerate(zip(found, likeness, strict=True), start=1):
        claim = resize(grid[None, None].float(), size)[0, 0].cpu().numpy()  # [h, w] → [H, W]
        wins = one.mask & (claim > best)
        labels[wins], best[wins] = number, claim[wins]
    return labels


def _enlarged(found: np.ndarray, image: np.ndarray, how: int) -> np.ndarray:
    """A map at the image's height and width."""
    height, width = image.shape[:2]
    return found if found.shape == (height, width) else cv2.resize(found, (width, height), interpolation=how)
