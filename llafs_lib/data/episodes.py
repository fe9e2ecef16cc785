"""Episodes: which picture is asked about, and which annotated pictures a few-shot model may look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from llafs_lib.data.coco import DataError
from llafs_lib.records import Episode, Fold


def test_episodes(fold: Fold, classes: Sequence[str], shots: int, limit: int | None, seed: int) -> list[Episode]:
    """Questions about validation pictures of `classes`, each with `shots` training pictures of the same class.

    Every (picture, class) pair is asked at most once. With a `limit`, classes are served in turn, so that a rare class
    is not crowded out; within a class the pictures are drawn without replacement. A class with fewer training
    pictures than `shots` gets all it has; a class with none is left out.

    Args:
        limit: at most this many episodes; None asks about every pair.
        seed: the same seed gives the same episodes, whatever `limit` is.
    """
    rng = np.random.default_rng(seed)
    queues = {}
    for name in classes:
        queries = rng.permutation(fold.test_images[name])
        pool = fold.train_images[name]
        if len(pool):
            queues[name] = [_episode(rng, name, int(q), pool, shots) for q in queries]
    episodes = list(_in_turn(queues))
    return episodes if limit is None else episodes[:limit]


test_episodes.__test__ = False  # its name is the field's; pytest must not collect it


def training_episodes(fold: Fold, count: int, seed: int) -> list[Episode]:
    """`count` one-shot episodes among training pictures of base classes: class uniform, then two distinct pictures.

    Raises:
        DataError: no base class has two training pictures.
    """
    usable = [c for c in fold.base if len(fold.train_images[c]) >= 2]
    if not usable:
        raise DataError(f"no base class of {fold.dataset} fold {fold.index} has two training pictures.")
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(count):
        name = usable[rng.integers(len(usable))]
        query, support = rng.choice(fold.train_images[name], 2, replace=False)
        episodes.append(Episode(name, int(query), (int(support),)))
    return episodes


def _episode(rng: np.random.Generator, name: str, query: int, pool: Sequence[int], shots: int) -> Episode:
    supports = rng.choice(pool, min(shots, len(pool)), replace=False)
    return Episode(name, query, tuple(int(s) for s in supports))


def _in_turn(queues: Mapping[str, list[Episode]]) -> Iterator[Episode]:
    """One episode of each class, then a second of each, and so on."""
    longest = max((len(q) for q in queues.values()), default=0)
    for turn in range(longest):
        for queue in queues.values():
            if turn < len(queue):
                yield queue[turn]
