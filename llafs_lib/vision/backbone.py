"""Frozen feature extractors, and the taps that few-shot segmentation reads from them.

A tap is the output of one residual unit *before* its last non-linearity (HSNet, spec §1.1). Taps come in three groups,
at strides 8, 16 and 32. In a frozen backbone, batch normalisation runs in evaluation mode and no parameter has a
gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from llafs_lib.errors import LlafsError
from llafs_lib.vision.checkpoints import fill, read_state

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_MEAN, _STD = (255 * torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))  # [3, 1, 1], of bytes


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
    return last(y, shortcut) if isinstance(last, _PackedConv2d) else norm(last(y)).add_(shortcut)


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
class _Recipe:
    build: Callable[[], nn.Module]
    taps: Callable[[nn.Module, Tensor], list[Tensor]]
    levels: tuple[int, int, int]  # taps at stride 8, 16, 32
    weights: str | None = None  # torchvision's enum for its ImageNet weights


_RECIPES: dict[str, _Recipe] = {
    "small": _Recipe(SmallNet, SmallNet.__call__, (2, 2, 2)),
    "mobilenet_v2": _Recipe(
        torchvision.models.mobilenet_v2, _mobilenet_taps, (3, 7, 4), "MobileNet_V2_Weights.IMAGENET1K_V2"
    ),
    "resnet18": _Recipe(torchvision.models.resnet18, _resnet_taps, (2, 2, 2), "ResNet18_Weights.IMAGENET1K_V1"),
    "resnet50": _Recipe(torchvision.models.resnet50, _resnet_taps, (4, 6, 3), "ResNet50_Weights.IMAGENET1K_V1"),
    "resnet101": _Recipe(torchvision.models.resnet101, _resnet_taps, (4, 23, 3), "ResNet101_Weights.IMAGENET1K_V1"),
    "vgg16": _Recipe(torchvision.models.vgg16, _vgg_taps, (3, 3, 1), "VGG16_Weights.IMAGENET1K_V1"),
}
BACKBONES: tuple[str, ...] = tuple(_RECIPES)

_TOY_WEIGHTS = Path(__file__).with_name("toy_fold0.safetensors")


class Backbone(nn.Module):
    """A feature extractor: image → taps.

    Args:
        name: one of `BACKBONES`. Its parameters are random until `load_backbone` or training fills them.

    Attributes:
        levels: how many taps there are at strides 8, 16 and 32.
        folded: an `optimised` copy.

    Raises:
        LlafsError: unknown name.
    """

    def __init__(self, name: str):
        super().__init__()
        if name not in _RECIPES:
            raise LlafsError(f"unknown backbone {name!r}: choose one of {', '.join(BACKBONES)}.")
        self.name, self.levels = name, _RECIPES[name].levels
        self.net = _RECIPES[name].build()
        self.folded = False

    def forward(self, x: Tensor) -> list[Tensor]:
        """x [B, 3, H, W] standardised → taps, shallow to deep, each [B, C, h, w]."""
        return _RECIPES[self.name].taps(self.net, x)

    def freeze(self) -> Backbone:
        """Turn gradients off and leave batch normalisation in evaluation mode for good; returns the backbone itself."""
        return self.requires_grad_(False).eval()

    def optimised(self) -> Backbone:
        """A frozen copy for inference: batch normalisation folded into the convolutions, weights channels last.

        Its taps are equal up to rounding. Its parameters have other names, so save and train the original. Once the
        copy has seen an image on a CPU, its weights cannot move to a GPU any more: make it on the device it is for.
        """
        fast = copy.deepcopy(self).freeze()
        for module in list(fast.modules()):
            _fold_batch_norms(module)
        fast.folded = True
        if hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
            for conv in (m for m in fast.modules() if type(m) is nn.Conv2d):
                conv.__class__ = _PackedConv2d
        return fast.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Backbone:
        frozen = not any(p.requires_grad for p in self.parameters())
        return super().train(mode and not frozen)


class _PackedConv2d(nn.Conv2d):
    """A frozen convolution whose weights are stored in the layout that oneDNN wants for the input shape seen last.

    `F.conv2d` brings them into that layout anew in every pass. `torch.compile` calls the same functions of oneDNN.
    """

    seen: torch.Size | None = None

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """The output of a Conv2d. With `onto`, the sum of both, which may be written over `onto`."""
        if x.device.type != "cpu" or x.dtype != torch.float32 or x.requires_grad:
            y = self._conv_forward(x, self._unpacked(), self.bias)
            return y if onto is None else y.add_(onto)
        how = self.padding, self.stride, self.dilation, self.groups
        if x.shape != self.seen:
            packed = torch.ops.mkldnn._reorder_convolution_weight(self._unpacked(), *how, list(x.shape))
            self.weight, self.seen = nn.Parameter(packed, requires_grad=False), x.shape
        if onto is None:
            return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *how, "none", [], "")
        add = torch.ops.mkldnn._convolution_pointwise_.binary
        return add(onto, x, self.weight, self.bias, *how, "add", 1.0, None, [], "")

    def _unpacked(self) -> Tensor:
        return self.weight.to_dense() if self.weight.is_mkldnn else self.weight

    def __getstate__(self) -> dict:
        # Packed weights can neither be copied nor pickled.
        weight = nn.Parameter(self._unpacked(), requires_grad=False)
        return self.__dict__ | {"_parameters": self._parameters | {"weight": weight}, "seen": None}


def _fold_batch_norms(module: nn.Module) -> None:
    """Merge each batch normalisation into the convolution before it. Every recipe registers the two in a row."""
    children = list(module.named_children())
    for (name, conv), (norm_name, norm) in zip(children, children[1:], strict=False):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, nn.Identity())


def load_backbone(name: str, weights_folder: str | Path = "data/weights") -> Backbone:
    """A frozen ImageNet backbone, from a file `<name>-*.pth` in `weights_folder`, else from torchvision's download.

    Raises:
        LlafsError: an unknown name, a file that does not fit, or neither a file nor a network.
    """
    backbone, pattern = Backbone(name), f"{name}-*.pth"  # torchvision's own names match
    files = sorted(Path(weights_folder).glob(pattern))
    if files:
        fill(backbone.net, read_state(files[0]), str(files[0]), f"{name} weights")
        return backbone.freeze()
    enum = _RECIPES[name].weights
    if enum is None:
        raise LlafsError(f"backbone {name!r} has no pretrained weights: notebook 02 trains it from scratch.")
    try:
        state = torchvision.models.get_weight(enum).get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise LlafsError(
            f"no file {pattern} in {weights_folder}, and torchvision could not download its own ({error}). "
            "Put the weights there and set LLAFS_DATA to the folder that holds weights/."
        ) from error
    backbone.net.load_state_dict(state)
    return backbone.freeze()


def toy_backbone() -> Backbone:
    """The frozen small backbone that comes with the library. Notebook 02 trained it on `toy`, base classes of fold 0.

    It is for a first look (notebook 00) only, because it has seen the novel classes of the other folds.
    """
    backbone = Backbone("small")
    backbone.load_state_dict({k: v.float() for k, v in load_file(_TOY_WEIGHTS).items()})  # stored as float16
    return backbone.freeze()


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Maps [B, C, h, w] at another size [B, C, *size], bilinear, with the corners aligned."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


STRIDES = (8, 16, 32)


def last_taps(taps: Sequence[Tensor], levels: tuple[int, int, int], strides: Sequence[int]) -> list[Tensor]:
    """The deepest tap of each of `strides` (of 8, 16 and 32), finest first; `levels` as a backbone has them."""
    return [taps[sum(levels[: STRIDES.index(stride) + 1]) - 1] for stride in sorted(strides)]


@torch.inference_mode()
def encode(backbone: Backbone, inputs: Tensor) -> list[Tensor]:
    """The taps of one standardised image: inputs [3, H, W] → a list of [C, h, w] on the backbone's device."""
    device = next(backbone.parameters()).device
    return [tap[0] for tap in backbone(inputs[None].to(device))]


