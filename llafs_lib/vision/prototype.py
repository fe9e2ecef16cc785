"""The training-free baseline: is a pixel more like the supports' foreground, or more like their background?

Every position of a frozen backbone's map is a unit vector. The *foreground prototype* is the direction of the mean over
the supports' foreground. The *background prototype* is the mean over all the rest and keeps its length: where the
background is of many kinds the mean is short, and rightly takes little off. Nothing is learned but a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llafs_lib.errors import LlafsError
from llafs_lib.records import Prediction, Support
from llafs_lib.vision.backbone import Backbone, to_mask
from llafs_lib.vision.features import STRIDES, unit_features
from llafs_lib.vision.segmenter import check_supports, squashed_taps, weights_of

FLAT = 1e-6  # similarities that differ by less differ by rounding


def prototypes(
    features: Tensor, masks: Tensor, weights: Tensor | None = None, plain: bool = False
) -> tuple[Tensor, Tensor]:
    """Masked averages over all supports and positions.

    Args:
        features: unit vectors, [K, C, h, w].
        masks: [K, H, W] in {0, 1}. A position at the border of a mask counts by the share of it that is covered, so
            that a small object is never lost.
        weights: [K] ≥ 0, how much each support counts; None: all the same.
        plain: leave the foreground its length, too.

    Returns: foreground [C] of length 1 (≤ 1 if plain), background [C] of length ≤ 1; zeros where no mask has any.

    Raises:
        LlafsError: K = 0, shapes that do not belong together, or features that are not finite.
    """
    if features.dim() != 4 or not len(features) or len(masks) != len(features) or masks.dim() != 3:
        raise LlafsError(
            f"features {list(features.shape)} and masks {list(masks.shape)} must be [K, C, h, w] and [K, H, W], K ≥ 1."
        )
    _check_finite(features)
    shares = F.adaptive_avg_pool2d(masks[:, None].to(features), features.shape[-2:])[:, 0]  # [K, H, W] → [K, h, w]
    weights = torch.ones(len(features)) if weights is None else weights
    weights = weights.to(features)[:, None, None]
    foreground = torch.einsum("kchw,khw->c", features, weights * shares) / (weights * shares).sum().clamp(min=1e-12)
    rest = weights * (1 - shares)
    background = torch.einsum("kchw,khw->c", features, rest) / rest.sum().clamp(min=1e-12)
    return foreground if plain else F.normalize(foreground, dim=0), background


def combine(
    inside: np.ndarray, outside: np.ndarray, area: np.ndarray, weights: np.ndarray, plain: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """`prototypes` of supports that are known by their `masked_means` alone: those of a whole bank, if need be.

    Args:
        inside, outside: [K, C]; area, weights: [K] ≥ 0.
        plain: leave the foreground its length, too.

    Returns: foreground [C] of length 1 (≤ 1 if plain), background [C] of length ≤ 1; zeros where no mask has any.
    """
    shown, rest = weights * area, weights * (1 - area)
    foreground = shown @ inside / max(shown.sum(), 1e-12)
    length = 1.0 if plain else max(np.linalg.norm(foreground), 1e-12)
    return foreground / length, rest @ outside / max(rest.sum(), 1e-12)


def diffuse(features: Tensor, scores: Tensor, sharpness: float) -> Tensor:
    """Give every place the mean score of the places that look like it: noise goes, borders between unlike things stay.

    Args:
        features: unit features [C, h, w] of the query itself.
        scores: [h, w].
        sharpness: a place counts by exp(sharpness · (cosine − 1)); the higher, the more alike it must be.

    Returns: [h, w].
    """
    flat = features.flatten(1)  # [C, h, w] → [C, hw]
    affinity = torch.exp(sharpness * (flat.T @ flat - 1))  # [hw, hw]
    return (affinity @ scores.flatten() / affinity.sum(dim=1)).view_as(scores)


def _check_finite(features: Tensor) -> None:
    if not features.isfinite().all():
        raise LlafsError("features hold NaN or infinity: check the backbone's weights.")


def score_map(
    features: Tensor, foreground: Tensor, background: Tensor, size: Sequence[int], sharpness: float | None = None
) -> Tensor:
    """Similarity to the foreground minus similarity to the background, stretched to [0, 1] over the image.

    Args:
        features: of the query, unit vectors [C, h, w]; foreground, background: prototypes [C]; size: (H, W) to give.
        sharpness: `diffuse` the scores over the query's own likeness first; None does not.

    Returns: [H, W]: 0 is the image's least likely pixel, 1 its most likely; all 0 if no pixel differs.

    Raises:
        LlafsError: features that are not finite.
    """
    _check_finite(features)
    scores = torch.einsum("chw,c->hw", features, foreground - background)
    scores = scores if sharpness is None else diffuse(features, scores, sharpness)
    scores = F.interpolate(scores[None, None], tuple(size), mode="bilinear", align_corners=True)[0, 0]
    low, high = scores.aminmax()
    if high - low < FLAT:
        return torch.zeros_like(scores)
    return (scores - low) / (high - low)


def best_threshold(scores: Sequence[np.ndarray], truths: Sequence[np.ndarray], steps: int = 100) -> float:
    """The threshold whose masks `scores >= threshold` have the highest mean IoU; to be chosen on base classes.

    Args:
        scores: of each query [H, W] in [0, 1]; truths: [H, W] bool, not all empty; steps: 1/steps is the resolution.

    Returns: in [0, 1].

    Raises:
        LlafsError: no queries, not as many truths, sizes that differ, or no truth with foreground.
    """
    shapes = [s.shape for s in scores], [t.shape for t in truths]
    if not scores or shapes[0] != shapes[1] or not any(t.any() for t in truths):
        raise LlafsError("a threshold needs score maps with truths of the same sizes, some of them not empty.")
    edges = np.arange(steps + 1) / steps
    total = np.zeros(steps + 1)
    for score, truth in zip(scores, truths, strict=True):
        passed = np.searchsorted(edges.astype(score.dtype), score, "right") - 1  # the highest edge a pixel reaches
        marked, hit = (
            np.bincount(p.ravel(), minlength=steps + 1)[::-1].cumsum()[::-1] for p in (passed, passed[truth])
        )
        total += hit / np.maximum(marked + truth.sum() - hit, 1)
    return float(edges[total.argmax()])


class PrototypeSegmenter:
    """The baseline as a `Segmenter`.

    Args:
        backbone: frozen.
        size: side of the square that images are squashed to, px.
        threshold: on the score in [0, 1]; `best_threshold` chooses it on base classes.
        strides: of the maps that are compared.
        plain: leave the foreground prototype its length, as the background has: the mean of what they share is then
            taken off in full.
        sharpness: of `diffuse`; None leaves the scores as they are.
    """

    def __init__(
        self,
        backbone: Backbone,
        size: int,
        threshold: float,
        strides: Sequence[int] = STRIDES,
        plain: bool = False,
        sharpness: float | None = None,
    ):
        self.backbone, self.size, self.threshold, self.strides = backbone, size, threshold, strides
        self.plain, self.sharpness = plain, sharpness
        self.features = squashed_taps(backbone.optimised(), size)

    @torch.inference_mode()
    def segment(self, query: np.ndarray, supports: Sequence[Support], class_name: str = "") -> Prediction:
        """Segment `query` [H, W, 3] uint8.

        `probability` is the score, which orders one image's pixels and promises no more than that. Empty support
        masks give an empty prediction, with a note.

        Raises:
            LlafsError: no supports, or some that do not fit (`check_supports`).
        """
        check_supports(supports, class_name, "a prototype")
        masks = torch.stack([to_mask(s.mask, self.size) for s in supports])
        if not masks.any():
            nothing, note = np.zeros(query.shape[:2], np.float32), "no support shows the class: nothing is marked"
            return Prediction(class_name, nothing > 0, nothing, tuple(supports), notes=(note,))
        maps = torch.stack([self.describe(s.image) for s in supports])
        foreground, background = prototypes(maps, masks, weights_of(supports), self.plain)
        found = self._marked(query, foreground, background)
        return Prediction(class_name, found >= self.threshold, found, tuple(supports))

    def segment_each(
        self, query: np.ndarray, shown: Sequence[Sequence[Support]], class_name: str = ""
    ) -> list[Prediction]:
        """`segment` with several sets of supports; features of the images seen last are kept anyway."""
        return [self.segment(query, supports, class_name) for supports in shown]

    @torch.inference_mode()
    def mark(self, query: np.ndarray, foreground: np.ndarray, background: np.ndarray, name: str = "") -> Prediction:
        """Segment `query` [H, W, 3] uint8 with prototypes [C] made elsewhere: of a whole support bank, say."""
        found = self._marked(query, *(torch.from_numpy(np.asarray(p, np.float32)) for p in (foreground, background)))
        return Prediction(name, found >= self.threshold, found)

    def describe(self, image: np.ndarray) -> Tensor:
        """The image as the prototypes see it: unit features [C, h, w]."""
        return unit_features(self.features(image), self.backbone.levels, self.strides)

    def _marked(self, query: np.ndarray, foreground: Tensor, background: Tensor) -> np.ndarray:
        features = self.describe(query)
        own = (foreground.to(features), background.to(features))
        return score_map(features, *own, query.shape[:2], self.sharpness).cpu().numpy()
