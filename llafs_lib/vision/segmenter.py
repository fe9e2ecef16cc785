"""From pictures to a mask: what every few-shot model here offers, and HSNet's form of it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from llafs_lib.errors import LlafsError
from llafs_lib.records import Prediction, Support
from llafs_lib.vision.backbone import Backbone, encode, to_input, to_mask
from llafs_lib.vision.hsnet import HSNet, vote


class Segmenter(Protocol):
    """Anything that segments a query picture with annotated supports."""

    def segment(self, query: np.ndarray, supports: Sequence[Support], class_name: str) -> Prediction:
        """query [H, W, 3] uint8 RGB → a `Prediction` of the same height and width."""
        ...


class FeatureCache:
    """The taps of the pictures seen last, found again by their pixels.

    Args:
        backbone: frozen.
        size: side of the square that pictures are squashed to.
        limit_mb: memory for taps; the picture that was not asked for longest goes first.
    """

    def __init__(self, backbone: Backbone, size: int, limit_mb: int = 1024):
        self.backbone, self.size, self.limit = backbone, size, limit_mb * 2**20
        self._taps: OrderedDict[bytes, list[Tensor]] = OrderedDict()
        self._bytes = 0

    def __call__(self, image: np.ndarray) -> list[Tensor]:
        """image [H, W, 3] uint8 → taps, each [C, h, w]."""
        key = hashlib.blake2b(np.ascontiguousarray(image), digest_size=16, person=repr(image.shape).encode()).digest()
        if key in self._taps:
            self._taps.move_to_end(key)
            return self._taps[key]
        taps = encode(self.backbone, to_input(image, self.size))
        self._taps[key] = taps
        self._bytes += _size(taps)
        while self._bytes > self.limit and len(self._taps) > 1:
            self._bytes -= _size(self._taps.popitem(last=False)[1])
        return taps


def _size(taps: Sequence[Tensor]) -> int:
    return sum(t.nbytes for t in taps)


class HSNetSegmenter:
    """HSNet as a `Segmenter`: one vote per support (spec §1.10).

    Args:
        model: a trained `HSNet`.
        size: side of the square that pictures are squashed to, in pixels: the size it was trained at.
    """

    def __init__(self, model: HSNet, size: int):
        self.model, self.size = model.eval(), size
        self.features = FeatureCache(model.backbone.optimised(), size)

    @classmethod
    def from_file(cls, path: str | Path) -> HSNetSegmenter:
        """Open a checkpoint written by notebook 02, on a GPU if there is one."""
        model, header = HSNet.load(path)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device), int(header["size"]))

    @torch.inference_mode()
    def segment(self, query: np.ndarray, supports: Sequence[Support], class_name: str = "") -> Prediction:
        """Segment `query` [H, W, 3] uint8; `probability` is the mean over the supports, `mask` is their vote.

        Raises:
            LlafsError: there are no supports.
        """
        if not supports:
            raise LlafsError(
                f"no support for {class_name or 'this class'}: HSNet needs at least one annotated picture."
            )
        query_taps = self._taps(query)
        logits = torch.cat([self._match(query_taps, s, query.shape[:2]) for s in supports])  # [K, 2, H, W]
        return Prediction(
            class_name=class_name,
            mask=vote(logits[None])[0].cpu().numpy(),
            probability=logits.softmax(dim=1)[:, 1].mean(dim=0).cpu().numpy(),
            supports=tuple(supports),
        )

    def _match(self, query: Sequence[Tensor], support: Support, size: tuple[int, int]) -> Tensor:
        taps = self._taps(support.image)
        mask = to_mask(support.mask, self.size)[None].to(taps[0].device)
        return self.model.match(query, taps, mask, size)

    def _taps(self, image: np.ndarray) -> list[Tensor]:
        device = next(self.model.learner.parameters()).device  # while it is trained, the backbone may lie elsewhere
        return [t[None].to(device) for t in self.features(image)]  # [C, h, w] → [1, C, h, w]
