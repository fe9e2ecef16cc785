"""A mask corrected by clicks: each says of one place whether it is the object, and speaks for what looks like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llafs_lib.vision.backbone import resize

ALIKE = 0.6  # cosine from which on a place follows a click


@dataclass(frozen=True)
class Click:
    """A place, as (row, column) in shares of the image's height and width, in [0, 1]; whether it is the object."""

    row: float
    column: float
    is_object: bool


def corrected(mask: np.ndarray, features: Tensor, clicks: Sequence[Click]) -> np.ndarray:
    """A mask that agrees with the clicks, [H, W] bool.

    Each place of the feature map is compared with the clicked ones. If the cosine to the most similar click reaches
    `ALIKE`, the place becomes what that click says; otherwise it stays as it is. Around a click itself, as far as one
    place reaches, the mask is what was said there last.

    Args:
        mask: [H, W] bool.
        features: of the same image, unit vectors [C, h, w].
        clicks: in the order in which they were made.
    """
    if not clicks:
        return mask.copy()
    (height, width), grid = mask.shape, features.shape[1:]
    said = {(round(c.row * (grid[0] - 1)), round(c.column * (grid[1] - 1))): c.is_object for c in clicks}
    clicked = torch.stack([features[:, row, column] for row, column in said], dim=1)  # [C, n]
    cosine, nearest = torch.einsum("cn,chw->nhw", clicked, features).max(dim=0)  # [h, w] each
    is_object = torch.tensor(list(said.values())).to(nearest.device)[nearest]  # [n] → [h, w]
    follows = resize((cosine - ALIKE)[None, None].float(), mask.shape)[0, 0].cpu().numpy() >= 0  # [h, w] → [H, W]
    becomes = resize(is_object[None, None].float(), mask.shape)[0, 0].cpu().numpy() >= 0.5
    found = np.where(follows, becomes, mask)
    y, x = np.ogrid[:height, :width]
    for c in clicks:
        down, across = (y - c.row * (height - 1)) * grid[0] / height, (x - c.column * (width - 1)) * grid[1] / width
        found[down**2 + across**2 <= 0.25] = c.is_object  # within half a place
        found[round(c.row * (height - 1)), round(c.column * (width - 1))] = c.is_object  # however coarse the image
    return found
