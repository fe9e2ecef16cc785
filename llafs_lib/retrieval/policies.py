"""Which supports to show the model, and how much each counts: one signature, many policies, all seeded.

| policy | chooses by |
|---|---|
| `true` | the class itself: what few-shot segmentation assumes, and zero annotation does without |
| `random`, `all` | nothing: a draw, and every base-class support there is |
| `llm`, `text`, `supercategory`, `shuffled`, `oracle` | related classes: a language model's, the names', COCO's own, another class's, the best in hindsight |
| `visual`, `hybrid` | the query image: alone, and among the classes that the language model named |

A policy never returns the query image. All but `true` choose among *base* classes only.
"""  # noqa: E501 (a table)

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from llafs_lib.errors import LlafsError
from llafs_lib.language.relations import by_supercategory, by_text
from llafs_lib.records import Episode, RelatedClasses, Support
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.scoring import Exponents, Scores, quality_term, score_supports, visual_term

K = int | Literal["all"]
RELATIONS = ("llm", "text", "supercategory", "shuffled", "oracle")
POLICIES = ("true", "random", "all", *RELATIONS, "visual", "hybrid")
VISUAL_POWER = 8.0  # cosines of natural images lie close together: a high power tells them apart


@dataclass(frozen=True)
class Request:
    """What a policy may look at: the question, the related classes and the query's embedding, a unit vector [C].

    `related` is the language model's answer. `others` holds answers of other kinds by their policy's name: "shuffled"
    and "oracle" cannot be made from one question alone, "text" and "supercategory" are made where they are missing.
    `exclude` are images that may not serve: those that show the class asked for without a mask of it, say.
    """

    episode: Episode
    related: RelatedClasses
    query: np.ndarray = field(repr=False)
    others: Mapping[str, RelatedClasses] = field(default_factory=dict)
    exclude: frozenset[int] = frozenset()

    def relation(self, policy: str, bank: SupportBank) -> RelatedClasses:
        """The related classes that `policy` goes by.

        Raises:
            LlafsError: they are not given and cannot be made.
        """
        if policy in ("llm", "hybrid"):
            return self.related
        if policy in self.others:
            return self.others[policy]
        make = {"text": by_text, "supercategory": by_supercategory}.get(policy)
        if make is None:
            raise LlafsError(f"policy {policy!r} needs its related classes in `others`.")
        return make(self.episode.class_name, bank.classes)


@dataclass(frozen=True)
class Chosen:
    """Rows of a bank, best first, with their score ≥ 0 and how much each counts, the largest weight 1; all [M]."""

    rows: np.ndarray
    scores: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Choice:
    """A chosen pair, not yet loaded."""

    image_id: int
    class_name: str
    score: float
    weight: float = 1.0


def select_supports(policy: str, bank: SupportBank, request: Request, k: K = 5, seed: int = 0) -> list[Choice]:
    """Choose up to `k` supports for one query, or "all" that the policy has any use for, with weights.

    The draw depends on the seed, the class and the query image, not on the order of the calls.

    Raises:
        LlafsError: unknown policy, `k` below 1, or no support to be had.
    """
    if policy == "true":
        _check(policy, k)
        own = [i for i in request.episode.support_ids if i != request.episode.query_id and i not in request.exclude]
        choices = [Choice(i, request.episode.class_name, 1.0) for i in (own if k == "all" else own[:k])]
    else:
        found = choose_rows(policy, bank, request, k, seed)
        values = zip(found.rows, found.scores, found.weights, strict=True)
        choices = [Choice(int(bank.image_ids[r]), bank.class_of(r), float(s), float(w)) for r, s, w in values]
    if not choices:
        raise LlafsError(
            f"policy {policy!r} finds no support for {request.episode.class_name!r}: no annotated image is left."
        )
    return choices


def choose_rows(policy: str, bank: SupportBank, request: Request, k: K = 5, seed: int = 0) -> Chosen:
    """`select_supports` as rows of the bank, for those who need no images; for every policy but `true`.

    With `k` a number all supports weigh the same; with "all" they weigh what they score.

    Raises:
        LlafsError: unknown policy, or `k` below 1.
    """
    _check(policy, k)
    episode = request.episode
    rng = np.random.default_rng([seed, zlib.crc32(episode.class_name.encode()), episode.query_id + 1])  # ids ≥ −1
    if policy in ("random", "all"):
        return _any(bank, request, k, rng)
    if policy == "visual":
        rows = _allowed(bank, np.arange(len(bank)), request)
        scores = visual_term(bank, rows, request.query) ** VISUAL_POWER * quality_term(bank, rows)
        return _best(rows, scores, k)
    related = request.relation(policy, bank)
    rows = np.concatenate([_allowed(bank, bank.rows_of(name), request) for name in related.names] or [[]]).astype(int)
    if not len(rows):  # the documented fallback: no related class has a support
        return _any(bank, request, k, rng)
    # A small mask is a poor support where there are five, and does no harm among hundreds that each add what they show.
    exponents = Exponents(2.0, VISUAL_POWER if policy == "hybrid" else 0.0, 0.0 if k == "all" else 1.0)
    scored = score_supports(bank, related.scores, request.query, exponents, rows)
    return _best(rows, scored.total, k) if k == "all" else _shared_out(bank, scored, related, k, rng)


