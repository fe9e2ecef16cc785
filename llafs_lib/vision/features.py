"""Unit features: one map per image, in which any two places can be compared by a dot product.

They are what prototypes average, what a support bank stores, and what a query is compared by.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llafs_lib.vision.backbone import last_taps

STRIDES = (16, 32)


def unit_features(taps: Sequence[Tensor], levels: tuple[int, int, int], strides: Sequence[int] = STRIDES) -> Tensor:
    """The last taps of some strides as one map of unit vectors: dot products of it average the strides' cosines.

    Args:
        taps: of one image, shallow to deep, each [C, h, w]; levels: the backbone's; strides: of 8, 16 and 32.

    Returns: [ΣC, h, w] on the finest grid.
    """
    last = last_taps(taps, levels, strides)
    grid = last[0].shape[-2:]
    maps = [F.interpolate(tap[None], grid, mode="bilinear", align_corners=True)[0] for tap in last]
    return torch.cat([F.normalize(m, dim=0) for m in maps]) / len(maps) ** 0.5


def masked_means(features: Tensor, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The mean unit feature inside and outside a mask, and the share of the map that it covers.

    One support's part of `prototypes`: foreground = Σ wₖ areaₖ insideₖ up to its length, background = Σ wₖ (1 − areaₖ)
    outsideₖ / Σ wₖ (1 − areaₖ).

    Args:
        features: [C, h, w]; mask: [H, W] bool.

    Returns: inside [C], outside [C], area in [0, 1]; zeros where there is nothing inside or outside.
    """
    share = F.adaptive_avg_pool2d(torch.as_tensor(mask, dtype=torch.float32)[None], features.shape[-2:])[0].to(features)
    inside = torch.einsum("chw,hw->c", features, share) / share.sum().clamp(min=1e-12)
    outside = torch.einsum("chw,hw->c", features, 1 - share) / (1 - share).sum().clamp(min=1e-12)
    return inside.cpu().numpy(), outside.cpu().numpy(), float(share.mean())


def query_embedding(features: Tensor) -> np.ndarray:
    """The direction of an image's mean feature: [C, h, w] → unit vector [C]."""
    return F.normalize(features.mean(dim=(1, 2)), dim=0).cpu().numpy()
