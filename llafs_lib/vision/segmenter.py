"""From images to a mask: what every few-shot model here offers, and HSNet's and INSID3's forms of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llafs_lib.errors import LlafsError
from llafs_lib.records import Prediction, Support
from llafs_lib.vision.backbone import Backbone, to_mask, usual_device
from llafs_lib.vision.features import full_precision, squashed_taps, unit_features
from llafs_lib.vision.hsnet import HSNet, pairs_at_once, vote
from llafs_lib.vision.insid3 import clusters_of, position_basis, segment_features


class Segmenter(Protocol):
    """Anything that segments a query image with annotated supports."""

    def segment(self, query: np.ndarray, supports: Sequence[Support], class_name: str) -> Prediction:
        """query [H, W, 3] uint8 RGB → a `Prediction` of the same height and width.

        Supports count by their `weight`; with equal weights the result is the published model's.
        """
        ...

    def segment_each(self, query: np.ndarray, shown: Sequence[Sequence[Support]], class_name: str) -> list[Prediction]:
        """The same with several sets of supports: → one prediction each. What the sets share is computed once."""
        ...


def check_supports(supports: Sequence[Support], class_name: str, model: str) -> None:
    """What every segmenter asks of its supports.

    Raises:
        LlafsError: there are none, a mask does not have its image's size, no weight is above 0, or two supports have
            the same key but not the same image and mask.
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
    by_key(supports)


def by_key(supports: Iterable[Support]) -> dict[tuple[int, str], Support]:
    """Each image with its mask once, by `Support.key`. Scores and weights may differ; the first support is kept.

    Raises:
        LlafsError: two supports have the same key but not the same image and mask.
    """
    found: dict[tuple[int, str], Support] = {}
    for s in supports:
        first = found.setdefault(s.key, s)
        if not (_same(first.image, s.image) and _same(first.mask, s.mask)):
            raise LlafsError(
                f"two different supports are both image {s.image_id} of class {s.class_name!r}: "
                "give each image its own image_id."
            )
    return found


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a is b or np.array_equal(a, b)  # a support that was read twice is two equal arrays


def weights_of(supports: Sequence[Support]) -> Tensor:
    """[K] float32 in [0, 1], the largest 1: only the ratio of the weights counts."""
    weights = torch.tensor([s.weight for s in supports], dtype=torch.float32)
    return weights / weights.max()


def masks_of(supports: Sequence[Support], size: int) -> Tensor:
    """The supports' masks, squashed: [K, size, size] int64, 0 or 1."""
    return torch.stack([to_mask(s.mask, size) for s in supports])


def about_empty(empty: int, count: int, size: int) -> tuple[str, ...]:
    """The note of a prediction whose supports have so many empty masks; none where they all show the class."""
    return (f"{empty} of {count} supports do not show the class at {size} px",) if empty else ()


class HSNetSegmenter:
    """HSNet as a `Segmenter`: each support has a vote (spec §1.10), which counts by the support's weight.

    Args:
        model: a trained `HSNet`.
        size: side of the square that images are squashed to, in pixels: the size the model was trained at.
        compared_at: the same for `describe`; None takes `size`, too. Features are best compared at a larger size than
            HSNet can be trained at.
    """

    def __init__(self, model: HSNet, size: int, compared_at: int | None = None):
        self.model, self.size, self.compared_at = model.eval(), size, compared_at or size
        backbone = model.backbone.optimised()
        self.features = squashed_taps(backbone, size)
        self.compared = self.features if self.compared_at == size else squashed_taps(backbone, self.compared_at)

    @classmethod
    def from_file(cls, path: str | Path, device: str | torch.device | None = None) -> HSNetSegmenter:
        """Open a checkpoint written by notebook 02, on a device; None takes a GPU if there is one."""
        model, header = HSNet.load(path)
        return cls(model.to(device or usual_device()), int(header["size"]), header.get("compared_at"))

    def describe(self, image: np.ndarray) -> Tensor:
        """The unit features [C, h, w] of an image, by which it is compared with the supports of a bank."""
        return unit_features(self.compared(image), self.model.backbone.levels)

    def forget(self, image: np.ndarray) -> None:
        """Keep the features of an image no longer, which will not be asked for again."""
        for cache in (self.features, self.compared):
            cache.forget(image)

    @torch.inference_mode()
    def segment(self, query: np.ndarray, supports: Sequence[Support], class_name: str = "") -> Prediction:
        """Segment `query` [H, W, 3] uint8; `probability` is the supports' weighted mean, `mask` is their vote.

        A support with an empty mask votes for background; `notes` says so.

        Raises:
            LlafsError: no supports, supports that do not fit (`check_supports`), or images that are not RGB bytes.
        """
        return self.segment_each(query, [supports], class_name)[0]

    @torch.inference_mode()
    def segment_each(
        self, query: np.ndarray, shown: Sequence[Sequence[Support]], class_name: str = ""
    ) -> list[Prediction]:
        """`segment` with several sets of supports. A support that is in many sets is compared with the query once."""
        for supports in shown:
            check_supports(supports, class_name, "HSNet")
        distinct = by_key(s for supports in shown for s in supports)
        votes = dict(zip(distinct, self._match(query, list(distinct.values())), strict=True))
        return [self._elected(class_name, supports, [votes[s.key] for s in supports]) for supports in shown]

    def _match(self, query: np.ndarray, supports: Sequence[Support]) -> Iterator[tuple[Tensor, bool]]:
        """For each support: logits [1, 2, H, W], and whether it shows the class at all."""
        taps = self._taps([query])
        some = pairs_at_once(taps[0].device)
        for first in range(0, len(supports), some):
            part = supports[first : first + some]
            masks = masks_of(part, self.size)  # [n, S, S]
            shown = self._taps([s.image for s in part])
            repeated = [t.expand(len(part), -1, -1, -1) for t in taps]
            logits = self.model.match(repeated, shown, masks.to(taps[0].device), query.shape[:2])
            yield from zip(logits.split(1), masks.flatten(1).any(dim=1).tolist(), strict=True)

    def _elected(
        self, class_name: str, supports: Sequence[Support], votes: Sequence[tuple[Tensor, bool]]
    ) -> Prediction:
        logits = torch.cat([vote for vote, _ in votes]).float()  # [K, 2, H, W]; half precision under autocast
        weights = weights_of(supports).to(logits)
        shares = (weights / weights.sum())[:, None, None]
        probability = (logits.softmax(dim=1)[:, 1] * shares).sum(dim=0)  # [K, H, W] → [H, W]
        empty = sum(not shows for _, shows in votes)
        return Prediction(
            class_name=class_name,
            mask=vote(logits[None], weights[None])[0].cpu().numpy(),
            probability=probability.clamp(max=1).cpu().numpy(),  # the weights may add up to a little more than 1
            supports=tuple(supports),
            notes=about_empty(empty, len(votes), self.size),
        )

    def _taps(self, images: Sequence[np.ndarray]) -> list[Tensor]:
        """The taps of n images, each [n, C, h, w]."""
        device = next(self.model.learner.parameters()).device  # while it is trained, the backbone may be elsewhere
        return [torch.stack(same).to(device) for same in zip(*self.features.many(images), strict=True)]


