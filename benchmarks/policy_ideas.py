"""What `policies.py` tries, one idea a row: other weights and backgrounds, and base supports beside true ones."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from llafs_lib.evaluation.arms import Arm
from llafs_lib.evaluation.runner import BankPrototypes, Question
from llafs_lib.language.replay import RECORDED
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.policies import Choice, K, Request, augment, select_supports
from llafs_lib.retrieval.scoring import quality_term, visual_term
from llafs_lib.vision.features import query_embedding
from llafs_lib.vision.prototype import ABSOLUTE, PrototypeSegmenter, affinities, similarity, stretched

KEPT = "plain foreground, diffusion 8 (kept)"


alike = functools.lru_cache(4)(affinities)  # the same for all questions about an image

# --- other prototypes: models -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What an idea does differently from what is kept.

    `plain` and `sharpness` are those of `PrototypeSegmenter`. Each support's weight gets the power `power` of its
    relation and a `factor`. The background is mixed with a `share` of other classes, those of `against`. `own` is how
    much of the prototypes is the query's own, from a first round's surest places.
    """

    plain: bool = True
    sharpness: float | None = 8.0
    factor: str = ""
    power: float = 2.0
    against: str = ""
    share: float = 0.2
    own: float = 0.0


class Idea(BankPrototypes):
    """Prototypes of a bank of all classes, with one thing changed."""

    def __init__(self, segmenter: PrototypeSegmenter, bank: SupportBank, change: Change):
        super().__init__(segmenter, [bank], as_scores=True)
        self.bank, self.change = bank, change

    def answers(self, question: Question, image: np.ndarray, shown: Sequence[Sequence[Choice]]) -> list[np.ndarray]:
        """The score map for each set."""
        with torch.inference_mode():
            features = self.segmenter.describe(image)  # [C, h, w]
            return [self._scores(question, features, choices, image.shape[:2]) for choices in shown]

    def _scores(
        self, question: Question, features: torch.Tensor, choices: Sequence[Choice], size: Sequence[int]
    ) -> np.ndarray:
        own, (inside, outside) = self.change.own, self._prototypes(question, features, choices)
        if own:
            first = self._map(features, inside, outside, features.shape[-2:])
            sure, unsure = (first >= np.quantile(first, q) for q in (0.95, 0.4))  # [h, w]
            maps = features.cpu().numpy()
            inside = (1 - own) * inside + own * maps[:, sure].mean(axis=1)
            outside = (1 - own) * outside + own * maps[:, ~unsure].mean(axis=1)
        return self._map(features, inside, outside, size)

    def _map(self, features: torch.Tensor, inside: np.ndarray, outside: np.ndarray, size: Sequence[int]) -> np.ndarray:
        both = (torch.from_numpy(np.asarray(p, np.float32)).to(features.device) for p in (inside, outside))
        sharpness = self.change.sharpness
        spread = None if sharpness is None else alike(features, sharpness)
        return stretched(similarity(features, *both), size, spread).cpu().numpy()

    def _prototypes(
        self, question: Question, features: torch.Tensor, choices: Sequence[Choice]
    ) -> tuple[np.ndarray, np.ndarray]:
        rows = np.array([self._row[c.image_id, c.class_name][1] for c in choices])
        weights = np.array([c.weight for c in choices]) ** (self.change.power / 2) * self._factor(rows, features)
        inside, outside = self.bank.prototypes(rows, weights, self.change.plain)
        return inside, self._background(question, outside)

    def _factor(self, rows: np.ndarray, features: torch.Tensor) -> np.ndarray:
        if self.change.factor == "visual":
            return visual_term(self.bank, rows, query_embedding(features)) ** 8
        if self.change.factor == "quality":
            return quality_term(self.bank, rows)
        if self.change.factor == "balanced":
            index = self.bank.class_index[rows]
            return 1 / np.bincount(index, minlength=len(self.bank.classes))[index]
        return np.ones(len(rows))

    def _background(self, question: Question, outside: np.ndarray) -> np.ndarray:
        base, named = question.bank, set(question.related.names)
        if self.change.against == "unrelated":
            others = [c for c in base.classes if c not in named]
        elif self.change.against == "context":
            others = [c for c in CONTEXT.get(question.episode.class_name, ()) if c in base.classes and c not in named]
        else:
            return outside
        rows = np.concatenate([base.rows_of(c) for c in others] or [np.empty(0, int)])
        rows = rows[base.image_ids[rows] != question.episode.query_id]
        if not len(rows):
            return outside
        shown, _ = base.prototypes(rows, np.ones(len(rows)), plain=True)
        return (1 - self.change.share) * outside + self.change.share * shown


