"""Training losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llafs_lib.vision.backbone import resize
from llafs_lib.vision.hsnet_fast import Pairs
from llafs_lib.vision.recipes import Recipe

IGNORE = 255  # label of pixels that no loss looks at


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy: HSNet's only loss (spec §1.9). With smoothed labels, RePRI's base network has it too (spec §2.2).

    Args:
        logits: [B, C, h, w], C ≥ 2, resized to the labels' size first (bilinear, corners aligned).
        labels: [B, H, W] int64 in 0…C-1, or `IGNORE`.
        smoothing: the target is 1 − `smoothing` for the true class and `smoothing` / (C − 1) for every other class.

    Returns: the mean over the pixels that are not `IGNORE`; 0, not NaN, if there are none.
    """
    classes = logits.shape[1]
    spread = smoothing * classes / (classes - 1)  # PyTorch spreads over all classes, the true one among them
    logits = resize(logits, labels.shape[-2:])
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, label_smoothing=spread, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 − the mean over the batch of the soft Dice coefficient of the foreground, in [0, 1].

    On small objects, cross-entropy first rewards a model that calls everything background. Dice does not, because it
    looks only at the overlap. The source document adds it; HSNet was published without.

    Args:
        logits: [B, 2, h, w], channel 1 foreground; labels: [B, H, W] in {0, 1, IGNORE}.
    """
    probability = resize(logits, labels.shape[-2:]).softmax(dim=1)[:, 1]  # [B, 2, H, W] → [B, H, W]
    seen = labels != IGNORE
    truth, probability = (labels == 1).float(), probability * seen
    overlap, total = (probability * truth).sum((1, 2)), probability.sum((1, 2)) + truth.sum((1, 2))
    return (1 - (2 * overlap + 1) / (total + 1)).mean()  # + 1: an empty answer to an empty mask is a full match


def contrastive(embeddings: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """InfoNCE of pixels against their image's two prototypes, the mean embedding of its foreground and of the rest.

    It teaches that each pixel is nearer, by cosine, to the prototype of its own kind than to the other. The source
    document names a contrastive loss "for feature alignment" and says no more; this form is ours.

    Args:
        embeddings: [B, C, h, w].
        labels: [B, H, W] in {0, 1, IGNORE}, read at the embeddings' positions.
        temperature: of the softmax over the two cosines.

    Returns: the mean over pixels that are not `IGNORE`, in images that have both kinds; 0 if there are none.
    """
    small = F.interpolate(labels[:, None].float(), embeddings.shape[-2:], mode="nearest").long()
    z, y = F.normalize(embeddings.flatten(2), dim=1), small.flatten(1)  # [B, C, h·w], [B, h·w]
    kinds = torch.stack([y == 0, y == 1], dim=1).to(z)  # [B, 2, h·w]
    prototypes = F.normalize(torch.einsum("bcp,bkp->bkc", z, kinds), dim=2)
    cosines = torch.einsum("bkc,bcp->bkp", prototypes, z) / temperature
    both = (kinds.sum(dim=2) > 0).all(dim=1)  # [B]
    y = torch.where(both[:, None], y, IGNORE)
    total = F.cross_entropy(cosines, y, ignore_index=IGNORE, reduction="sum")
    return total / (y != IGNORE).sum().clamp(min=1)


Batch = Sequence[Tensor]


def hsnet_loss(levels: tuple[int, int, int], recipe: Recipe) -> Callable[[nn.Module, Batch], Tensor]:
    """The loss of an `HSNetLearner` on (query taps, support taps, support mask, query mask).

    It is cross-entropy, plus Dice and contrastive terms with the recipe's weights.
    """

    def loss(learner: nn.Module, batch: Batch) -> Tensor:
        query, support, support_mask, query_mask = batch
        logits, embeddings = learner(Pairs(query, support, support_mask, levels), with_embeddings=True)
        total = cross_entropy(logits, query_mask)
        if recipe.dice:
            total = total + recipe.dice * dice(logits, query_mask)
        if recipe.contrastive:
            total = total + recipe.contrastive * contrastive(embeddings, query_mask)
        return total

    return loss
