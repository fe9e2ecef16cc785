"""The base network of RePRI: PSPNet (Zhao et al., CVPR 2017; spec §2.1), trained on the base classes (spec §2.2).

A backbone, pyramid pooling, a 3×3 bottleneck, a classifier. The classifier serves the training only: a few-shot task
reads the bottleneck's output. The form of the images is here too: the aspect ratio is kept, the rest is padding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llafs_lib.vision.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, BackboneError, last_taps, resize
from llafs_lib.vision.checkpoints import fill, read_model, save_model
from llafs_lib.vision.losses import IGNORE

KIND = "RePRI"  # as checkpoints name it
BINS = (1, 2, 3, 6)
# Beside `backbone` and `n_classes`, the network as published (spec §2.1), but for its stem: RePRI starts from weights
# with three 3×3 convolutions there (semseg's `initmodel`), this library from torchvision's, with one of 7×7.
PUBLISHED = {"strides": (32,), "width": 512, "dilated": True}


SMALL = {"strides": (16, 32), "width": 128}
# Of a backbone trained from scratch all that is to be read has to be trained.
SCRATCH = {"strides": (8, 16, 32), "width": 64}


class PyramidHead(nn.Module):
    """Pyramid pooling, bottleneck and classifier: what is trained on top of a frozen trunk.

    Args:
        channels: of the trunk; width: of the bottleneck; n_classes: background and base classes.
    """

    def __init__(self, channels: int, width: int, n_classes: int):
        super().__init__()
        branch = channels // len(BINS)
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), *_convolution(channels, branch, 1)) for bins in BINS
        )
        self.bottleneck = nn.Sequential(*_convolution(channels + len(BINS) * branch, width, 3), nn.Dropout2d(0.1))
        self.classifier = nn.Conv2d(width, n_classes, 1)

    def features(self, x: Tensor) -> Tensor:
        """x [B, channels, h, w] → [B, width, h, w]."""
        pooled = [resize(pool(x), x.shape[-2:]) for pool in self.pools]
        return self.bottleneck(torch.cat([x, *pooled], dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, channels, h, w] → logits [B, n_classes, h, w]."""
        return self.classifier(self.features(x))