def _check(policy: str, k: K) -> None:
    if policy not in POLICIES:
        raise LlafsError(f"unknown policy {policy!r}: choose one of {', '.join(POLICIES)}.")
    if k != "all" and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
        raise LlafsError(f'shots must be at least 1, or "all", not {k!r}.')


def _allowed(bank: SupportBank, rows: np.ndarray, request: Request) -> np.ndarray:
    ids = bank.image_ids[rows]
    keep = ids != request.episode.query_id
    return rows[keep & ~np.isin(ids, list(request.exclude))] if request.exclude else rows[keep]


def _any(bank: SupportBank, request: Request, k: K, rng: np.random.Generator) -> Chosen:
    """A draw without looking, or all rows; score 0 says that nothing speaks for them."""
    rows = _allowed(bank, np.arange(len(bank)), request)
    rows = rows if k == "all" else rng.choice(rows, min(k, len(rows)), replace=False)
    return Chosen(rows, np.zeros(len(rows)), np.ones(len(rows)))


def _best(rows: np.ndarray, scores: np.ndarray, k: K) -> Chosen:
    """The `k` best; with "all" every row that scores above 0, weighing what it scores."""
    order = np.argsort(-scores, kind="stable")[: None if k == "all" else k]
    rows, scores = rows[order], scores[order]
    if k != "all":
        return Chosen(rows, scores, np.ones(len(rows)))
    use = scores > 0
    return Chosen(rows[use], scores[use], scores[use] / max(scores.max(initial=0.0), 1e-12))


def _shared_out(bank: SupportBank, scored: Scores, related: RelatedClasses, k: int, rng: np.random.Generator) -> Chosen:
    """The best of each related class, the places shared out among classes by relation².

    Shares are by largest quotient first, as seats in a parliament: a clear favourite gets most of the places and
    a near tie is split. Within a class the best score goes first, ties at random.
    """
    order = np.lexsort((rng.random(len(scored.rows)), -scored.total))
    names = np.array(bank.classes)[bank.class_index[scored.rows[order]]]
    queues = {name: order[names == name] for name in related.names if (names == name).any()}
    weights = {name: related.scores[name] ** 2 for name in queues}
    taken = share_out(weights, {name: len(queue) for name, queue in queues.items()}, k)
    picked = np.concatenate([queues[name][:n] for name, n in taken.items()])
    return Chosen(scored.rows[picked], scored.total[picked], np.ones(len(picked)))


def share_out(weights: dict[str, float], available: dict[str, int], k: int) -> dict[str, int]:
    """Share `k` places out in proportion to `weights` (d'Hondt's method), no class getting more than is available."""
    taken = dict.fromkeys(weights, 0)
    for _ in range(min(k, sum(available.values()))):
        open_classes = [name for name in weights if taken[name] < available[name]]
        best = max(open_classes, key=lambda name: weights[name] / (taken[name] + 1))
        taken[best] += 1
    return taken


def has_related_support(bank: SupportBank, related: RelatedClasses) -> bool:
    """Whether `llm` has anything to choose from; if not, it falls back to random base supports."""
    return any(len(bank.rows_of(name)) for name in related.names)


def augment(true: Sequence[Choice], base: Sequence[Choice], weight: float) -> list[Choice]:
    """True supports and base supports together: the latter count `weight` times as much (the document's "+" rows).

    Raises:
        LlafsError: a weight below 0.
    """
    if not weight >= 0:
        raise LlafsError(f"the weight of added supports must be a number from 0 up, not {weight!r}.")
    return [*true, *(replace(c, weight=c.weight * weight) for c in base)]


def load_supports(
    choices: Sequence[Choice], read: Callable[[int, str], tuple[np.ndarray, np.ndarray]]
) -> tuple[Support, ...]:
    """Fetch images and masks. `read`: (image id, class) → (image [H, W, 3] uint8, mask [H, W] bool)."""
    return tuple(Support(c.image_id, c.class_name, c.score, *read(c.image_id, c.class_name), c.weight) for c in choices)
