"""The small backbone, which is trained from scratch on the drawn scenes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SmallNet(nn.Module):
    """A residual network of 0.6 M parameters, small enough to be trained from scratch on `toy` in a minute or two.

    Two residual units at each of the strides 4, 8, 16 and 32; the last three pairs are the taps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        units, channels = [], 32
        for width in (32, 48, 64, 96):
            units += [ResidualUnit(channels, width, stride=2), ResidualUnit(width, width, stride=1)]
            channels = width
        self.units = nn.ModuleList(units)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, taps = self.stem(x), []
        for unit in self.units:
            taps.append(unit(x))
            x = F.relu(taps[-1])
        return taps[2:]  # stride 4 is not used


class ResidualUnit(nn.Module):
    """Two 3×3 convolutions and a shortcut; returns the sum before its ReLU."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)
