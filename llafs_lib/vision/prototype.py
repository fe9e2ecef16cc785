"""The training-free baseline: is a pixel more like the supports' foreground, or more like their background?

Every position of a frozen backbone's map is a unit vector. The *foreground prototype* is the direction of the mean over
the supports' foreground. The *background prototype* is the mean over everything else, and it keeps its length: where
the background is of many kinds the mean is short, and rightly takes little off. Only a threshold is learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from llafs_lib.errors import LlafsError
from llafs_lib.records import Prediction, Support
from llafs_lib.vision.backbone import Backbone, resize
from llafs_lib.vision.features import full_precision, masked_means, squashed_taps, unit_features
from llafs_lib.vision.segmenter import check_supports, masks_of, weights_of

FLAT = 1e-6  # similarities that differ by less differ only by rounding
ABSOLUTE = 0.3  # share of the absolute score, where supports show the class itself; see benchmarks/policies.py


def prototypes(
    features: Tensor, masks: Tensor, weights: Tensor | None = None, plain: bool = False
) -> tuple[Tensor, Tensor]:
    """Masked averages over all supports and positions.

    Args:
        features: unit vectors, [K, C, h, w].
        masks: [K, H, W] in {0, 1}.
        weights: [K] ≥ 0, how much each support counts; None: all the same.
        plain: leave the foreground its length, too.

    Returns: foreground [C] of length 1 (≤ 1 if plain), background [C] of length ≤ 1; zeros where no mask has any. Both
        have the features' type and lie on their device.

    Raises:
        LlafsError: K = 0, shapes that do not belong together, or features that are not finite.
    """
    if features.dim() != 4 or not len(features) or len(masks) != len(features) or masks.dim() != 3:
        raise LlafsError(
            f"features {list(features.shape)} and masks {list(masks.shape)} must be [K, C, h, w] and [K, H, W], K ≥ 1."
        )
    _check_finite(features)
    means = [masked_means(f, m) for f, m in zip(features, masks, strict=True)]
    inside, outside, area = (np.stack(part) for part in zip(*means, strict=True))  # [K, C], [K, C], [K]
    counts = np.ones(len(means)) if weights is None else weights.cpu().numpy()
    foreground, background = (torch.from_numpy(p) for p in combine(inside, outside, area, counts, plain))
    return foreground.to(features), background.to(features)


def combine(
    inside: np.ndarray, outside: np.ndarray, area: np.ndarray, weights: np.ndarray, plain: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The prototypes of supports whose `masked_means` are known: of a whole bank, if need be.

    The foreground is Σ wₖ areaₖ insideₖ / Σ wₖ areaₖ, brought to length 1. The background is
    Σ wₖ (1 − areaₖ) outsideₖ / Σ wₖ (1 − areaₖ).

    Args:
        inside, outside: [K, C].
        area: [K] in [0, 1]; weights: [K] ≥ 0.
        plain: leave the foreground its length, too.

    Returns: foreground [C] of length 1 (≤ 1 if plain), background [C] of length ≤ 1; zeros where no mask has any.
    """
    shown, rest = weights * area, weights * (1 - area)
    foreground = shown @ inside / max(shown.sum(), 1e-12)
    length = 1.0 if plain else max(np.linalg.norm(foreground), 1e-12)
    return foreground / length, rest @ outside / max(rest.sum(), 1e-12)


@full_precision
def affinities(features: Tensor, sharpness: float) -> Tensor:
    """How much the positions of a query look like each other; each row adds up to 1.

    Args:
        features: unit features [C, h, w] of the query itself.
        sharpness: a position counts by exp(sharpness · (cosine − 1)); the higher, the more alike it must be.

    Returns: [hw, hw].
    """
    flat = features.flatten(1)  # [C, h, w] → [C, hw]
    alike = torch.exp(sharpness * (flat.T @ flat - 1))  # [hw, hw]
    return alike / alike.sum(dim=1, keepdim=True)


def diffuse(features: Tensor, scores: Tensor, sharpness: float) -> Tensor:
    """Give every position the mean score of the positions that look like it.

    This removes noise, and borders between things that look different stay.

    Args:
        features, sharpness: as for `affinities`.
        scores: [h, w].

    Returns: [h, w].
    """
    return _spread(scores, affinities(features, sharpness))


@full_precision
def _spread(scores: Tensor, alike: Tensor) -> Tensor:
    """Maps [..., h, w], each diffused."""
    return (scores.flatten(-2) @ alike.T).view_as(scores)


def _check_finite(features: Tensor) -> None:
    if not features.isfinite().all():
        raise LlafsError("features hold NaN or infinity: check the backbone's weights.")


