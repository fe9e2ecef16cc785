"""Training losses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

IGNORE = 255  # label of pixels that no loss looks at


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not `IGNORE`; HSNet's only loss (spec §1.9).

    Args:
        logits: [B, C, h, w], resized to the labels' size first (bilinear, corners aligned).
        labels: [B, H, W] int64 in 0…C-1, or `IGNORE`.
    """
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=True)
    return F.cross_entropy(logits, labels, ignore_index=IGNORE)
