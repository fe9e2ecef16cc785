"""Which images are trained on and which are tested on, where they are one's own and no benchmark says it."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from llafs_lib.data.splits import Split
from llafs_lib.errors import LlafsError


def halves(whole: Split, min_area: float) -> tuple[Split, Split]:
    """A split as two: the images to train on, and the `validation_images` to test on.

    Args:
        min_area: the share of an image that a class must cover to count.
    """
    enough = (whole.pixels >= min_area * whole.areas()[:, None]) & (whole.pixels > 0)  # [images, classes]
    names = np.array(whole.classes, object)
    tested = set(validation_images({i: tuple(names[row]) for i, row in zip(whole.image_ids, enough, strict=True)}))
    sides = ([i for i in whole.image_ids if (i in tested) == side] for side in (False, True))
    train, test = (whole.part(dict(zip(ids, ids, strict=True))) for ids in sides)
    return train, test


def as_second(train: Split, test: Split) -> Split:
    """The split to test on, in the classes of the split to train on. Its images get ids that the other has not.

    Raises:
        LlafsError: the two have an image file in common.
    """
    known = {train.file(i).resolve() for i in train.image_ids}
    shared = [test.file(i) for i in test.image_ids if test.file(i).resolve() in known]
    if shared:
        raise LlafsError(
            f"{len(shared):,} images are both trained and tested on, the first is {shared[0]}: list each in one file "
            "only, or leave val out."
        )
    after = train.image_ids[-1] + 1
    return test.part({after + n: i for n, i in enumerate(test.image_ids)}, train.classes)


def validation_images(shown: Mapping[int, Collection[str]]) -> tuple[int, ...]:
    """A fifth of the images, to test on; the same ones every time.

    Every class in two images or more has one on either side, where that is possible. For that, there may be more
    than a fifth.

    Args:
        shown: id of every image → the classes that it counts for.
    """
    left = Counter(c for names in shown.values() for c in names)
    rarest_first = sorted(left, key=lambda c: (left[c], c))
    order = sorted(shown, key=lambda i: (zlib.crc32(str(i).encode()), i))  # at random, but always the same
    chosen: list[int] = []
    tested: set[str] = set()

    def choose(image_id: int) -> None:
        chosen.append(image_id)
        tested.update(shown[image_id])
        left.subtract(shown[image_id])

    for name in rarest_first:
        spare = [i for i in order if name in shown[i] and i not in chosen and all(left[c] > 1 for c in shown[i])]
        if name not in tested and spare:
            choose(max(spare, key=lambda i: sum(1 if c not in tested else -1 for c in shown[i])))
    for image_id in order:
        enough = len(chosen) >= max(round(len(shown) / 5), 1)
        if not enough and image_id not in chosen and all(left[c] > 2 for c in shown[image_id]):
            choose(image_id)
    return tuple(sorted(chosen))
