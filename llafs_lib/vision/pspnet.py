"""The base network of RePRI: PSPNet (Zhao et al., CVPR 2017; spec §2.1), trained on the base classes (spec §2.2).

The network is a backbone, pyramid pooling, a 3×3 bottleneck and a classifier. Only the training needs the classifier: a
few-shot task reads the bottleneck's output. This file also says how images are fed to the network: they keep their
aspect ratio, and the rest of the square is padding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from llafs_lib.errors import LlafsError
from llafs_lib.vision.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, last_taps, resize
from llafs_lib.vision.checkpoints import fill, read_model, save_model
from llafs_lib.vision.losses import IGNORE

KIND = "RePRI"  # the name in checkpoints
BINS = (1, 2, 3, 6)
# The published network (spec §2.1), except for its stem. RePRI starts from weights that have three 3×3 convolutions
# there (semseg's `initmodel`), and this library from torchvision's weights, which have one 7×7 convolution.
PUBLISHED = {"strides": (32,), "width": 512, "dilated": True}
SMALL = {"strides": (16, 32), "width": 128}
# A backbone that is trained from scratch needs a loss at every stride that is read later.
SCRATCH = {"strides": (8, 16, 32), "width": 64}


class PyramidHead(nn.Module):
    """Pyramid pooling, bottleneck and classifier: the part that is trained on top of a frozen trunk.

    Args:
        channels: how many the trunk has.
        width: how many channels the bottleneck has.
        n_classes: background and base classes.
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

    The published network is `PSPNet(load_backbone("resnet50").requires_grad_(True), 61, **PUBLISHED)`, and all of it is
    trained. For small budgets any frozen backbone serves as it is, and only `head` is trained, on `trunk` features that
    are computed once.

    Args:
        backbone: frozen or not. It is copied where it is dilated.
        n_classes: background and the base classes.
        strides: some of 8, 16 and 32. Their last taps are read and joined on the finest of their grids.
        width: how many channels the feature has.
        dilated: a ResNet's strides 16 and 32 become 8, and its 3×3 convolutions are dilated in return.

    Raises:
        LlafsError: a stride without taps, or a backbone that cannot be dilated.
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
            raise LlafsError(f"strides={tuple(strides)}: choose among 8, 16 and 32.")
        backbone.check_levels("RePRI's base network")
        self.backbone = _dilate(backbone) if dilated else backbone
        self.config = {"n_classes": n_classes, "strides": sorted(strides), "width": width, "dilated": dilated}
        self.head = PyramidHead(self._channels(), width, n_classes)

    def trunk(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] standardised → the backbone's joined taps [B, channels, h, w]."""
        last = last_taps(self.backbone(x), self.backbone.levels, self.config["strides"])
        if self.backbone.rectified:
            last = [F.relu(tap) for tap in last]
        return torch.cat([resize(tap, last[0].shape[-2:]) for tap in last], dim=1)

    def features(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] → the bottleneck's output [B, width, h, w]; in evaluation mode this is RePRI's feature."""
        return self.head.features(self.trunk(x))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] standardised → logits [B, n_classes, h, w]."""
        return self.head(self.trunk(x))

    @torch.no_grad()
    def _channels(self) -> int:
        training = self.backbone.training
        self.backbone.eval()  # so that the trial image does not enter the batch statistics
        channels = self.trunk(torch.zeros(1, 3, 64, 64, device=next(self.backbone.parameters()).device)).shape[1]
        self.backbone.train(training)
        return channels

    def save(self, path: str | Path, size: int, **facts: str | int | float) -> None:
        """Write everything to one safetensors file, with the `size` trained at and `facts` in its header."""
        save_model(path, self, KIND, {**self.backbone.facts(), **self.config, "size": size, **facts})

    @classmethod
    def load(cls, path: str | Path) -> tuple[PSPNet, dict]:
        """Read a file written by `save`.

        Returns: the network, frozen and ready for inference, and the file's header.

        Raises:
            LlafsError: the file is cut off or of another kind.
        """
        state, header = read_model(path, KIND)
        network = {key: header[key] for key in ("n_classes", "strides", "width", "dilated")}
        model = cls(Backbone(header["backbone"]), **network)
        fill(model, state, str(path), f"a base network with {header['backbone']}")
        model.backbone.freeze().weights_from = header.get("weights_from")
        return model.requires_grad_(False).eval(), header


def base_network(backbone: Backbone, n_classes: int, whole: bool) -> PSPNet:
    """The network that a budget trains: the published one where a whole ResNet is trained, else a small one.

    Args:
        backbone: one with ImageNet's weights is copied before it is trained, so that other models find it unchanged.
            `small` has no such weights and is trained itself.
        n_classes: background and the base classes.
        whole: train the backbone as well.
    """
    if backbone.name == "small":
        return PSPNet(backbone, n_classes, **SCRATCH)
    if not whole:
        return PSPNet(backbone, n_classes, **SMALL)
    own = copy.deepcopy(backbone).requires_grad_(True)
    return PSPNet(own, n_classes, **(PUBLISHED if _is_resnet(backbone) else SMALL))


def _is_resnet(backbone: Backbone) -> bool:
    return isinstance(backbone.net, torchvision.models.ResNet)


def _dilate(backbone: Backbone) -> Backbone:
    """A copy of a ResNet at output stride 8: every 3×3 of layer3 has dilation 2, of layer4 dilation 4 (spec §2.1).

    Torchvision's own option is different: it gives the first block of a stage the dilation of the stage before.
    """
    if not _is_resnet(backbone):
        raise LlafsError(f"{backbone.name} cannot be dilated: take a ResNet, or `dilated=False`.")
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
    """An image [H, W, 3] uint8 RGB in the upper left corner of a square: → [3, size, size] float32, standardised.

    The padding is black *before* ImageNet's mean is subtracted, as published.
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
    """Bring values [size, size] on an image's padded form back to the image's own size: → [H, W], bilinear."""
    height, width = fitted_size(shape, values.shape[-1])
    inside = values[None, None, :height, :width]  # [size, size] → [1, 1, h, w]
    # OpenCV's resize does not align corners, and it made the padded form.
    return F.interpolate(inside, tuple(shape), mode="bilinear", align_corners=False)[0, 0]
