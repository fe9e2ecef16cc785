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
    return F.cross_entropy(_at_size_of(labels, logits), labels, ignore_index=IGNORE)


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy with smoothed labels, the loss of RePRI's base training (spec §2.2).

    The true class is to get 1 − `smoothing`, every other class `smoothing` / (C − 1).

    Args:
        logits: [B, C, h, w], C ≥ 2, resized to the labels' size first (bilinear, corners aligned).
        labels: [B, H, W] int64 in 0…C-1, or `IGNORE`.

    Returns: the mean over the pixels that are not `IGNORE`; 0 if there are none.
    """
    classes = logits.shape[1]
    spread = smoothing * classes / (classes - 1)  # PyTorch also gives the true class a share of what it spreads
    logits = _at_size_of(labels, logits)
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, label_smoothing=spread, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 − the mean over the batch of the soft Dice coefficient of the foreground, in [0, 1].

    Dice looks at the overlap alone, so a model cannot please it by calling everything background, which on small
    objects is what cross-entropy rewards first. It is the source document's addition; HSNet was published without.

    Args:
        logits: [B, 2, h, w], channel 1 foreground; labels: [B, H, W] in {0, 1, IGNORE}.
    """
    probability = _at_size_of(labels, logits).softmax(dim=1)[:, 1]  # [B, 2, H, W] → [B, H, W]
    seen = labels != IGNORE
    truth, probability = (labels == 1).float(), probability * seen
    overlap, total = (probability * truth).sum((1, 2)), probability.sum((1, 2)) + truth.sum((1, 2))
    return (1 - (2 * overlap + 1) / (total + 1)).mean()  # + 1: an empty mask found empty is a full match


def _at_size_of(labels: Tensor, logits: Tensor) -> Tensor:
    if logits.shape[-2:] == labels.shape[-2:]:
        return logits
    return F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=True)
