"""Which supports to show the model: one signature, many policies, all seeded.

A policy never returns the query picture. `random` and `llm` choose among *base* classes only: they need no annotation
of the class that is asked for. `true` is the few-shot reference: annotated pictures of that very class.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llafs_lib.errors import LlafsError
from llafs_lib.records import Episode, RelatedClasses, Support
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.scoring import score_supports


@dataclass(frozen=True)
class Request:
    """What a policy may look at: the question, the related classes and the query's embedding [C]."""

    episode: Episode
    related: RelatedClasses
    query: np.ndarray


@dataclass(frozen=True)
class Choice:
    """A chosen pair, not yet loaded."""

    image_id: int
    class_name: str
    score: float


Policy = Callable[[SupportBank, Request, int, np.random.Generator], list[Choice]]


def select_supports(policy: str, bank: SupportBank, request: Request, k: int, seed: int = 0) -> list[Choice]:
    """Choose up to `k` supports for one query.

    The draw depends on the seed, the class and the query picture, not on the order of the calls.

    Raises:
        LlafsError: unknown policy, `k` below 1, or no support to be had.
    """
    if policy not in POLICIES:
        raise LlafsError(f"unknown policy {policy!r}: choose one of {', '.join(POLICIES)}.")
    if k < 1:
        raise LlafsError(f"shots must be at least 1, not {k}.")
    episode = request.episode
    rng = np.random.default_rng([seed, zlib.crc32(episode.class_name.encode()), episode.query_id + 1])  # ids ≥ −1
    chosen = POLICIES[policy](bank, request, k, rng)
    if not chosen:
        raise LlafsError(
            f"policy {policy!r} finds no support for {episode.class_name!r}: no annotated picture is left."
        )
    return chosen


def true_supports(bank: SupportBank, request: Request, k: int, rng: np.random.Generator) -> list[Choice]:
    """Annotated pictures of the class itself: what few-shot segmentation assumes and zero annotation does without."""
    return [Choice(i, request.episode.class_name, 1.0) for i in request.episode.support_ids[:k]]


def random_supports(bank: SupportBank, request: Request, k: int, rng: np.random.Generator) -> list[Choice]:
    """Any base-class pictures: what the model does without being told what to look for."""
    rows = np.flatnonzero(bank.image_ids != request.episode.query_id)
    return [_choice(bank, row, 0.0) for row in rng.choice(rows, min(k, len(rows)), replace=False)]


def llm_supports(bank: SupportBank, request: Request, k: int, rng: np.random.Generator) -> list[Choice]:
    """The best pictures of the classes that the language model named, shared out by how alike it called them.

    Shares are proportional to the squared relation (largest quotient first, as seats in a parliament), so that a clear
    favourite gets most of the places and a near tie is split. Within a class the best score goes first.

    Fallback: if the bank has no support of any named class, random base supports with score 0.
    """
    scores = score_supports(bank, request.related.scores, request.query)
    queues = {}
    for name in request.related.names:
        rows = bank.rows_of(name)
        rows = rows[bank.image_ids[rows] != request.episode.query_id]
        if len(rows):
            queues[name] = rows[np.lexsort((rng.random(len(rows)), -scores.total[rows]))]  # ties at random
    if not queues:
        return random_supports(bank, request, k, rng)
    weights = {name: request.related.scores[name] ** 2 for name in queues}
    taken = share_out(weights, {name: len(rows) for name, rows in queues.items()}, k)
    return [_choice(bank, row, scores.total[row]) for name, n in taken.items() for row in queues[name][:n]]


def has_related_support(bank: SupportBank, related: RelatedClasses) -> bool:
    """Whether `llm` has anything to choose from; if not, it falls back to random base supports."""
    return any(len(bank.rows_of(name)) for name in related.names)


def share_out(weights: dict[str, float], available: dict[str, int], k: int) -> dict[str, int]:
    """Share `k` places out in proportion to `weights` (d'Hondt's method), no class getting more than is available."""
    taken = dict.fromkeys(weights, 0)
    for _ in range(min(k, sum(available.values()))):
        open_classes = [name for name in weights if taken[name] < available[name]]
        best = max(open_classes, key=lambda name: weights[name] / (taken[name] + 1))
        taken[best] += 1
    return taken


def _choice(bank: SupportBank, row: int, score: float) -> Choice:
    return Choice(int(bank.image_ids[row]), bank.class_of(row), float(score))


POLICIES: dict[str, Policy] = {"true": true_supports, "random": random_supports, "llm": llm_supports}


def load_supports(
    choices: Sequence[Choice], read: Callable[[int, str], tuple[np.ndarray, np.ndarray]]
) -> tuple[Support, ...]:
    """Fetch pictures and masks. `read`: (picture id, class) → (image [H, W, 3] uint8, mask [H, W] bool)."""
    return tuple(Support(c.image_id, c.class_name, c.score, *read(c.image_id, c.class_name)) for c in choices)