def _convolution(c_in: int, c_out: int, kernel: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()


class PSPNet(nn.Module):
    """A segmentation network for the base classes whose features RePRI reads.

    Published: `PSPNet(load_backbone("resnet50").requires_grad_(True), 61, **PUBLISHED)`, everything trained. For small
    budgets any frozen backbone serves as it is, and only `head` is trained, on `trunk` features computed once.

    Args:
        backbone: frozen or not; copied if it is to be dilated.
        n_classes: background and the base classes.
        strides: whose last taps are read, of 8, 16 and 32; joined on the finest of their grids.
        width: channels of the feature.
        dilated: a ResNet's strides 16 and 32 become 8, and its 3×3 convolutions are dilated in return.

    Raises:
        BackboneError: a stride without taps, or a backbone that cannot be dilated.
    """

    def __init__(
        self,
        backbone: Backbone,
        n_classes: int,
        strides: Sequence[int] = (32,),
        width: int = 256,
        dilated: bool = False,
    ):
        super().__init__()
        if not strides or not set(strides) <= {8, 16, 32}:
            raise BackboneError(f"strides={tuple(strides)}: choose among 8, 16 and 32.")
        self.backbone = _dilate(backbone) if dilated else backbone
        self.config = {"n_classes": n_classes, "strides": sorted(strides), "width": width, "dilated": dilated}
        self.head = PyramidHead(self._channels(), width, n_classes)

    def trunk(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] standardised → the backbone's joined taps [B, channels, h, w]."""
        last = last_taps(self.backbone(x), self.backbone.levels, self.config["strides"])
        if self.backbone.name != "mobilenet_v2":  # whose units end without a non-linearity
            last = [F.relu(tap) for tap in last]
        return torch.cat([resize(tap, last[0].shape[-2:]) for tap in last], dim=1)

    def features(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] → the bottleneck's output [B, width, h, w], in evaluation mode RePRI's feature."""
        return self.head.features(self.trunk(x))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] standardised → logits [B, n_classes, h, w]."""
        return self.head(self.trunk(x))

    @torch.no_grad()
    def _channels(self) -> int:
        training = self.backbone.training
        self.backbone.eval()  # or the trial image would enter the batch statistics
        channels = self.trunk(torch.zeros(1, 3, 64, 64, device=next(self.backbone.parameters()).device)).shape[1]
        self.backbone.train(training)
        return channels

    def save(self, path: str | Path, size: int, **facts: str | int | float) -> None:
        """Write everything to one safetensors file; the `size` trained at and `facts` travel in its header."""
        save_model(path, self, KIND, {"backbone": self.backbone.name, **self.config, "size": size, **facts})

    @classmethod
    def load(cls, path: str | Path) -> tuple[PSPNet, dict]:
        """Read a file written by `save`: the network, frozen and ready for inference, and its header.

        Raises:
            CheckpointError: not such a file, or cut off.
        """
        state, header = read_model(path, KIND)
        network = {key: header[key] for key in ("n_classes", "strides", "width", "dilated")}
        model = cls(Backbone(header["backbone"]), **network)
        fill(model, state, path)
        model.backbone.freeze()
        return model.requires_grad_(False).eval(), header


def base_network(backbone: Backbone, n_classes: int, whole: bool) -> PSPNet:
    """The network that a budget trains: as published where a ResNet is trained whole, else a small one.

    Args:
        backbone: with ImageNet's weights it is copied before it is trained, so that other models find it as it was;
            `small` has none and is trained itself.
        whole: train the backbone as well.
    """
    if backbone.name == "small":
        return PSPNet(backbone, n_classes, **SCRATCH)
    if not whole:
        return PSPNet(backbone, n_classes, **SMALL)
    own = copy.deepcopy(backbone).requires_grad_(True)
    return PSPNet(own, n_classes, **(PUBLISHED if backbone.name.startswith("resnet") else SMALL))


def _dilate(backbone: Backbone) -> Backbone:
    """A copy of a ResNet at output stride 8: every 3×3 of layer3 has dilation 2, of layer4 dilation 4 (spec §2.1).

    Not torchvision's own option, which gives the first block of a stage the dilation of the stage before.
    """
    if not backbone.name.startswith("resnet"):
        raise BackboneError(f"{backbone.name} cannot be dilated: take a ResNet, or `dilated=False`.")
    backbone = copy.deepcopy(backbone)
    for stage, dilation in ((backbone.net.layer3, 2), (backbone.net.layer4, 4)):
        for layer in stage.modules():
            if isinstance(layer, nn.Conv2d):
                layer.stride = (1, 1)
                if layer.kernel_size == (3, 3):
                    layer.dilation = layer.padding = (dilation, dilation)
    return backbone


def fitted_size(shape: Sequence[int], size: int) -> tuple[int, int]:
    """An image's (height, width) with its long side brought to `size`, floored to multiples of 8 (spec §2.2)."""
    height, width = (max(8, side * size // max(shape) // 8 * 8) for side in shape)
    return height, width


def padded_input(image: np.ndarray, size: int) -> Tensor:
    """An image [H, W, 3] uint8 RGB → [3, size, size] float32, standardised: it lies in the upper left corner.

    The padding is black *before* ImageNet's mean is taken off, as published.
    """
    height, width = fitted_size(image.shape[:2], size)
    canvas = np.zeros((size, size, 3), np.float32)
    canvas[:height, :width] = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    x = (canvas / 255 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    return torch.from_numpy(x).permute(2, 0, 1).contiguous()  # [size, size, 3] → [3, size, size]


def padded_labels(labels: np.ndarray, size: int) -> Tensor:
    """A mask or label map [H, W] → [size, size] int64 by nearest neighbour, `IGNORE` in the padding."""
    height, width = fitted_size(labels.shape, size)
    canvas = np.full((size, size), IGNORE, np.uint8)
    canvas[:height, :width] = cv2.resize(labels.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return torch.from_numpy(canvas).long()


def unpadded(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Back to an image's own size: values [size, size] on its padded form → [H, W], bilinear."""
    height, width = fitted_size(shape, values.shape[-1])
    inside = values[None, None, :height, :width]  # [size, size] → [1, 1, h, w]
    return F.interpolate(inside, tuple(shape), mode="bilinear", align_corners=False)[0, 0]  # as cv2 aligns pixels
