"""Unit features: one map per image, in which any two places can be compared by a dot product. And where they are kept.

They are what prototypes average, what a support bank stores, and what a query is compared by.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llafs_lib.progress import track
from llafs_lib.vision.backbone import Backbone, check_image, encode_batch, images_at_once, last_taps, resize, to_input

COMPARED = (16, 32)  # the strides whose last taps make the unit features


def full_precision(function: Callable) -> Callable:
    """The same function, which autocast does not reach: what is computed from features keeps their precision."""

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*arguments, **options)

    return run


class FeatureCache:
    """Features of images, computed when they are first asked for and kept while there is room.

    Args:
        encode: makes the features, a list of tensors, of what the cache is asked for.
        limit_mb: how much memory the features may take; 0 keeps none.
        evict: what happens when the cache is full. True: the features that were not asked for longest make room for new
            ones, which suits evaluations, where an image matters for a few queries. False: those that are kept stay,
            which suits trainings: an epoch asks for each image once, so by the time an image comes again its features
            would have made room for others.
        encode_all, at_once: makes the features of up to `at_once` images together, where that is quicker.
    """

    def __init__(
        self,
        encode: Callable[[Any], list[Tensor]],
        limit_mb: int = 1024,
        evict: bool = True,
        encode_all: Callable[[Sequence[Any]], list[list[Tensor]]] | None = None,
        at_once: int = 1,
    ):
        self.encode, self.limit, self.evict = encode, limit_mb * 2**20, evict
        self.encode_all, self.at_once = encode_all or (lambda some: [encode(what) for what in some]), at_once
        self.used = 0  # bytes
        self._kept: OrderedDict[Hashable, list[Tensor]] = OrderedDict()  # what was asked for last comes last

    def __call__(self, what: np.ndarray | Hashable) -> list[Tensor]:
        """The features of an image.

        Args:
            what: the image itself, [H, W, 3] uint8, which is found again by its pixels; or whatever else `encode`
                takes, such as the image's id, which is found again by its value.

        Raises:
            LlafsError: an array that is no such image.
        """
        return self.encode(what) if not self.limit else self.many([what])[0]

    def many(self, images: Sequence[np.ndarray | Hashable]) -> list[list[Tensor]]:
        """The features of each image. Those that are not kept are computed `at_once` at a time, each image once."""
        keys = [_pixel_hash(i) if isinstance(i, np.ndarray) else i for i in images]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        for key in found:
            self._kept.move_to_end(key)
        missing = [(key, i) for key, i in dict(zip(keys, images, strict=True)).items() if key not in found]
        for first in range(0, len(missing), self.at_once):
            part = missing[first : first + self.at_once]
            for (key, _), features in zip(part, self.encode_all([i for _, i in part]), strict=True):
                found[key] = features
                if self.limit:
                    self._keep(key, features)
        return [found[key] for key in keys]

    def _keep(self, key: Hashable, features: list[Tensor]) -> None:
        if not self.evict and self.used + _bytes(features) > self.limit:
            return
        self._kept[key] = features
        self.used += _bytes(features)
        while self.used > self.limit and len(self._kept) > 1:
            self.used -= _bytes(self._kept.popitem(last=False)[1])

    def forget(self, image: np.ndarray) -> None:
        """Keep the features of an image no longer, which will not be asked for again."""
        if self._kept:
            self.used -= _bytes(self._kept.pop(_pixel_hash(image), ()))

    def fill(self, many: Iterable[Any]) -> FeatureCache:
        """Compute the features of many images now, with a bar, for as long as there is room to keep them.

        Args:
            many: what `encode` takes, each to be found again by its value.
        """
        for what in track(list(many), "features", "image"):
            self(what)
            if what not in self._kept:  # a whole release does not fit: the rest would be computed for nothing
                break
        return self


def _pixel_hash(image: np.ndarray) -> bytes:
    check_image(image)
    shape = repr(image.shape).encode()
    return hashlib.blake2b(np.ascontiguousarray(image), digest_size=16, person=shape).digest()


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(t.nbytes for t in tensors)


def squashed_taps(backbone: Backbone, size: int, limit_mb: int = 1024) -> FeatureCache:
    """A cache of the taps, each [C, h, w], of images [H, W, 3] uint8 squashed to `size` px.

    A backbone on a GPU is given several of them at once (`FeatureCache.many`).
    """

    def encode_all(images: Sequence[np.ndarray]) -> list[list[Tensor]]:
        return encode_batch(backbone, torch.stack([to_input(i, size, backbone.interpolation) for i in images]))

    at_once = images_at_once(next(backbone.parameters()).device)
    return FeatureCache(lambda image: encode_all([image])[0], limit_mb, encode_all=encode_all, at_once=at_once)


def unit_features(taps: Sequence[Tensor], levels: tuple[int, int, int]) -> Tensor:
    """The last taps of strides 16 and 32 as one map of unit vectors, whose dot products average the strides' cosines.

    Of a vision transformer it is its one map, as unit vectors.

    Args:
        taps: of one image, shallow to deep, each [C, h, w].
        levels: how many taps the backbone has at strides 8, 16 and 32.

    Returns: [ΣC, h, w] on the finest grid.
    """
    last = last_taps(taps, levels, COMPARED)
    grid = last[0].shape[-2:]
    maps = [resize(tap[None], grid)[0] for tap in last]
    return torch.cat([F.normalize(m, dim=0) for m in maps]) / len(maps) ** 0.5


@torch.no_grad()
@full_precision
def masked_means(features: Tensor, mask: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray, float]:
    """The mean unit feature inside and outside a mask, and the share of the map that the mask covers.

    This is one support's part of a prototype; `combine` joins the parts of many supports.

    Args:
        features: [C, h, w].
        mask: [H, W] in {0, 1}. A position at the border of a mask counts by the share of it that is covered, so that a
            small object is never lost.

    Returns: inside [C], outside [C], area in [0, 1]; zeros where there is nothing inside or outside.
    """
    mask = torch.as_tensor(mask).to(features)
    share = F.adaptive_avg_pool2d(mask[None], features.shape[-2:])[0]  # [H, W] → [h, w]
    inside = torch.einsum("chw,hw->c", features, share) / share.sum().clamp(min=1e-12)
    outside = torch.einsum("chw,hw->c", features, 1 - share) / (1 - share).sum().clamp(min=1e-12)
    return inside.cpu().numpy(), outside.cpu().numpy(), float(share.mean())


def query_embedding(features: Tensor) -> np.ndarray:
    """The direction of an image's mean feature: [C, h, w] → unit vector [C]."""
    return F.normalize(features.mean(dim=(1, 2)), dim=0).cpu().numpy()
