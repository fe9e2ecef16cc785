"""Which supports to show the model, and how much each counts: one signature, many policies, all seeded.

    true            supports of the class itself, as few-shot segmentation assumes them
    random          a random draw
    all             every base-class support, whatever its class
    llm             classes that a language model named
    text            classes with a similar name
    supercategory   classes of the same super-category in COCO
    shuffled        the classes that a language model named for another class
    oracle          the class that turned out best on other queries
    visual          supports that look like the query image
    hybrid          as `llm`, but supports that look like the query image come first

A policy never returns the query image. All but `true` choose among *base* classes only.
"""

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
from llafs_lib.retrieval.scoring import quality_term, relation_term, visual_term

K = int | Literal["all"]
RELATIONS = ("llm", "text", "supercategory", "shuffled", "oracle")
POLICIES = ("true", "random", "all", *RELATIONS, "visual", "hybrid")
RELATION_POWER = 2.0  # a class that is twice as much alike gets four times as many places
ADDED, ADDED_WEIGHT = 5, 0.3  # base supports beside true ones, and what each counts; see benchmarks/policies.py
VISUAL_POWER = 8.0  # cosines of natural images lie close together: a high power tells them apart


@dataclass(frozen=True)
class Request:
    """What a policy may look at: the question, the related classes and the query's embedding, a unit vector [C].

    `related` is the language model's answer. `others` holds the related classes of other kinds by their policy's name.
    "shuffled" and "oracle" must be given; "text" and "supercategory" are made where they are missing, since the
    name of the class is enough. `exclude` are images that may not serve, for instance because they show the class asked
    for without a mask of it.
    """

    episode: Episode
    related: RelatedClasses
    query: np.ndarray = field(repr=False)
    others: Mapping[str, RelatedClasses] = field(default_factory=dict)
    exclude: frozenset[int] = frozenset()

    def relation(self, policy: str, base: tuple[str, ...]) -> RelatedClasses:
        """The related classes that `policy` goes by, among the classes `base`.

        Raises:
            LlafsError: `others` lacks them and the class's name is not enough to make them.
        """
        if policy in ("llm", "hybrid"):
            return self.related
        if policy in self.others:
            return self.others[policy]
        make = {"text": by_text, "supercategory": by_supercategory}.get(policy)
        if make is None:
            raise LlafsError(f"policy {policy!r} needs its related classes in `others`.")
        return make(self.episode.class_name, base)


@dataclass(frozen=True)
class Chosen:
    """Rows of a bank, best first, with their scores ≥ 0 and how much each counts; all [M]. The largest weight is 1."""

    rows: np.ndarray
    scores: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Choice:
    """A chosen (image, class) pair whose image is not loaded yet."""

    image_id: int
    class_name: str
    score: float
    weight: float = 1.0


def select_supports(policy: str, bank: SupportBank, request: Request, k: K = 5, seed: int = 0) -> list[Choice]:
    """Choose up to `k` supports for one query, or "all" whose score is above 0, with their weights.

    The draw depends on the seed, the class and the query image, not on the order of the calls.

    Raises:
        LlafsError: the policy is unknown, `k` is below 1, or no support is left.
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
    """`select_supports` as rows of the bank, for callers that need no images. It knows every policy but `true`.

    If `k` is a number, all supports weigh the same; with "all", each weighs as much as its score.

    Raises:
        LlafsError: the policy is unknown, or `k` is below 1.
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
    related = request.relation(policy, bank.classes)
    rows = np.concatenate([_allowed(bank, bank.rows_of(name), request) for name in related.names] or [[]]).astype(int)
    if not len(rows):  # the documented fallback: no related class has a support
        return _any(bank, request, k, rng)
    scores = relation_term(bank, rows, related.scores) ** RELATION_POWER
    if policy == "hybrid":
        scores = scores * visual_term(bank, rows, request.query) ** VISUAL_POWER
    if k == "all":  # small masks do no harm among hundreds, because each adds only what it shows
        return _best(rows, scores, k)
    return _share(bank, rows, scores * quality_term(bank, rows), related, k, rng)