@full_precision
def similarity(features: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
    """How much more every position is like the foreground than like the background, in [−2, 2].

    Args:
        features: of the query, unit vectors [C, h, w].
        foreground, background: prototypes [C], or of n classes [n, C].

    Returns: [h, w], or [n, h, w].

    Raises:
        LlafsError: features that are not finite.
    """
    _check_finite(features)
    return torch.einsum("chw,...c->...hw", features, foreground - background)


@full_precision
def score_map(
    features: Tensor, foreground: Tensor, background: Tensor, size: Sequence[int], sharpness: float | None = None
) -> Tensor:
    """Similarity to the foreground minus similarity to the background, stretched to [0, 1] over the image.

    Args:
        features: of the query, unit vectors [C, h, w].
        foreground, background: prototypes [C].
        size: (H, W) of the map to return.
        sharpness: how to `diffuse` the scores first; None leaves them as they are.

    Returns: [H, W]: 0 is the image's least likely pixel, 1 its most likely; all 0 if no pixel differs.

    Raises:
        LlafsError: features that are not finite.
    """
    scores = similarity(features, foreground, background)
    return stretched(scores, size, None if sharpness is None else affinities(features, sharpness))


@full_precision
def stretched(
    scores: Tensor, size: Sequence[int], alike: Tensor | None = None, own: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """A similarity map [h, w] as a score map [H, W] in [0, 1] of `size`, diffused first if `alike` is given.

    `own` are the prototypes, foreground [C] and background [C], if their supports show the class itself. Such supports
    also say how similar the class is: `ABSOLUTE` of the score is then how far a pixel is from the mean similarity of
    their background, 0, to that of their foreground, 1. Look-alikes cannot say that.
    """
    scores = scores if alike is None else _spread(scores, alike)
    scores = resize(scores[None, None], size)[0, 0]  # [h, w] → [H, W]
    low, high = scores.aminmax()
    relative = torch.zeros_like(scores) if high - low < FLAT else (scores - low) / (high - low)
    if own is None:
        return relative
    low, high = (prototype @ (own[0] - own[1]) for prototype in reversed(own))
    absolute = ((scores - low) / (high - low).clamp(min=FLAT)).clamp(0, 1)
    return torch.lerp(relative, absolute, ABSOLUTE)


class PrototypeSegmenter:
    """The baseline as a `Segmenter`.

    Args:
        backbone: a frozen one.
        size: side of the square that images are squashed to, in pixels.
        threshold: a pixel whose score in [0, 1] reaches it is marked. Choose it on base classes, with
            `evaluation.metrics.best_threshold`.
        plain: leave the foreground prototype its length, as the background keeps its own. What both have in common is
            then taken off in full.
        sharpness: how scores are diffused (`affinities`); None leaves them as they are.
        cache_mb: how much memory the features of images may take (`FeatureCache`).
    """

    def __init__(
        self,
        backbone: Backbone,
        size: int,
        threshold: float,
        plain: bool = False,
        sharpness: float | None = None,
        cache_mb: int = 1024,
    ):
        self.backbone, self.size, self.threshold = backbone, size, threshold
        self.plain, self.sharpness = plain, sharpness
        self.features = squashed_taps(backbone.optimised(), size, cache_mb)

    @torch.inference_mode()
    def segment(self, query: np.ndarray, supports: Sequence[Support], class_name: str = "") -> Prediction:
        """Segment `query` [H, W, 3] uint8.

        `probability` is the score. It orders the pixels of one image and is no more than that. Empty support masks give
        an empty prediction, with a note.

        Raises:
            LlafsError: no supports, or some that do not fit (`check_supports`).
        """
        check_supports(supports, class_name, "a prototype")
        masks = masks_of(supports, self.size)
        if not masks.any():
            nothing, note = np.zeros(query.shape[:2], np.float32), "no support shows the class: nothing is marked"
            return Prediction(class_name, nothing > 0, nothing, tuple(supports), notes=(note,))
        taps = self.features.many([s.image for s in supports])
        maps = torch.stack([unit_features(t, self.backbone.levels) for t in taps])  # [K, C, h, w]
        foreground, background = prototypes(maps, masks, weights_of(supports), self.plain)
        (found,) = self.scores(query, [(foreground.cpu().numpy(), background.cpu().numpy())])
        return Prediction(class_name, found >= self.threshold, found, tuple(supports))

    def segment_each(
        self, query: np.ndarray, shown: Sequence[Sequence[Support]], class_name: str = ""
    ) -> list[Prediction]:
        """`segment` with several sets of supports. They share the features, which the cache keeps."""
        return [self.segment(query, supports, class_name) for supports in shown]

    def mark(self, query: np.ndarray, foreground: np.ndarray, background: np.ndarray, name: str = "") -> Prediction:
        """Segment `query` [H, W, 3] uint8 with prototypes [C] made elsewhere, such as those of a whole bank."""
        (found,) = self.scores(query, [(foreground, background)])
        return Prediction(name, found >= self.threshold, found)

    @torch.inference_mode()
    def scores(
        self, query: np.ndarray, prototypes: Iterable[tuple[np.ndarray, np.ndarray]], own: Sequence[bool] = ()
    ) -> list[np.ndarray]:
        """The score maps [H, W] in [0, 1] of `query` [H, W, 3] uint8 for several pairs of prototypes [C].

        What they have in common is computed once. `own` says of each whether its supports show the class itself, as
        `stretched` wants to know it; without it none is taken to.
        """
        features, pairs = self.describe(query), [np.asarray(pair, np.float32) for pair in prototypes]
        if not pairs:
            return []
        inside, outside = torch.from_numpy(np.stack(pairs, axis=1)).to(features)  # of features [C, h, w], [n, C] each
        maps, alike = similarity(features, inside, outside), self.alike(features)  # [n, h, w]
        maps = maps if alike is None else _spread(maps, alike)
        found = zip(maps, inside, outside, own or [False] * len(maps), strict=True)
        return [stretched(m, query.shape[:2], own=p if its else None).cpu().numpy() for m, *p, its in found]

    def alike(self, features: Tensor) -> Tensor | None:
        """What `stretched` needs beside the scores of an image with these features [C, h, w]."""
        return None if self.sharpness is None else affinities(features, self.sharpness)

    def forget(self, image: np.ndarray) -> None:
        """Keep the features of an image no longer, which will not be asked for again."""
        self.features.forget(image)

    def describe(self, image: np.ndarray) -> Tensor:
        """The unit features [C, h, w] of an image, which prototypes are compared with."""
        return unit_features(self.features(image), self.backbone.levels)
