"""Episodes: which image is asked about, and which annotated images a few-shot model may look at (spec §3.6)."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from llafs_lib.errors import LlafsError
from llafs_lib.records import Episode, Fold

PROTOCOLS = ("distinct", "hsnet", "hsnet-list")

Lists = Mapping[str, Sequence[int]]  # class → image ids


class EpisodeSampler:
    """Draws episodes: a class, a query image that shows it, and support images that show it, too.

    Protocols:
        distinct: the classes take turns. The queries of a class come in a random order, and each comes once before any
            comes again. The supports of an episode are different images, and none of them is the query.
        hsnet: HSNet's COCO-20i stream, draw for draw (spec §3.6). It uses numpy's legacy generator. The class and the
            query are uniform, and each support is uniform among all images but the query. Supports may repeat, as in
            the published code.
        hsnet-list: HSNet's PASCAL-5i order (spec §3.6). Episode n asks about entry n of the list of (image, class)
            pairs and begins again at its end. The lists are sorted by image and then by class, as are the validation
            lists of the published code (spec §3.4).

    Args:
        queries: class → ids of the images that may be asked about.
        shots: supports per episode, at least 1.
        supports: class → ids of the images that may be shown; None means `queries`, as the hsnet protocols require.
        seed: the same lists and seed give the same episodes on any machine, in any number of processes.

    Attributes:
        classes: the classes that can be asked about.
        notes: one sentence per class that cannot be asked about, or has fewer supports than `shots`.

    Raises:
        LlafsError: an unknown protocol, `shots` below 1, or no class with enough images.
    """

    def __init__(
        self, queries: Lists, shots: int = 1, supports: Lists | None = None, protocol: str = "distinct", seed: int = 0
    ):
        if protocol not in PROTOCOLS:
            raise LlafsError(f"protocol {protocol!r} is unknown: choose one of {', '.join(PROTOCOLS)}.")
        if shots < 1:
            raise LlafsError(f"shots={shots}: an episode needs at least one support.")
        if supports is not None and protocol != "distinct":
            raise LlafsError(
                f"protocol {protocol!r} draws queries and supports from the same lists: give no `supports`."
            )
        self.shots, self.protocol, self.seed = shots, protocol, seed
        self._queries, self._supports = queries, queries if supports is None else supports
        notes = {name: self._shortage(name) for name in queries}
        self.classes = tuple(name for name in queries if not notes[name].endswith("left out"))
        self.notes = tuple(f"{name}: {note}" for name, note in notes.items() if note)
        if not self.classes:
            raise LlafsError(f"no episode can be drawn: {'; '.join(self.notes) or 'there is no class'}.")

    def draw(self, count: int) -> list[Episode]:
        """The first `count` episodes of the stream."""
        if self.protocol != "distinct":
            return list(itertools.islice(self._hsnet(), count))
        columns = [self._of_class(c) for c in self.classes]
        return [next(column) for column in itertools.islice(itertools.cycle(columns), count)]

    def each_query_once(self, limit: int | None = None) -> list[Episode]:
        """An episode for every (image, class) pair. The classes take turns, so that a limit keeps the rare ones.

        Args:
            limit: the number of episodes at most; None gives all.

        Raises:
            LlafsError: the protocol is not "distinct".
        """
        if self.protocol != "distinct":
            raise LlafsError(f"protocol {self.protocol!r} is a stream without an end: use draw(count).")
        columns = [itertools.islice(self._of_class(c), len(self._queries[c])) for c in self.classes]
        rows = itertools.zip_longest(*columns)
        episodes = (episode for row in rows for episode in row if episode is not None)
        return list(itertools.islice(episodes, limit))

    def _shortage(self, name: str) -> str:
        """What a class lacks, in words; "" if nothing."""
        n, pool = len(self._queries[name]), set(self._supports[name])
        shown = len(pool) - (len(pool & set(self._queries[name])) > 0)  # a query never supports itself
        if not n or shown < 1:
            return f"{n} images to ask about, {len(pool)} to show: left out"
        if shown < self.shots and self.protocol == "distinct":
            return f"{len(pool)} images to show, so fewer than {self.shots} supports"
        return ""

    def _of_class(self, name: str) -> Iterator[Episode]:
        # Each class has its own generator, so that its episodes do not depend on which other classes there are.
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        pool = np.array(self._supports[name])
        while True:
            for query in rng.permutation(self._queries[name]).tolist():
                others = pool[pool != query]
                supports = rng.choice(others, min(self.shots, len(others)), replace=False)
                yield Episode(name, query, tuple(supports.tolist()))

    def _hsnet(self) -> Iterator[Episode]:
        rng = np.random.RandomState(self.seed)

        def one_of(items: Sequence) -> int | str:
            # `replace=False` draws a whole permutation to take one item. It is slow, but it is part of the stream.
            return items[rng.choice(len(items), 1, replace=False)[0]]

        entries = sorted((i, name) for name in self.classes for i in self._queries[name])
        for n in itertools.count():
            if self.protocol == "hsnet":
                name = one_of(self.classes)
                query = one_of(self._queries[name])
            else:
                query, name = entries[n % len(entries)]
            supports = (one_of(self._queries[name]) for _ in itertools.count())
            supports = itertools.islice((s for s in supports if s != query), self.shots)
            yield Episode(name, query, tuple(supports))


def test_episodes(fold: Fold, classes: Sequence[str], shots: int, limit: int | None, seed: int) -> list[Episode]:
    """Episodes about validation images of `classes`, each with `shots` training images of the same class as supports.

    Every (image, class) pair is asked about at most once. A class with fewer training images than `shots` gets all that
    it has, and a class with none is left out.

    Args:
        shots: supports per episode, at least 1.
        limit: the number of episodes at most, classes in turn; None asks about every pair.
        seed: decides the order of the queries and the supports.

    Raises:
        LlafsError: `shots` is below 1, or no class has images to ask about and to show.
    """
    queries, supports = ({c: images[c] for c in classes} for images in (fold.test_images, fold.train_images))
    return EpisodeSampler(queries, shots, supports, seed=seed).each_query_once(limit)


test_episodes.__test__ = False  # its name is the field's; pytest must not collect it


def training_episodes(fold: Fold, count: int, seed: int) -> list[Episode]:
    """`count` one-shot episodes among the training images of `fold.training`.

    Raises:
        LlafsError: none of these classes has two training images.
    """
    return EpisodeSampler({c: fold.train_images[c] for c in fold.training}, seed=seed).draw(count)