class INSID3Segmenter:
    """INSID3 as a `Segmenter` (spec §9), on the unit features of any frozen backbone. It needs no training.

    Args:
        backbone: a frozen one.
        size: side of the square that images are squashed to, in pixels.
        rank: of the position basis, below the features' dimension. None takes half of a vision transformer's dimension,
            at most 500, which is the published number for 1024, and 0 for a convolutional network, which is not told
            where in the image it looks.
        tau: as in `segment_features`.
        merge: the same. None takes the published 0.2 for a vision transformer and 0.025 for a convolutional network,
            whose clusters hardly join the seed's otherwise: questions that are not reported chose it (docs/results.md).

    Raises:
        LlafsError: a rank that is not below the features' dimension.
    """

    def __init__(
        self, backbone: Backbone, size: int, rank: int | None = None, tau: float = 0.6, merge: float | None = None
    ):
        self.backbone, self.size, self.tau, self.merge = backbone, size, tau, merge
        if merge is None:
            self.merge = 0.025 if all(backbone.levels) else 0.2
        self.features = squashed_taps(backbone.optimised(), size)
        black = self.describe(np.zeros((size, size, 3), np.uint8))
        usual = 0 if all(backbone.levels) else min(500, len(black) // 2)
        self.basis = position_basis(black, usual if rank is None else rank)

    def describe(self, image: np.ndarray) -> Tensor:
        """The unit features [C, h, w] of an image [H, W, 3] uint8."""
        return unit_features(self.features(image), self.backbone.levels)

    def segment(self, query: np.ndarray, supports: Sequence[Support], class_name: str = "") -> Prediction:
        """Segment `query` [H, W, 3] uint8. `probability` is the mask of the features' grid, interpolated to the image.

        Supports with empty masks are left out, and `notes` says so.

        Raises:
            LlafsError: no supports, or some that do not fit (`check_supports`).
        """
        return self.segment_each(query, [supports], class_name)[0]

    @torch.inference_mode()
    def segment_each(
        self, query: np.ndarray, shown: Sequence[Sequence[Support]], class_name: str = ""
    ) -> list[Prediction]:
        """`segment` with several sets of supports. The query is clustered once."""
        for supports in shown:
            check_supports(supports, class_name, "INSID3")
        target = self.describe(query)
        clusters = full_precision(clusters_of)(target, self.tau)
        return [self._segment(query, target, clusters, supports, class_name) for supports in shown]

    @full_precision
    def _segment(
        self, query: np.ndarray, target: Tensor, clusters: Tensor, supports: Sequence[Support], class_name: str
    ) -> Prediction:
        masks, how = masks_of(supports, self.size).to(target.device), (self.tau, self.merge)
        taps = self.features.many([s.image for s in supports])
        maps = torch.stack([unit_features(t, self.backbone.levels) for t in taps])  # [S, C, h, w]
        found = segment_features(target, maps, masks, self.basis, *how, weights_of(supports), clusters)
        whole = F.interpolate(found[None, None].float(), query.shape[:2], mode="bilinear", align_corners=False)[0, 0]
        probability, empty = whole.cpu().numpy(), sum(not mask.any() for mask in masks)
        notes = about_empty(empty, len(masks), self.size)
        if not found.any():
            notes += ("no place of the image is like the supports' foreground: nothing is marked",)
        return Prediction(class_name, probability > 0.5, probability, tuple(supports), notes=notes)
