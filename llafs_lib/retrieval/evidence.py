"""All that is known about a class, brought together: the rows of a bank, and the supports that a user added."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from llafs_lib.records import Support
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.corrections import Correction
from llafs_lib.retrieval.policies import (
    ADDED,
    ADDED_WEIGHT,
    Request,
    choose_rows,
    has_related_support,
    load_supports,
    select_supports,
)
from llafs_lib.vision.prototype import combine

Read = Callable[[int, str], tuple[np.ndarray, np.ndarray]]


def class_prototypes(
    bank: SupportBank, request: Request, added: Sequence[Correction] = (), plain: bool = True
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[str, ...]]:
    """Foreground and background prototype, each [C] float32, and notes on what they are made of.

    Without added supports they are made of all related rows, or of all rows of the class if it is annotated. Supports
    that the user added count fully. If they are all that shows the class itself, `ADDED` look-alikes stand beside them
    with the weight `ADDED_WEIGHT`, as the evaluation's rows "true + llm" have it.
    """
    rows, weights, notes = np.empty(0, int), np.empty(0), []
    related = has_related_support(bank, request.related)
    if related or not added:
        beside = bool(added) and request.related.source != "itself"
        chosen = choose_rows("llm", bank, request, ADDED if beside else "all")
        rows, weights = chosen.rows, chosen.weights * (ADDED_WEIGHT if beside else 1.0)
    if added:
        notes.append(f"compared with supports of {request.episode.class_name!r} that were added: {len(added)}")
    elif not related:
        notes.append("no related base class has a support: random base supports were used instead")
    parts = [bank.foreground[rows], bank.background[rows], bank.area[rows]]  # [M, C], [M, C], [M]
    if added:
        own = [np.array([getattr(c, part) for c in added], np.float32) for part in ("inside", "outside", "area")]
        parts = [np.concatenate(both) for both in zip(parts, own, strict=True)]
    both = combine(*parts, np.concatenate([weights, np.ones(len(added))]), plain)
    return tuple(np.asarray(p, np.float32) for p in both), tuple(notes)


class ShownSupports(Sequence[Support]):
    """Supports whose images are read when somebody looks at them, which with prototypes need not be."""

    def __init__(self, load: Callable[[], tuple[Support, ...]]):
        self._load = load

    @functools.cached_property
    def _loaded(self) -> tuple[Support, ...]:
        return self._load()

    def __len__(self) -> int:
        return len(self._loaded)

    def __getitem__(self, which):
        return self._loaded[which]


def shown_supports(
    bank: SupportBank, request: Request, added: Sequence[Correction], shots: int, read: Read
) -> ShownSupports:
    """Up to `shots` supports with their images: those that were added first, then what the policy `llm` chooses."""
    return ShownSupports(lambda: _load(bank, request, added, shots, read))


def _load(
    bank: SupportBank, request: Request, added: Sequence[Correction], shots: int, read: Read
) -> tuple[Support, ...]:
    own = tuple(c.support() for c in added[:shots])
    left = shots - len(own)
    if left < 1 or (own and not has_related_support(bank, request.related)):
        return own
    chosen = load_supports(select_supports("llm", bank, request, left), read)
    beside = own and request.related.source != "itself"
    return (*own, *(replace(s, weight=ADDED_WEIGHT if beside else 1.0) for s in chosen))