def check_image(image: np.ndarray) -> None:
    """An image to segment, or to show as a support, must be [H, W, 3] uint8.

    Raises:
        LlafsError: it is not.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise LlafsError(f"an image must be [H, W, 3] uint8 RGB, not {list(image.shape)} {image.dtype}.")


def to_input(image: np.ndarray, size: int) -> Tensor:
    """Squash an image to a square and standardise it with ImageNet's mean and deviation (spec §1.9).

    Args:
        image: [H, W, 3] uint8 RGB.
        size: side of the square in pixels; the aspect ratio is not kept, as in HSNet.

    Returns: [3, size, size] float32.
    """
    return (squash(image, size) - _MEAN).div_(_STD)


def squash(image: np.ndarray, size: int) -> Tensor:
    """Resize an image [H, W, 3] uint8 to [3, size, size] uint8, bilinear with antialiasing.

    PIL's result, which HSNet uses, to within one grey level (each rounds in its own way), four times faster.
    """
    x = torch.from_numpy(np.require(image, requirements=("C", "W")))
    x = x.permute(2, 0, 1)[None]  # [H, W, 3] → [1, 3, H, W]
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True)[0]


def to_mask(mask: np.ndarray, size: int) -> Tensor:
    """Squash a mask or label map [H, W] to [size, size] int64 by nearest neighbour (spec §1.9)."""
    square = cv2.resize(mask.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
    return torch.from_numpy(square).long()