def _contexts() -> dict[str, tuple[str, ...]]:
    """Class → classes that often stand beside it without looking like it, as the recorded answers name them."""
    answers = (json.loads(p.read_text(encoding="utf-8")) for p in RECORDED.rglob("*.json"))
    return {a["request"]["class"]: tuple(a["context"]) for a in answers if "context" in a}


CONTEXT = _contexts()


IDEAS = {
    "unit foreground, no diffusion (as in notebook 02b)": Change(plain=False, sharpness=None),
    "plain foreground": Change(sharpness=None),
    "plain foreground, diffusion 4": Change(sharpness=4.0),
    KEPT: Change(),
    "plain foreground, diffusion 16": Change(sharpness=16.0),
    "unit foreground, diffusion 8": Change(plain=False),
    "kept, weights ∝ relation": Change(power=1.0),
    "kept, weights ∝ relation³": Change(power=3.0),
    "kept, × quality": Change(factor="quality"),
    "kept, × visual⁸": Change(factor="visual"),
    "kept, classes weigh the same whatever their number": Change(factor="balanced"),
    "kept, self-consistent: a third of the prototypes is the query's own": Change(own=1 / 3),
    "kept, context classes in the background": Change(against="context"),
    "kept, unrelated classes in the background": Change(against="unrelated"),
}


SHARES = {f"absolute share {share}": share for share in (0.15, 0.45, 0.6)}  # 0 and the library's own are asked anyway


class Share(BankPrototypes):
    """True supports of which another share of the score is absolute than `ABSOLUTE`."""

    def __init__(self, segmenter: PrototypeSegmenter, bank: SupportBank, share: float):
        super().__init__(segmenter, [bank], as_scores=True)
        self.share = share

    def answers(self, question: Question, image: np.ndarray, shown: Sequence[Sequence[Choice]]) -> list[np.ndarray]:
        """The score map for each set."""
        pairs = [self.prototypes(choices) for choices in shown]
        relative, mixed = (self.segmenter.scores(image, pairs, [own] * len(pairs)) for own in (False, True))
        more = self.share / ABSOLUTE
        return [np.clip(r + more * (m - r), 0, 1) for r, m in zip(relative, mixed, strict=True)]


# --- other supports: arms ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn(Arm):
    """An arm whose `true` supports are drawn from all images of the class.

    `number` base supports may be added, each of which counts `share` of a true one. `clean` leaves out supports whose
    image shows the class asked for without a mask of it.
    """

    number: K = 5
    share: float = 0.3
    clean: bool = False

    @property
    def supports(self) -> str:
        if self.added:
            return f"{self.k} {self.policy} + {self.number} {self.added}, weight {self.share}"
        return super().supports + (", clean" if self.clean else "")

    def choose(self, bank: SupportBank, request: Request) -> list[Choice]:
        request = request if self.clean else replace(request, exclude=frozenset())
        if self.policy == "true":
            chosen = self._own(request)
        else:
            chosen = select_supports(self.policy, bank, request, self.k, self.draw)
        if not self.added:
            return chosen
        return augment(chosen, select_supports(self.added, bank, request, self.number, self.draw), self.share)

    def _own(self, request: Request) -> list[Choice]:
        """A draw as `choose_rows` makes it for the policy `random`."""
        name, query_id = request.episode.class_name, request.episode.query_id
        ids = [i for i in request.episode.support_ids if i != query_id and i not in request.exclude]
        if self.k != "all":
            rng = np.random.default_rng([self.draw, zlib.crc32(name.encode()), query_id + 1])
            ids = rng.choice(ids, min(self.k, len(ids)), replace=False)
        return [Choice(int(i), name, 1.0) for i in ids]


def augmented_arms(model: str) -> list[Drawn]:
    """1 and 5 true supports, with base supports of three policies at three weights."""
    return [
        Drawn(model, "true", k, added=policy, number=number, share=share)
        for k in (1, 5)
        for policy, number in (("random", 5), ("shuffled", 5), ("llm", 5), ("llm", 20))
        for share in (0.1, 0.3, 1.0)
    ]