def _check(policy: str, k: K) -> None:
    if policy not in POLICIES:
        raise LlafsError(f"unknown policy {policy!r}: choose one of {', '.join(POLICIES)}.")
    if k != "all" and not (isinstance(k, int) and k >= 1):
        raise LlafsError(f'shots must be at least 1, or "all", not {k!r}.')


def _allowed(bank: SupportBank, rows: np.ndarray, request: Request) -> np.ndarray:
    return rows[~np.isin(bank.image_ids[rows], [request.episode.query_id, *request.exclude])]


def _any(bank: SupportBank, request: Request, k: K, rng: np.random.Generator) -> Chosen:
    """A random draw, or all rows. Their score is 0, because no reason favours any of them.

    A draw of one is the first of a draw of five, so that a model need not be shown more than five images for both.
    """
    rows = _allowed(bank, np.arange(len(bank)), request)
    rows = rows if k == "all" else rng.permutation(rows)[:k]
    return Chosen(rows, np.zeros(len(rows)), np.ones(len(rows)))


def _best(rows: np.ndarray, scores: np.ndarray, k: K) -> Chosen:
    """The `k` rows of the highest scores; with "all", every row whose score is above 0, weighted by it."""
    order = np.argsort(-scores, kind="stable")[: None if k == "all" else k]
    rows, scores = rows[order], scores[order]
    if k != "all":
        return Chosen(rows, scores, np.ones(len(rows)))
    use = scores > 0
    return Chosen(rows[use], scores[use], scores[use] / max(scores.max(initial=0.0), 1e-12))


def _share(
    bank: SupportBank, rows: np.ndarray, scores: np.ndarray, related: RelatedClasses, k: int, rng: np.random.Generator
) -> Chosen:
    """`k` of the rows: relation² decides how many each related class gets, the scores which; ties are drawn."""
    order = np.lexsort((rng.random(len(rows)), -scores))
    names = np.array(bank.classes)[bank.class_index[rows[order]]]
    queues = {name: order[names == name] for name in related.names if (names == name).any()}
    weights = {name: related.scores[name] ** RELATION_POWER for name in queues}
    places = dhondt(weights, {name: len(queue) for name, queue in queues.items()}, k)
    picked = np.concatenate([queues[name][:n] for name, n in places.items()])
    return Chosen(rows[picked], scores[picked], np.ones(len(picked)))


def dhondt(weights: Mapping[str, float], available: Mapping[str, int], k: int) -> dict[str, int]:
    """Share `k` places out among classes by d'Hondt's method, as parliaments share out seats among parties.

    Each place in turn goes to the class with the largest quotient weight / (places that it has + 1). So a clear
    favourite gets most of the places, and a near tie is split. No class gets more places than it has supports
    `available`.
    """
    places = dict.fromkeys(weights, 0)
    for _ in range(min(k, sum(available.values()))):
        unfilled = [name for name in weights if places[name] < available[name]]
        best = max(unfilled, key=lambda name: weights[name] / (places[name] + 1))
        places[best] += 1
    return places


def has_related_support(bank: SupportBank, related: RelatedClasses) -> bool:
    """Whether `llm` has a support to choose; if not, it falls back to random base supports."""
    return any(len(bank.rows_of(name)) for name in related.names)


def augment(true: Sequence[Choice], base: Sequence[Choice], weight: float) -> list[Choice]:
    """True and base supports together; the latter count `weight` ≥ 0 times as much (the document's "+" rows)."""
    return [*true, *(replace(c, weight=c.weight * weight) for c in base)]


def load_supports(
    choices: Sequence[Choice], read: Callable[[int, str], tuple[np.ndarray, np.ndarray]]
) -> tuple[Support, ...]:
    """Fetch images and masks. `read`: (image id, class) → (image [H, W, 3] uint8, mask [H, W] bool)."""
    return tuple(Support(c.image_id, c.class_name, c.score, *read(c.image_id, c.class_name), c.weight) for c in choices)
