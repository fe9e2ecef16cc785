"""INSID3 (Cuttano et al., CVPR 2026; spec §9): segmentation by clusters of frozen features, without training.

The cluster of the target's features that is most like the supports' foreground is the seed; like ones join it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llafs_lib.errors import LlafsError


def position_basis(zero_features: Tensor, rank: int) -> Tensor:
    """The directions in which features differ by their place in the image alone: [C, rank], orthonormal.

    Args:
        zero_features: of a black image, [C, h, w]. They have at most h·w directions, even if rank is more.

    Raises:
        LlafsError: rank < 0, or rank ≥ C, which would leave nothing of the features.
    """
    if not 0 <= rank < len(zero_features):
        raise LlafsError(f"a position basis of rank {rank}: choose from 0 to {len(zero_features) - 1}, below C.")
    tokens = F.normalize(zero_features.flatten(1), dim=0)  # [C, h, w] → [C, hw]
    return torch.linalg.svd(tokens - tokens.mean(dim=1, keepdim=True), full_matrices=False)[0][:, :rank]


def debias(features: Tensor, basis: Tensor) -> Tensor:
    """Features [..., C, h, w] without their part in the basis [C, rank], as unit vectors of the same shape."""
    tokens = F.normalize(features.flatten(-2), dim=-2)  # [..., C, h, w] → [..., C, hw]
    return F.normalize(tokens - basis @ (basis.mT @ tokens), dim=-2).view_as(features)


def masks_on_grid(masks: Tensor, grid: Sequence[int]) -> Tensor:
    """Masks [S, H, W] on the grid of the features: [S, h, w] bool. However small an object is, one place stays."""
    whole, small = masks[:, None].float(), torch.zeros(len(masks), *grid, dtype=torch.bool, device=masks.device)
    for how in ({"mode": "bilinear", "align_corners": False}, {"mode": "nearest"}):
        empty = ~small.flatten(1).any(dim=1)
        small[empty] = F.interpolate(whole[empty], tuple(grid), **how)[:, 0] > 0.5
    for mask, own in zip(masks, small, strict=True):
        if mask.any() and not own.any():
            centre = mask.nonzero().double().mean(dim=0).cpu().tolist()
            own[tuple(int(c * n / side) for c, n, side in zip(centre, grid, mask.shape, strict=True))] = True
    return small


def prototype_of(supports: Tensor, inside: Tensor, weights: Tensor) -> Tensor:
    """The supports' foreground, a direction [C]: debiased features [S, C, h, w], inside [S, h, w], weights [S]."""
    means = torch.einsum("schw,shw->sc", supports, inside.to(supports)) / inside.flatten(1).sum(dim=1, keepdim=True)
    return F.normalize((weights[:, None] * means).sum(dim=0), dim=0)


def candidates_of(target: Tensor, supports: Tensor, inside: Tensor, weights: Tensor) -> Tensor:
    """Places of the target, debiased [C, h, w], that are like the prototype and whose nearest places in at least half
    of the supports, by weight, are foreground: [h, w] bool."""
    similarity = torch.einsum("chw,c->hw", target, prototype_of(supports, inside, weights))
    alike = similarity > (0 if (similarity > 0).any() else similarity.quantile(0.9))
    nearest = torch.stack([(target.flatten(1).T @ s.flatten(1)).argmax(dim=1) for s in supports])  # [S, hw]
    votes = (weights[:, None] * inside.flatten(1).gather(1, nearest)).sum(dim=0)  # [hw]
    return alike & (votes >= weights.sum() * (0.5 - 1e-6)).view_as(alike)


def clusters_of(target: Tensor, tau: float) -> Tensor:
    """Clusters of a map [C, h, w] by average linkage, up to a mean cosine of `tau`: labels [h, w] from 0 on."""
    from scipy.cluster.hierarchy import fcluster, linkage  # here, because it takes a second

    tokens = F.normalize(target.flatten(1), dim=0).T.double()  # [C, h, w] → [hw, C]
    distances = (1 - tokens @ tokens.T).cpu().numpy()[np.triu_indices(len(tokens), 1)]
    labels = fcluster(linkage(distances, "average"), 1 - tau, "distance") - 1 if len(distances) else np.zeros(1)
    return torch.from_numpy(labels).view(target.shape[-2:]).to(target.device, torch.long)


def segment_features(
    target: Tensor,
    supports: Tensor,
    masks: Tensor,
    basis: Tensor,
    tau: float = 0.6,
    merge: float = 0.2,
    weights: Tensor | None = None,
    clusters: Tensor | None = None,
) -> Tensor:
    """Which places of the target are foreground: [h, w] bool. Without foreground in any mask, or a candidate, none is.

    Args:
        target, supports, masks: features [C, h, w] and [S, C, h, w] of any length; [S, H, W], 0 or 1.
        basis: of `position_basis`, [C, rank].
        tau: the mean cosine similarity within a cluster; merge: the score above which a cluster joins.
        weights: [S] ≥ 0, how much supports count in prototype and votes; None: all the same, as published.
        clusters: `clusters_of(target, tau)`, where they are known.

    Raises:
        LlafsError: S = 0, shapes that do not belong together, or features that are not finite.
    """
    if not len(supports) or masks.dim() != 3 or len(masks) != len(supports) or supports.shape[1] != len(target):
        shapes = ", ".join(str(list(t.shape)) for t in (target, supports, masks))
        raise LlafsError(f"{shapes}: INSID3 needs [C, h, w], [S, C, h, w] and masks [S, H, W], with S ≥ 1.")
    if not (target.isfinite().all() and supports.isfinite().all()):
        raise LlafsError("features hold NaN or infinity: check the backbone's weights.")
    inside = masks_on_grid(masks.to(target.device), supports.shape[-2:])
    weights = torch.ones(len(masks)).to(target) if weights is None else weights.to(target)
    kept = inside.flatten(1).any(dim=1) & (weights > 0)  # the other supports say nothing
    own, shown, inside, weights = debias(target, basis), debias(supports[kept], basis), inside[kept], weights[kept]
    candidates = candidates_of(own, shown, inside, weights) if len(shown) else torch.zeros_like(target[0]) > 0
    if not candidates.any():
        return candidates
    clusters = clusters_of(target, tau) if clusters is None else clusters
    member = F.one_hot(clusters.flatten()).to(target)  # [hw, n]
    member = member / member.sum(dim=0)
    share = (candidates.flatten()[:, None] * member).sum(dim=0)  # [n], candidates among a cluster's places
    means = own.flatten(1) @ member  # [C, n], debiased
    similarity = (prototype_of(shown, inside, weights)[:, None] * means).sum(dim=0)  # [n], mean over the places
    seed = int(torch.where(share > 0, similarity / means.norm(dim=0).clamp(min=1e-12), -torch.inf).argmax())
    share[seed] = 1
    raw = F.normalize(F.normalize(target.flatten(1), dim=0) @ member, dim=0)  # [C, n], not debiased
    return (similarity * (raw[:, seed : seed + 1] * raw).sum(dim=0) * share > merge)[clusters]
