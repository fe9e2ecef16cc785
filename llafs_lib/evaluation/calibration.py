"""What can be expected of a bank, and which threshold suits it: each of its classes is treated once as if it were new.

A class is asked about in its own annotated images, while only the *other* classes may serve as supports. So the
settings for a word that nobody annotated are chosen without one, and the IoU that comes out is what such a word can
expect. The same questions are asked with the class's own supports, never the image itself, for annotated words.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llafs_lib.evaluation.metrics import Curve, best_threshold, curve, miou
from llafs_lib.evaluation.presence import mean_auc, presence_score
from llafs_lib.progress import track
from llafs_lib.records import Episode, RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.policies import Request, choose_rows, has_related_support
from llafs_lib.vision.prototype import PrototypeSegmenter, similarity

QUESTIONS = 120  # (image, class) pairs that are asked about
RANKED = 40  # classes whose presence is judged in every image
DEFAULT = 0.6  # threshold where nothing can be calibrated: near what photographs and drawn scenes gave


@dataclass(frozen=True)
class Expected:
    """What one kind of supports gave: the best threshold, mIoU in percent, AUC in [0, 1], and of how many questions.

    The mIoU of each class was counted at the threshold that is best for the *other* classes. None where there was too
    little to ask.
    """

    threshold: float = DEFAULT
    iou: float | None = None
    auc: float | None = None
    questions: int = 0
    classes: int = 0

    def __str__(self) -> str:
        if self.iou is None:
            return f"unknown (too few annotated images to tell); threshold {self.threshold:.2f}"
        ranking = "" if self.auc is None else f", images ranked with AUC {self.auc:.2f}"
        return f"IoU about {self.iou:.0f} ({self.questions} questions about {self.classes} classes){ranking}"


@dataclass(frozen=True)
class Calibration:
    """What to expect of look-alikes (`novel`: a word that nobody annotated) and of a class's own supports (`own`).

    `relation` says where the look-alikes came from.
    """

    novel: Expected = Expected()
    own: Expected = Expected()
    relation: str = "nothing"

    def of(self, related: RelatedClasses) -> Expected:
        """What to expect of the answer to a question."""
        return self.own if related.source == "itself" else self.novel

    def __str__(self) -> str:
        return (
            f"a word that is not annotated: {self.novel}; look-alikes by {self.relation}\n"
            f"a word that is annotated: {self.own}"
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_dict`.

        Raises:
            KeyError, TypeError: it is no such dictionary.
        """
        return cls(Expected(**stored["novel"]), Expected(**stored["own"]), stored["relation"])


def calibrate(
    bank: SupportBank,
    segmenter: PrototypeSegmenter,
    shown: Mapping[int, Collection[str]],
    read: Callable[[int, Iterable[str]], tuple[np.ndarray, Mapping[str, np.ndarray]]],
    related: Callable[[str], RelatedClasses],
    seed: int = 0,
) -> Calibration:
    """Ask about every class of a bank in its own images.

    Args:
        segmenter: says how prototypes are used; its threshold is not.
        shown: image id → all classes that it shows, however small.
        read: (image id, classes) → (image [H, W, 3] uint8, class → mask [H, W] bool).
        related: class → the classes that stand in for it.
        seed: draws the questions, where there are more than `QUESTIONS`.
    """
    asked = _questions(bank, seed)
    names = [c for c in bank.classes if any(c in classes for classes in asked.values())]
    ranked = set(names[:RANKED])
    novel = _Kind(bank, segmenter, {c: related(c) for c in names})
    own = _Kind(bank, segmenter, {c: RelatedClasses(c, (RelatedClass(c, 1.0),), "itself", "") for c in names})
    supported = _supported(bank)
    for image_id, classes in track(asked.items(), "calibration", "image"):
        image, truths = read(image_id, classes)
        with torch.inference_mode():
            features = segmenter.describe(image)  # [C, h, w]
        # Neither present nor absent: an object too small to be a support.
        unclear = set(shown[image_id]) - supported[image_id]
        for kind in (novel, own):
            for c in ranked - unclear | set(classes):
                present = c in shown[image_id] if c in ranked - unclear else None
                kind.ask(c, image_id, image, features, truths.get(c), present)
    sources = sorted({r.source for r in novel.related.values() if r.ranked})
    return Calibration(novel.expected(), own.expected(), " and ".join(sources) or "nothing")


class _Kind:
    """Questions with one kind of supports: score maps and presence scores of each class."""

    def __init__(self, bank: SupportBank, segmenter: PrototypeSegmenter, related: Mapping[str, RelatedClasses]):
        self.bank, self.segmenter, self.related = bank, segmenter, related
        self.curves: list[Curve] = []
        self.scores: dict[str, list[tuple[float, bool]]] = {name: [] for name in related}

    def ask(
        self,
        name: str,
        image_id: int,
        image: np.ndarray,
        features: Tensor,
        truth: np.ndarray | None,
        present: bool | None,
    ) -> None:
        """Where is `name` in an image, and is it there? `truth` and `present` are None where that is not asked."""
        request = Request(Episode(name, image_id, ()), self.related[name], np.empty(0))
        if not has_related_support(self.bank, request.related):
            return
        chosen = choose_rows("llm", self.bank, request, "all")
        if not chosen.scores.any():  # all that is related is the image itself: others would be drawn at random
            return
        both = self.bank.prototypes(chosen.rows, chosen.weights, self.segmenter.plain)
        if present is not None:
            on_device = (torch.from_numpy(np.asarray(p, np.float32)).to(features) for p in both)
            self.scores[name].append((presence_score(similarity(features, *on_device)), present))
        if truth is not None and truth.any():
            self.curves.append(curve(self.segmenter.mark(image, *both).probability, truth, name, image_id))

    def expected(self) -> Expected:
        """What all questions together gave."""
        if not self.curves:
            return Expected(auc=mean_auc(self.scores))
        classes = sorted({c.class_name for c in self.curves})
        counts = []
        for name in classes:  # each at the threshold that suits the others
            others = [c for c in self.curves if c.class_name != name]
            threshold = best_threshold(others) if others else DEFAULT
            counts += [c.at(threshold) for c in self.curves if c.class_name == name]
        best = best_threshold(self.curves)
        return Expected(best, miou(counts), mean_auc(self.scores), len(self.curves), len(classes))


def _questions(bank: SupportBank, seed: int) -> dict[int, tuple[str, ...]]:
    """Image id → the classes to ask about in it: at most `QUESTIONS` pairs, shared out evenly among the classes."""
    rng = np.random.default_rng(seed)
    queues = [rng.permutation(bank.rows_of(c)) for c in bank.classes]
    order = [queue[n] for n in range(max(map(len, queues), default=0)) for queue in queues if n < len(queue)]
    pairs = [(int(bank.image_ids[row]), bank.class_of(row)) for row in order[:QUESTIONS]]
    return {i: tuple(c for j, c in pairs if j == i) for i in sorted({i for i, _ in pairs})}


def _supported(bank: SupportBank) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for row, image_id in enumerate(bank.image_ids.tolist()):
        found.setdefault(image_id, set()).add(bank.class_of(row))
    return found
