"""Which supports, and how many? All retrieval policies on one training-free segmenter, in minutes.

A prototype is a weighted sum of rows of the bank, so an answer with all 700 supports costs no more than one with five,
and nothing has to be trained. Every score map is counted at a hundred thresholds at once. Settings (the threshold of
each arm) are chosen on the queries whose image id is even, results are of those whose id is odd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from llafs_lib.evaluation.metrics import ConfusionCounts, miou
from llafs_lib.evaluation.statistics import Bootstrap
from llafs_lib.language.relations import by_supercategory, by_text
from llafs_lib.progress import track
from llafs_lib.records import Episode, RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.policies import Chosen, K, Request, choose_rows
from llafs_lib.vision.features import query_embedding
from llafs_lib.vision.prototype import score_map

STEPS = 100  # thresholds from 0 to 1


@dataclass(frozen=True)
class Question:
    """One novel class in one image: what is known when it is asked, and the fold's bank of base classes."""

    class_name: str
    image_id: int
    base: SupportBank
    relations: Mapping[str, RelatedClasses]  # of all kinds, to base classes
    own: SupportBank | None = None  # supports of the class itself, for the policy `true`
    unlabelled: frozenset[int] = frozenset()  # training images that show the class without saying so


@dataclass(frozen=True)
class Arm:
    """One way to answer: a policy, how many supports, and how their prototypes are used.

    `plain` and `sharpness`: see `PrototypeSegmenter`. `clean` leaves out supports whose image shows the class asked
    for unlabelled. `seed` is that of the draw.
    """

    policy: str
    k: K
    plain: bool = True
    sharpness: float | None = 8.0
    clean: bool = False
    seed: int = 0

    def scores(self, question: Question, features: torch.Tensor, size: Sequence[int]) -> np.ndarray:
        """Score map [H, W] in [0, 1] of a query with unit features [C, h, w]."""
        found = self.prototypes(question, query_embedding(features))
        inside, outside = (torch.from_numpy(p.astype(np.float32)) for p in found)
        return score_map(features, inside, outside, size, self.sharpness).numpy()

    def prototypes(self, question: Question, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Foreground and background prototype, each [C], for a query of embedding `seen` [C]."""
        bank, chosen = self.choose(question, seen)
        return bank.prototypes(chosen.rows, chosen.weights, self.plain)

    def choose(self, question: Question, seen: np.ndarray) -> tuple[SupportBank, Chosen]:
        """The bank that the policy chooses from, and what it chooses."""
        bank, policy = question.base, self.policy
        if policy == "true":  # any supports of the class itself
            bank, policy = question.own, "all" if self.k == "all" else "random"
        episode = Episode(question.class_name, question.image_id, ())
        exclude = question.unlabelled if self.clean else frozenset()
        request = Request(episode, question.relations["llm"], seen, question.relations, exclude)
        return bank, choose_rows(policy, bank, request, self.k, self.seed)


@dataclass(frozen=True)
class Curve:
    """Pixel counts of one answer at every threshold: `inter` and `union` [STEPS + 1], of `pixels` that are not void."""

    class_name: str
    image_id: int
    inter: np.ndarray
    union: np.ndarray
    pixels: int

    def at(self, threshold: int) -> ConfusionCounts:
        """The counts with threshold `threshold / STEPS`."""
        inter, union = int(self.inter[threshold]), int(self.union[threshold])
        return ConfusionCounts(self.class_name, self.image_id, inter, union, self.pixels - union, self.pixels - inter)


def curve(score: np.ndarray, truth: np.ndarray, void: np.ndarray, class_name: str = "", image_id: int = 0) -> Curve:
    """Compare a score map [H, W] in [0, 1] with a mask [H, W] at every threshold; a pixel is marked from it upward."""
    seen = ~void
    level = (score[seen] * STEPS).astype(np.int64)
    hit = level[truth[seen]]
    marked, inter = (np.bincount(x, minlength=STEPS + 1)[::-1].cumsum()[::-1] for x in (level, hit))
    return Curve(class_name, image_id, inter, marked + len(hit) - inter, int(seen.sum()))


def answer(
    arms: Mapping[str, Arm],
    questions: Sequence[Question],
    describe: Callable[[int], torch.Tensor],
    read: Callable[[int, str], tuple[np.ndarray, np.ndarray]],
) -> dict[str, list[Curve]]:
    """Ask every arm every question.

    Args:
        questions: sorted by image, so that each is described once.
        describe: image id → unit features [C, h, w].
        read: (image id, class) → (truth [H, W] bool, void [H, W] bool).

    Returns: arm → curves, in the order of the questions.
    """
    curves: dict[str, list[Curve]] = {name: [] for name in arms}
    for q in track(questions, "asking all arms", "query"):
        features, (truth, void) = describe(q.image_id), read(q.image_id, q.class_name)
        for name, arm in arms.items():
            score = arm.scores(q, features, truth.shape)
            curves[name].append(curve(score, truth, void, q.class_name, q.image_id))
    return curves


@dataclass(frozen=True)
class Result:
    """One arm on the reporting half: mIoU and its 95% interval, the threshold that the other half chose, the counts."""

    miou: float
    interval: tuple[float, float]
    threshold: float
    counts: list[ConfusionCounts]


def report(curves: Mapping[str, list[Curve]]) -> tuple[dict[str, Result], Bootstrap]:
    """Choose each arm's threshold on even image ids, and score it on odd ones."""
    results, bootstrap = {}, None
    for name, asked in curves.items():
        tune, test = [c for c in asked if c.image_id % 2 == 0], [c for c in asked if c.image_id % 2]
        threshold = best_threshold_of(tune)
        counts = [c.at(round(threshold * STEPS)) for c in test]
        bootstrap = bootstrap or Bootstrap(counts)
        results[name] = Result(miou(counts), bootstrap.interval(counts), threshold, counts)
    return results, bootstrap


def best_threshold_of(curves: Sequence[Curve]) -> float:
    """The threshold in [0, 1] with the highest mIoU."""
    return int(np.argmax([miou([c.at(t) for c in curves]) for t in range(STEPS + 1)])) / STEPS


def relations_of(
    asked: Iterable[str], llm: Mapping[str, RelatedClasses], base: Sequence[str], shuffled: Mapping[str, RelatedClasses]
) -> dict[str, dict[str, RelatedClasses]]:
    """Class → kind of relation → related base classes; "oracle" is added by `with_oracle`."""
    return {
        c: {
            "llm": llm[c],
            "text": by_text(c, tuple(base)),
            "supercategory": by_supercategory(c, tuple(base)),
            "shuffled": shuffled[c],
        }
        for c in asked
    }


def with_oracle(
    questions: Sequence[Question], describe: Callable[[int], torch.Tensor], share: Callable[[int, str], np.ndarray]
) -> list[Question]:
    """Add the relation "oracle": the one base class whose supports do best on the class's *other* queries.

    Args:
        share: (image id, class) → [h, w] share of each place that the truth covers. Likeness is judged on this coarse
            grid at one threshold: it only has to rank classes.

    A class with a single query has no oracle; its relation is empty.
    """
    ious = []  # of each question, [base classes]
    for q in track(questions, "oracle", "query"):
        features, truth = describe(q.image_id).flatten(1).numpy(), share(q.image_id, q.class_name).ravel() > 0.5
        directions = [_difference(q.base, q.base.rows_of(c), q.image_id) for c in q.base.classes]
        marked = np.stack([_unit(d @ features) for d in directions]) > 0.65  # [base classes, hw]
        ious.append((marked & truth).sum(1) / np.maximum((marked | truth).sum(1), 1))
    asked = {c: [n for n, q in enumerate(questions) if q.class_name == c] for c in {q.class_name for q in questions}}
    found = []
    for n, q in enumerate(questions):
        others = [ious[m] for m in asked[q.class_name] if m != n]
        ranked = (RelatedClass(q.base.classes[int(np.mean(others, axis=0).argmax())], 1.0),) if others else ()
        oracle = RelatedClasses(q.class_name, ranked, "oracle", "the best base class on the class's other queries")
        found.append(replace(q, relations={**q.relations, "oracle": oracle}))
    return found


def _difference(bank: SupportBank, rows: np.ndarray, query_id: int) -> np.ndarray:
    rows = rows[bank.image_ids[rows] != query_id]
    inside, outside = bank.prototypes(rows, np.ones(len(rows)), plain=True)
    return inside - outside


def _unit(scores: np.ndarray) -> np.ndarray:
    return (scores - scores.min()) / max(np.ptp(scores), 1e-9)
