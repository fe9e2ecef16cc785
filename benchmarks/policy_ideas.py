"""What `policies.py` tries, one idea a row: other weights and backgrounds, and base supports beside true ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from llafs_lib.evaluation.study import Arm, Question
from llafs_lib.language.replay import RECORDED
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.policies import Chosen, K
from llafs_lib.retrieval.scoring import quality_term, visual_term
from llafs_lib.vision.features import query_embedding
from llafs_lib.vision.prototype import combine, score_map

BASELINE = {"plain": False, "sharpness": None}  # prototypes as notebook 02 has them


@dataclass(frozen=True)
class Idea(Arm):
    """The arm `llm all` with one thing changed: a `factor` of each weight, or what the background is mixed with."""

    factor: str = ""
    power: float = 2.0
    against: str = ""
    share: float = 0.2
    own: float = 0.0  # how much of the prototypes is the query's own, from a first round's surest places

    def scores(self, question: Question, features: torch.Tensor, size: Sequence[int]) -> np.ndarray:
        first = super().scores(question, features, features.shape[-2:] if self.own else size)
        if not self.own:
            return first
        sure, unsure = (first >= np.quantile(first, q) for q in (0.95, 0.4))  # [h, w]
        inside, outside = self.prototypes(question, query_embedding(features))
        mixed = (
            (1 - self.own) * found + self.own * features[:, torch.from_numpy(places)].mean(dim=1).numpy()
            for found, places in ((inside, sure), (outside, ~unsure))
        )
        inside, outside = (torch.from_numpy(p.astype(np.float32)) for p in mixed)
        return score_map(features, inside, outside, size, self.sharpness).numpy()

    def prototypes(self, question: Question, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bank, chosen = self.choose(question, seen)
        weights = chosen.weights ** (self.power / 2) * self._factor(bank, chosen, seen)
        rows = chosen.rows
        inside, outside = bank.prototypes(rows, weights, self.plain)
        return inside, self._background(question, bank, outside)

    def _factor(self, bank: SupportBank, chosen: Chosen, seen: np.ndarray) -> np.ndarray:
        if self.factor == "visual":
            return visual_term(bank, chosen.rows, seen) ** 8
        if self.factor == "quality":
            return quality_term(bank, chosen.rows)
        if self.factor == "balanced":
            index = bank.class_index[chosen.rows]
            return 1 / np.bincount(index, minlength=len(bank.classes))[index]
        return np.ones(len(chosen.rows))

    def _background(self, question: Question, bank: SupportBank, outside: np.ndarray) -> np.ndarray:
        named = set(question.relations["llm"].names)
        if self.against == "unrelated":
            others = [c for c in bank.classes if c not in named]
        elif self.against == "context":
            others = [c for c in CONTEXT.get(question.class_name, ()) if c in bank.classes and c not in named]
        else:
            return outside
        rows = np.concatenate([bank.rows_of(c) for c in others] or [np.empty(0, int)])
        rows = rows[bank.image_ids[rows] != question.image_id]
        if not len(rows):
            return outside
        shown, _ = bank.prototypes(rows, np.ones(len(rows)), plain=True)
        return (1 - self.share) * outside + self.share * shown


def _contexts() -> dict[str, tuple[str, ...]]:
    """Class → classes that often stand beside it without looking like it, as the recorded answers name them."""
    answers = (json.loads(p.read_text(encoding="utf-8")) for p in RECORDED.glob("open-v1/*.json"))
    return {a["request"]["class"]: tuple(a["context"]) for a in answers}


CONTEXT = _contexts()


def idea_arms() -> dict[str, Arm]:
    """One idea a row."""
    step = Idea("llm", "all")
    return {
        "unit foreground, no diffusion (as in notebook 02)": replace(step, **BASELINE),
        "plain foreground": replace(step, sharpness=None),
        "plain foreground, diffusion 4": replace(step, sharpness=4.0),
        "plain foreground, diffusion 8 (kept)": step,
        "plain foreground, diffusion 16": replace(step, sharpness=16.0),
        "unit foreground, diffusion 8": replace(step, plain=False),
        "kept, weights ∝ relation": replace(step, power=1.0),
        "kept, weights ∝ relation³": replace(step, power=3.0),
        "kept, × quality": replace(step, factor="quality"),
        "kept, × visual⁸": replace(step, factor="visual"),
        "kept, classes weigh the same whatever their number": replace(step, factor="balanced"),
        "kept, self-consistent: a third of the prototypes is the query's own": replace(step, own=1 / 3),
        "kept, context classes in the background": replace(step, against="context"),
        "kept, unrelated classes in the background": replace(step, against="unrelated"),
    }


@dataclass(frozen=True)
class Augmented(Arm):
    """`k` true supports and `added` base supports of `policy`, each of which counts `share` of a true one."""

    added: K = 5
    share: float = 0.3

    def prototypes(self, question: Question, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (true, own), (base, others) = (
            replace(self, policy=policy, k=k).choose(question, seen)
            for policy, k in (("true", self.k), (self.policy, self.added))
        )
        weights = np.concatenate([own.weights, self.share * others.weights])
        parts = (
            np.concatenate([getattr(true, name)[own.rows], getattr(base, name)[others.rows]])
            for name in ("foreground", "background", "area")
        )
        return combine(*parts, weights, self.plain)


def augmented_arms() -> dict[str, Arm]:
    """1 and 5 true supports, with base supports of three policies at three weights."""
    return {
        f"{k} true + {added} {policy}, weight {share}": Augmented(policy, k, added=added, share=share)
        for k in (1, 5)
        for policy, added in (("random", 5), ("shuffled", 5), ("llm", 5), ("llm", 20))
        for share in (0.1, 0.3, 1.0)
    }
