"""What can be expected of a bank, and which threshold suits it: each of its classes is treated once as if it were new.

A class is asked about in its own annotated images, while only the *other* classes may serve as supports. So the
settings for a word that nobody annotated are chosen without one, and the IoU that comes out is what such a word can
expect. The same questions are asked with the class's own supports, never the image itself, for annotated words.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llafs_lib.evaluation.metrics import STEPS, Curve, curve
from llafs_lib.evaluation.presence import mean_auc, presence_score
from llafs_lib.progress import track
from llafs_lib.records import Episode, RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.policies import Request, choose_rows, has_related_support
from llafs_lib.vision.prototype import PrototypeSegmenter, similarity, stretched

QUESTIONS = 120  # (image, class) pairs that are asked about
RANKED = 40  # classes whose presence is judged in every image
NOBODY = -1  # no image has this id
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

    def __str__(self) -> str:
        return (
            f"a word that is not annotated: {self.novel}; look-alikes by {self.relation}\n"
            f"a word that is annotated: {self.own}"
        )

    def of(self, related: RelatedClasses) -> Expected:
        """What to expect where these classes stand in: `own` is for a class whose own supports are shown."""
        return self.own if related.source == "itself" else self.novel

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
    asked = pairs_to_ask(bank, seed)
    names = [c for c in bank.classes if any(c in classes for classes in asked.values())]
    ranked = set(names[:RANKED])
    novel = _Kind(bank, segmenter, {c: related(c) for c in names})
    own = _Kind(bank, segmenter, {c: RelatedClasses(c, (RelatedClass(c, 1.0),), "itself", "") for c in names})
    supported = _supported(bank)
    for image_id, classes in track(asked.items(), "calibration", "image"):
        image, truths = read(image_id, classes)
        with torch.inference_mode():
            features = segmenter.describe(image)  # [C, h, w]
            alike = segmenter.alike(features)
            # An object too small to be a support is neither present nor absent.
            judged = {c: c in shown[image_id] for c in ranked - (set(shown[image_id]) - supported[image_id])}
            for kind in (novel, own):
                kind.ask(image_id, features, alike, truths, judged)
    sources = sorted({r.source for r in novel.related.values() if r.ranked})
    return Calibration(novel.expected(), own.expected(), " and ".join(sources) or "nothing")


class _Kind:
    """Questions with one kind of supports: score maps and presence scores of each class."""

    def __init__(self, bank: SupportBank, segmenter: PrototypeSegmenter, related: Mapping[str, RelatedClasses]):
        self.bank, self.segmenter, self.related = bank, segmenter, related
        self.chosen = {name: self._choose(name) for name in related}
        self.sums = {name: self._sums(*self.chosen[name]) for name in related}
        self.curves: dict[str, list[Curve]] = {}
        self.scores: dict[str, list[tuple[float, bool]]] = {name: [] for name in related}

    def ask(
        self,
        image_id: int,
        features: Tensor,
        alike: Tensor | None,
        truths: Mapping[str, np.ndarray],
        judged: Mapping[str, bool],
    ) -> None:
        """Where are the classes of `truths` in an image, and which of those of `judged` are there?

        Args:
            features, alike: of the image, [C, h, w] and what `PrototypeSegmenter.alike` made of them.
            truths: class → mask [H, W] bool.
            judged: class → whether it is there.
        """
        found = {c: both for c in {*truths, *judged} if (both := self._prototypes(c, image_id)) is not None}
        if not found:
            return
        inside, outside = (torch.from_numpy(np.stack(p)).to(features) for p in zip(*found.values(), strict=True))
        likenesses = similarity(features, inside, outside)  # [classes, h, w]
        for name, likeness, *both in zip(found, likenesses, inside, outside, strict=True):
            if name in judged:
                self.scores[name].append((presence_score(likeness), judged[name]))
            if name in truths and truths[name].any():
                own = tuple(both) if self.related[name].source == "itself" else None
                score = stretched(likeness, truths[name].shape, alike, own).cpu().numpy()
                self.curves.setdefault(name, []).append(curve(score, truths[name], name, image_id))

    def _choose(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The related rows [M] and their weights [M]; none where the policy would fall back on random ones."""
        if not has_related_support(self.bank, self.related[name]):
            return np.empty(0, int), np.empty(0)
        request = Request(Episode(name, NOBODY, ()), self.related[name], np.empty(0))
        chosen = choose_rows("llm", self.bank, request, "all")
        return chosen.rows, chosen.weights

    def _sums(self, rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
        """What prototypes are made of: weighted sums [C] of foregrounds and backgrounds, and the weights of both."""
        area = self.bank.area[rows].astype(np.float64)
        shown, rest = weights * area, weights * (1 - area)
        return shown @ self.bank.foreground[rows], rest @ self.bank.background[rows], shown.sum(), rest.sum()

    def _prototypes(self, name: str, image_id: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Of the related supports, [C] and [C], without the image itself; None if nothing is left.

        Prototypes are sums over rows, so the image's own rows are taken off the sums over all.
        """
        rows, weights = self.chosen[name]
        own = self.bank.image_ids[rows] == image_id
        if own.all():
            return None
        inside, outside, shown, rest = (
            a - b for a, b in zip(self.sums[name], self._sums(rows[own], weights[own]), strict=True)
        )
        foreground = inside / max(shown, 1e-12)
        length = 1.0 if self.segmenter.plain else max(float(np.linalg.norm(foreground)), 1e-12)
        return (foreground / length).astype(np.float32), (outside / max(rest, 1e-12)).astype(np.float32)

    def expected(self) -> Expected:
        """What all questions together gave."""
        if not self.curves:
            return Expected(auc=mean_auc(self.scores))
        ious = np.stack([_ious(curves) for curves in self.curves.values()])  # [classes, thresholds]
        best = int(ious.sum(axis=0).argmax())
        others = ious.sum(axis=0) - ious  # of all other classes together
        chosen = others.argmax(axis=1) if len(ious) > 1 else [round(DEFAULT * STEPS)]
        iou = round(float(ious[np.arange(len(ious)), chosen].mean()), 4)  # the last digits depend on memory's layout
        questions = sum(map(len, self.curves.values()))
        return Expected(best / STEPS, iou, mean_auc(self.scores), questions, len(ious))


def _ious(curves: Sequence[Curve]) -> np.ndarray:
    """The IoU in percent of one class at every threshold, [STEPS + 1]."""
    inter, union = (sum(getattr(c, part) for c in curves) for part in ("inter", "union"))
    return 100.0 * inter / np.maximum(union, 1)


def pairs_to_ask(bank: SupportBank, seed: int, most: int = QUESTIONS) -> dict[int, tuple[str, ...]]:
    """Image id → the classes of a bank to ask about in it: at most `most` pairs, shared out evenly among them."""
    rng = np.random.default_rng(seed)
    queues = [rng.permutation(bank.rows_of(c)) for c in bank.classes]
    order = [queue[n] for n in range(max(map(len, queues), default=0)) for queue in queues if n < len(queue)]
    pairs = [(int(bank.image_ids[row]), bank.class_of(row)) for row in order[:most]]
    return {i: tuple(c for j, c in pairs if j == i) for i in sorted({i for i, _ in pairs})}


def _supported(bank: SupportBank) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for row, image_id in enumerate(bank.image_ids.tolist()):
        found.setdefault(image_id, set()).add(bank.class_of(row))
    return found
