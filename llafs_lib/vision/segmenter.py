"""From images to a mask: what every few-shot model here offers, and HSNet's form of it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from llafs_lib.errors import LlafsError
from llafs_lib.records import Prediction, Support
from llafs_lib.vision.backbone import Backbone, check_image, encode, to_input, to_mask
from llafs_lib.vision.features import unit_features
from llafs_lib.vision.hsnet import HSNet, vote


class Segmenter(Protocol):
    """Anything that segments a query image with annotated supports."""

    def segment(self, query: np.ndarray, supports: Sequence[Support], class_name: str) -> Prediction:
        """query [H, W, 3] uint8 RGB → a `Prediction` of the same height and width.

        Supports count by their `weight`; with equal weights the result is the published model's.
        """
        ...

    def segment_each(self, query: np.ndarray, shown: Sequence[Sequence[Support]], class_name: str) -> list[Prediction]:
        """The same with several sets of supports, one prediction each; what the sets share is computed once."""
        ...


def check_supports(supports: Sequence[Support], class_name: str, model: str) -> None:
    """What every segmenter asks of its supports.

    Raises:
        LlafsError: there are none, a mask is not of its image's size, or the weights say that none counts.
    """
    if not supports:
        raise LlafsError(f"no support for {class_name or 'this class'}: {model} needs at least one annotated image.")
    for s in supports:
        if s.mask.shape != s.image.shape[:2]:
            raise LlafsError(f"the mask of support {s.image_id} is {s.mask.shape}, its image {s.image.shape[:2]}.")
        if not (np.isfinite(s.weight) and s.weight >= 0):
            raise LlafsError(f"the weight of support {s.image_id} is {s.weight}: it must be a number from 0 up.")
    if not any(s.weight for s in supports):
        raise LlafsError(f"all supports for {class_name or 'this class'} have weight 0: none would count.")


def weights_of(supports: Sequence[Support]) -> Tensor:
    """[K] float32 in [0, 1], the largest 1: what counts is their ratio."""
    weights = torch.tensor([s.weight for s in supports], dtype=torch.float32)
    return weights / weights.max()


def pair_of(support: Support) -> tuple[int, int]:
    """Tells supports apart by image and mask, whatever ids they were given; for as long as they live."""
    return id(support.image), id(support.mask)


class FeatureCache:
    """The features of the images seen last, found again by their pixels.

    Args:
        encode: image [H, W, 3] uint8 → tensors.
        limit_mb: memory for them; the image that was not asked for longest goes first.
    """

    def __init__(self, encode: Callable[[np.ndarray], list[Tensor]], limit_mb: int = 1024):
        self.encode, self.limit = encode, limit_mb * 2**20
        self._kept: OrderedDict[bytes, list[Tensor]] = OrderedDict()
        self._bytes = 0

    def __call__(self, image: np.ndarray) -> list[Tensor]:
        """image [H, W, 3] uint8 → its features.

        Raises:
            LlafsError: another shape or type.
        """
        check_image(image)
        key = hashlib.blake2b(np.ascontiguousarray(image), digest_size=16, person=repr(image.shape).encode()).digest()
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        found = self.encode(image)
        self._kept[key] = found
        self._bytes += _size(found)
        while self._bytes > self.limit and len(self._kept) > 1:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return found


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(t.nbytes for t in tensors)


def squashed_taps(backbone: Backbone, size: int) -> FeatureCache:
    """The taps, each [C, h, w], of images squashed to `size` px."""
    return FeatureCache(lambda image: encode(backbone, to_input(image, size)))


class HSNetSegmenter:
    """HSNet as a `Segmenter`: one vote per support (spec §1.10), which counts by the support's weight.

    Args:
        model: a trained `HSNet`.
        size: side of the square that images are squashed to, in pixels: the size it was trained at.
    """

    def __init__(self, model: HSNet, size: int):
        self.model, self.size = model.eval(), size
        self.features = squashed_taps(model.backbone.optimised(), size)

    @classmethod
    def from_file(cls, path: str | Path) -> HSNetSegmenter:
        """Open a checkpoint written by notebook 02, on a GPU if there is one."""
        model, header = HSNet.load(path)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device), int(header["size"]))

    def describe(self, image: np.ndarray) -> Tensor:
        """Unit features [C, h, w] of an image, by which it is compared with the supports of a bank."""
        return unit_features(self.features(image), self.model.backbone.levels)

    @torch.inference_mode()
    def segment(self, query: np.ndarray, supports: Sequence[Support], class_name: str = "") -> Prediction:
        """Segment `query` [H, W, 3] uint8; `probability` is the supports' weighted mean, `mask` is their vote.

        A support with an empty mask votes for background; `notes` says so.

        Raises:
            LlafsError: no supports, some that do not fit (`check_supports`), or images that are not RGB bytes.
        """
        return self.segment_each(query, [supports], class_name)[0]

    @torch.inference_mode()
    def segment_each(
        self, query: np.ndarray, shown: Sequence[Sequence[Support]], class_name: str = ""
    ) -> list[Prediction]:
        """`segment` with several sets of supports: a support that stands in many is compared with the query once."""
        for supports in shown:
            check_supports(supports, class_name, "HSNet")
        taps = self._taps(query)
        votes = {pair_of(s): s for supports in shown for s in supports}
        votes = {pair: self._match(taps, s, query.shape[:2]) for pair, s in votes.items()}
        return [self._elected(class_name, supports, [votes[pair_of(s)] for s in supports]) for supports in shown]

    def _match(self, query: Sequence[Tensor], support: Support, size: tuple[int, int]) -> tuple[Tensor, bool]:
        """Logits [1, 2, H, W], and whether the support shows the class at all."""
        taps, mask = self._taps(support.image), to_mask(support.mask, self.size)
        return self.model.match(query, taps, mask[None].to(taps[0].device), size), bool(mask.any())

    def _elected(
        self, class_name: str, supports: Sequence[Support], votes: Sequence[tuple[Tensor, bool]]
    ) -> Prediction:
        logits = torch.cat([vote for vote, _ in votes])  # [K, 2, H, W]
        weights = weights_of(supports).to(logits)
        probability = torch.einsum("khw,k->hw", logits.softmax(dim=1)[:, 1], weights / weights.sum())
        empty = sum(not shows for _, shows in votes)
        return Prediction(
            class_name=class_name,
            mask=vote(logits[None], weights[None])[0].cpu().numpy(),
            probability=probability.clamp(max=1).cpu().numpy(),  # a sum of weights that rounds above 1
            supports=tuple(supports),
            notes=(f"{empty} of {len(votes)} supports do not show the class at {self.size} px",) if empty else (),
        )

    def _taps(self, image: np.ndarray) -> list[Tensor]:
        device = next(self.model.learner.parameters()).device  # while it is trained, the backbone may lie elsewhere
        return [t[None].to(device) for t in self.features(image)]  # [C, h, w] → [1, C, h, w]
