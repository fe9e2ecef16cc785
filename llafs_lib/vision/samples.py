"""What a training is fed: base-class images for RePRI's base network, episodes for HSNet.

Both are called with the number of an epoch and give its samples, which depend on nothing else, so that an interrupted
training goes on with what it would have seen. Where the backbone is frozen an image's features are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from llafs_lib.progress import track
from llafs_lib.records import Episode
from llafs_lib.vision.backbone import Backbone, encode, to_input, to_mask
from llafs_lib.vision.pspnet import PSPNet, padded_input, padded_labels
from llafs_lib.vision.recipes import Recipe


class FeatureStore:
    """Features of training images, computed when first asked for and kept while there is room.

    Every image is asked for about as often, so nothing is gained by throwing one out for another.

    Args:
        encode: key, such as an image's id → tensors.
        limit_mb: what may be kept.
    """

    def __init__(self, encode: Callable[[Any], list[Tensor]], limit_mb: int = 4096):
        self.encode, self.room = encode, limit_mb * 2**20
        self._kept: dict[Hashable, list[Tensor]] = {}

    def __getitem__(self, key: Hashable) -> list[Tensor]:
        if key in self._kept:
            return self._kept[key]
        tensors = [t.cpu().contiguous() for t in self.encode(key)]  # contiguous: quicker to batch
        size = sum(t.nbytes for t in tensors)
        if size <= self.room:
            self._kept[key] = tensors
            self.room -= size
        return tensors

    def fill(self, keys: Iterable[Hashable]) -> FeatureStore:
        """Compute them now, with a bar, rather than in the first epoch."""
        for key in track(list(keys), "features", "image"):
            self[key]
        return self


def tap_store(backbone: Backbone, read: Callable[[int], np.ndarray], size: int) -> FeatureStore:
    """The taps of a frozen backbone by image id; `read` gives [H, W, 3] uint8."""
    fast = backbone.optimised()
    return FeatureStore(lambda image_id: encode(fast, to_input(read(image_id), size)))


class _Drawn(Dataset):
    """Samples that are made when they are asked for."""

    def __init__(self, keys: Sequence[Any], make: Callable[[Any], Any]):
        self.keys, self.make = keys, make

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Any:
        return self.make(self.keys[index])


class BaseImages:
    """Images with label maps, flipped at random, to train a base network on (spec §2.2).

    Where all of the network is trained the samples are padded images; where its backbone is frozen they are its
    `trunk` features.

    Args:
        ids: of the images.
        image, labels: id → [H, W, 3] uint8, and → [H, W] uint8 in 0…C-1 with `IGNORE` where nothing is taught.
        seed: of the flips, and of the choice where an epoch takes `recipe.samples` images only.
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
        self.trunk = None if recipe.whole else FeatureStore(self._trunk)

    def __call__(self, epoch: int) -> Dataset:
        """Samples (input [3, S, S] or trunk features [C, h, w], labels [S', S'] int64)."""
        rng = np.random.default_rng((self.seed, epoch))
        count = min(self.recipe.samples or len(self.ids), len(self.ids))
        ids = rng.permutation(self.ids)[:count].tolist()
        flips = rng.random((count, 2)) < (0.5 if self.recipe.upside_down else 0, 0.5)
        return _Drawn([(i, down, across) for i, (down, across) in zip(ids, flips.tolist(), strict=True)], self._sample)

    def _sample(self, key: tuple[int, bool, bool]) -> tuple[Tensor, Tensor]:
        labels = padded_labels(_flip(self.labels(key[0]), key), self.recipe.size)
        inputs = self._input(key) if self.trunk is None else self.trunk[key][0]
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


class EpisodeImages:
    """One-shot episodes to train HSNet on (spec §1.9).

    Args:
        draw: epoch → its episodes.
        mask: (image id, class) → [H, W] uint8 in {0, 1, IGNORE}.
        features: image id → taps of the frozen backbone.
        size: side of the square that masks are squashed to, px.
    """

    def __init__(
        self,
        draw: Callable[[int], Sequence[Episode]],
        mask: Callable[[int, str], np.ndarray],
        features: FeatureStore,
        size: int,
    ):
        self.draw, self.mask, self.features, self.size = draw, mask, features, size

    def __call__(self, epoch: int) -> Dataset:
        """Samples (query taps, support taps, support mask [S, S] bool, query mask [S, S] int64)."""
        return _Drawn(self.draw(epoch), self._sample)

    def _sample(self, e: Episode) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        (support,) = e.support_ids
        query_mask, support_mask = (to_mask(self.mask(i, e.class_name), self.size) for i in (e.query_id, support))
        # What is to be ignored is not shown either.
        return self.features[e.query_id], self.features[support], support_mask == 1, query_mask
