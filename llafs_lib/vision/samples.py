"""The samples that a training sees: base-class images for RePRI's base network, episodes for HSNet.

The samples of an epoch depend on its number alone, so an interrupted training goes on with those that it would have
seen. Where the backbone is frozen, the features of an image are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from llafs_lib.records import Episode
from llafs_lib.vision.backbone import Backbone, encode, to_input, to_mask, usual_device
from llafs_lib.vision.features import FeatureCache
from llafs_lib.vision.pspnet import PSPNet, padded_input, padded_labels
from llafs_lib.vision.recipes import Recipe


def tap_store(backbone: Backbone, read: Callable[[int], np.ndarray], size: int) -> FeatureCache:
    """A cache of a frozen backbone's taps, by image id. A copy of the backbone makes them, on a GPU if there is one.

    Args:
        read: image id → [H, W, 3] uint8.
        size: side of the square that images are squashed to, in pixels.
    """
    fast = backbone.optimised().to(usual_device())
    return _kept(lambda image_id: encode(fast, to_input(read(image_id), size, fast.interpolation)))


def _kept(encode: Callable[[Any], list[Tensor]]) -> FeatureCache:
    """Features in the form that a data loader wants: in the CPU's memory, and contiguous, which is quicker to batch."""
    return FeatureCache(lambda key: [t.cpu().contiguous() for t in encode(key)], limit_mb=4096, evict=False)


class _Drawn(Dataset):
    """Samples, each made from its key when it is asked for."""

    def __init__(self, keys: Sequence[Any], make: Callable[[Any], Any]):
        self.keys, self.make = keys, make

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Any:
        return self.make(self.keys[index])


class BaseImages:
    """Images with label maps, flipped at random, to train a base network on (spec §2.2).

    Called with the number of an epoch, it returns that epoch's samples.
    These are padded images where the whole network is trained, and `trunk` features where its backbone is frozen.

    Args:
        ids: the images to train on.
        image: id → [H, W, 3] uint8.
        labels: id → [H, W] uint8 in 0…C-1, or `IGNORE` where nothing is taught.
        network: the base network, whose trunk is read where it is frozen.
        recipe: says whether the whole network is trained, the images' size and how many an epoch takes.
        seed: decides the flips, and the choice where an epoch takes `recipe.samples` images only.
    """

    def __init__(
        self,
        ids: Sequence[int],
        image: Callable[[int], np.ndarray],
        labels: Callable[[int], np.ndarray],
        network: PSPNet,
        recipe: Recipe,
        seed: int,
    ):
        self.ids, self.image, self.labels = ids, image, labels
        self.network, self.recipe, self.seed = network, recipe, seed
        self.trunk = None if recipe.whole else _kept(self._trunk)

    def __call__(self, epoch: int) -> Dataset:
        """Samples (input [3, S, S] or trunk features [C, h, w], labels [S', S'] int64)."""
        rng = np.random.default_rng((self.seed, epoch))
        count = min(self.recipe.samples or len(self.ids), len(self.ids))
        ids = rng.permutation(self.ids)[:count].tolist()
        flips = rng.random((count, 2)) < (0.5 if self.recipe.upside_down else 0, 0.5)
        return _Drawn([(i, down, across) for i, (down, across) in zip(ids, flips.tolist(), strict=True)], self._sample)

    def _sample(self, key: tuple[int, bool, bool]) -> tuple[Tensor, Tensor]:
        labels = padded_labels(_flip(self.labels(key[0]), key), self.recipe.size)
        inputs = self._input(key) if self.trunk is None else self.trunk(key)[0]
        return inputs, labels[:: self.recipe.label_stride, :: self.recipe.label_stride]

    def _input(self, key: tuple[int, bool, bool]) -> Tensor:
        return padded_input(_flip(self.image(key[0]), key), self.recipe.size)

    @torch.no_grad()
    def _trunk(self, key: tuple[int, bool, bool]) -> list[Tensor]:
        device = next(self.network.backbone.parameters()).device
        return [self.network.trunk(self._input(key)[None].to(device))[0]]  # [1, C, h, w] → [C, h, w]


def _flip(image: np.ndarray, key: tuple[int, bool, bool]) -> np.ndarray:
    _, down, across = key
    return np.ascontiguousarray(image[:: -1 if down else 1, :: -1 if across else 1])


def episode_images(
    episodes: Sequence[Episode],
    mask: Callable[[int, str], np.ndarray],
    features: FeatureCache,
    size: int,
) -> Dataset:
    """One-shot episodes to train HSNet on (spec §1.9).

    Args:
        mask: (image id, class) → [H, W] uint8 in {0, 1, IGNORE}.
        features: image id → taps of the frozen backbone (`tap_store`).
        size: side of the square that masks are squashed to, in pixels.

    Returns: samples (query taps, support taps, support mask [S, S] bool, query mask [S, S] int64).
    """

    def sample(e: Episode) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        (support,) = e.support_ids
        query_mask, support_mask = (to_mask(mask(i, e.class_name), size) for i in (e.query_id, support))
        # A pixel that losses ignore is no foreground of the support either.
        return features(e.query_id), features(support), support_mask == 1, query_mask

    return _Drawn(episodes, sample)
