"""The networks that are not timm's: the small one, and torchvision's, whose names are those of official checkpoints.

Where their taps are (spec §1.1), how many at each stride, and which weights of torchvision fill them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from llafs_lib.vision.packed import PackedConv2d
from llafs_lib.vision.small_net import SmallNet


def _resnet_taps(net: nn.Module, x: Tensor) -> list[Tensor]:
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    for block in net.layer1:
        x = F.relu_(_residual_sum(block, x))
    taps = []
    for block in (*net.layer2, *net.layer3, *net.layer4):
        taps.append(_residual_sum(block, x))
        x = F.relu(taps[-1])
    return taps


def _residual_sum(block: nn.Module, x: Tensor) -> Tensor:
    """A torchvision residual block without its last ReLU; may write over x."""
    y, last, norm = F.relu_(block.bn1(block.conv1(x))), block.conv2, block.bn2
    if hasattr(block, "conv3"):  # bottleneck
        y, last, norm = F.relu_(block.bn2(block.conv2(y))), block.conv3, block.bn3
    shortcut = x if block.downsample is None else block.downsample(x)
    return last(y, shortcut) if isinstance(last, PackedConv2d) else norm(last(y)).add_(shortcut)


def _mobilenet_taps(net: nn.Module, x: Tensor) -> list[Tensor]:
    # Inverted residuals end in a linear projection, so their outputs are taps as they are.
    taps = []
    for index, layer in enumerate(net.features[:18]):
        x = layer(x)
        if index >= 4:
            taps.append(x)
    return taps


def _vgg_taps(net: nn.Module, x: Tensor) -> list[Tensor]:
    taps = []
    for index, layer in enumerate(net.features):
        # Torchvision's ReLUs work in place and would overwrite a tap.
        x = F.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
        if index in (17, 19, 21, 24, 26, 28, 30):
            taps.append(x)
    return taps


@dataclass(frozen=True)
class Recipe:
    taps: Callable[[nn.Module, Tensor], list[Tensor]]
    levels: tuple[int, int, int]  # taps at stride 8, 16, 32
    weights: str | None = None  # torchvision's enum for its ImageNet weights


RECIPES: dict[str, Recipe] = {
    "small": Recipe(SmallNet.__call__, (2, 2, 2)),
    "mobilenet_v2": Recipe(_mobilenet_taps, (3, 7, 4), "MobileNet_V2_Weights.IMAGENET1K_V2"),
    "resnet18": Recipe(_resnet_taps, (2, 2, 2), "ResNet18_Weights.IMAGENET1K_V1"),
    "resnet50": Recipe(_resnet_taps, (4, 6, 3), "ResNet50_Weights.IMAGENET1K_V1"),
    "resnet101": Recipe(_resnet_taps, (4, 23, 3), "ResNet101_Weights.IMAGENET1K_V1"),
    "vgg16": Recipe(_vgg_taps, (3, 3, 1), "VGG16_Weights.IMAGENET1K_V1"),
}


def build(name: str) -> nn.Module:
    if name == "small":
        return SmallNet()
    import torchvision  # here, because it takes seconds, and the small network needs none of it

    return getattr(torchvision.models, name)()
