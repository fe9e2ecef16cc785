"""Frozen feature extractors, and the taps that few-shot segmentation reads from them.

A tap is the output of one residual unit *before* its last non-linearity (HSNet, spec §1.1). Taps come in three groups,
at strides 8, 16 and 32. Networks of timm have taps of their own (`timm_nets.py`). In a frozen backbone, batch
normalisation runs in evaluation mode and no parameter has a gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from llafs_lib.errors import LlafsError
from llafs_lib.vision import timm_nets
from llafs_lib.vision.checkpoints import fill, read_state
from llafs_lib.vision.packed import fold_norms, keep_freed_memory, pack
from llafs_lib.vision.torchvision_nets import RECIPES, build
from llafs_lib.vision.weights import Provenance, find_weights, provenance

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_MEAN, _STD = (255 * torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))  # [3, 1, 1], of bytes


BACKBONES: tuple[str, ...] = (*RECIPES, *timm_nets.CHOICES)


_TOY_WEIGHTS = Path(__file__).with_name("toy_fold0.safetensors")


class Backbone(nn.Module):
    """A feature extractor: image → taps.

    Args:
        name: one of `BACKBONES`, or any network of timm by its name there, such as "convnextv2_atto.fcmae". The name of
            a vision transformer may end in `@n`: the tokens after n layers instead of all. Parameters are random until
            `load_backbone` or training fills them.

    Attributes:
        levels: how many taps there are at strides 8, 16 and 32; (0, 0, 1) for a vision transformer.
        rectified: whether units end in a ReLU, which their taps lack.
        interpolation: how images are resized for it, "bilinear" or "bicubic".
        weights_from: the file its weights are from; None if they are not from one.
        folded: an `optimised` copy.

    Raises:
        LlafsError: unknown name, or a network without maps at these strides.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name, self.folded, self.weights_from = name, False, None
        self.interpolation, scale, shift = "bilinear", None, None
        if name in RECIPES:
            recipe = RECIPES[name]
            self.net, self.taps, self.levels = build(name), recipe.taps, recipe.levels
        else:
            self.net, self.taps, self.levels = timm_nets.build(name, BACKBONES)
            self.interpolation, scale, shift = _preparation(self.net.pretrained_cfg)
        self.rectified = name in RECIPES and name != "mobilenet_v2"
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    weights_from: Provenance | None

    def forward(self, x: Tensor) -> list[Tensor]:
        """x [B, 3, H, W] → taps, shallow to deep, each [B, C, h, w].

        x is standardised by ImageNet's mean and deviation for every backbone; one that was trained with others brings
        it to those itself.

        Raises:
            LlafsError: a vision transformer is given a side that is no multiple of its patch.
        """
        if self.scale is not None:
            x = torch.addcmul(self.shift.to(x.dtype), x, self.scale.to(x.dtype))
        return self.taps(self.net, x)

    def facts(self) -> dict[str, Any]:
        """What the header of a checkpoint says about the backbone: its name, and the file its weights began with."""
        known = {} if self.weights_from is None else {"weights_from": self.weights_from}
        return {"backbone": self.name, **known}

    def check_levels(self, model: str) -> None:
        """A model that reads taps at three strides calls this first.

        Raises:
            LlafsError: this backbone has none at strides 8 and 16, as it is a vision transformer.
        """
        if not all(self.levels):
            raise LlafsError(
                f"{model} compares maps at strides 8, 16 and 32, and {self.name} has one map only: use it with "
                "prototypes or INSID3, or take a convolutional backbone."
            )

    def freeze(self) -> Backbone:
        """Turn gradients off and leave batch normalisation in evaluation mode for good; returns the backbone itself."""
        return self.requires_grad_(False).eval()

    def optimised(self) -> Backbone:
        """A frozen copy for inference: batch normalisation folded into the convolutions, weights channels last.

        Its taps are equal up to rounding. Its parameters have other names, so save and train the original. Once the
        copy has seen an image on a CPU, its weights cannot move to a GPU any more: make it on the device it is for.
        """
        fast = copy.deepcopy(self).freeze().to(memory_format=torch.channels_last)
        folded = sum(fold_norms(module) for module in list(fast.modules()))
        if folded and self.name not in RECIPES and not _alike(self, fast):
            fast = copy.deepcopy(self).freeze()  # its norms are not applied where they are registered
            fast = fast.to(memory_format=torch.channels_last)
        fast.folded = True
        pack(fast)
        keep_freed_memory()
        return fast

    def train(self, mode: bool = True) -> Backbone:
        frozen = not any(p.requires_grad for p in self.parameters())
        return super().train(mode and not frozen)


def _preparation(cfg: dict[str, Any]) -> tuple[str, Tensor | None, Tensor | None]:
    """How timm's network wants its images: interpolation, and what brings ImageNet's standardisation to its own."""
    how = cfg["interpolation"] if cfg["interpolation"] in ("bilinear", "bicubic") else "bilinear"
    if (tuple(cfg["mean"]), tuple(cfg["std"])) == (IMAGENET_MEAN, IMAGENET_STD):
        return how, None, None
    mean, std, own_mean, own_std = map(torch.tensor, (IMAGENET_MEAN, IMAGENET_STD, cfg["mean"], cfg["std"]))
    return how, (std / own_std)[:, None, None], ((mean - own_mean) / own_std)[:, None, None]  # [3, 1, 1]


@torch.no_grad()
def _alike(plain: Backbone, other: Backbone) -> bool:
    """Whether two forms of a network give the same taps, up to rounding."""
    like = next(plain.parameters())
    x = torch.linspace(-2, 2, 3 * 96 * 96).view(1, 3, 96, 96)
    x = F.interpolate(x, tuple(plain.net.pretrained_cfg["input_size"][1:])).to(like)
    plain = copy.deepcopy(plain).freeze()
    pairs = zip(plain(x), other(x), strict=True)
    return all((a - b).abs().max() <= 1e-3 * a.abs().max() for a, b in pairs)


def load_backbone(name: str, weights_folder: str | Path = "data/weights") -> Backbone:
    """A frozen backbone with pretrained weights: from a file in `weights_folder`, else from a download.

    The file's name begins with the backbone's name, or with timm's for it: `resnet50-….pth`. Of several files, the one
    that is named as the official one is taken. `weights_from` says which file it was; if that is not the official one,
    a line is printed, too.

    Raises:
        LlafsError: an unknown name, a file that does not fit, several files of which none is the official one, or
            neither a file nor a network.
    """
    backbone, source = Backbone(name), _source(name)
    path = find_weights(weights_folder, name, source.stems, source.official) or _download(name, source, weights_folder)
    state = read_state(path)
    if name not in RECIPES:
        state = timm_nets.read_by_timm(source.stems[0], state, str(path))
    fill(backbone.net, state, str(path), f"{name} weights")
    backbone.weights_from = provenance(path, source.official, source.licence)
    return backbone.freeze()


def has_weights(name: str, weights_folder: str | Path) -> bool:
    """Whether `load_backbone` finds a file in the folder and need not download one."""
    source = _source(name)
    return find_weights(weights_folder, name, source.stems, source.official) is not None


class _Source(NamedTuple):
    stems: list[str]  # what the name of a file begins with; the backbone's own, without a layer, is the first
    official: list[str]
    licence: str


def _source(name: str) -> _Source:
    plain = name.partition("@")[0]
    if name in RECIPES:
        import torchvision

        enum = RECIPES[name].weights
        official = [Path(torchvision.models.get_weight(enum).url).name] if enum else []
        return _Source([name], official, "BSD-3-Clause, torchvision's; trained on ImageNet")
    stems = [plain, timm_nets.timm_name(plain).partition(".")[0]]
    return _Source(stems, timm_nets.official_files(plain), timm_nets.licence_of(plain))


def _download(name: str, source: _Source, folder: str | Path) -> Path:
    enum = RECIPES[name].weights if name in RECIPES else ""
    if enum is None:
        raise LlafsError(f"backbone {name!r} has no pretrained weights: notebook 02 trains it from scratch.")
    try:
        if not enum:
            return timm_nets.download(source.stems[0])
        import torchvision

        weights = torchvision.models.get_weight(enum)
        weights.get_state_dict(progress=True, check_hash=True)
        return Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    except Exception as error:  # torch, httpx and Hugging Face have a dozen types for a network that is not there
        pattern, reason = (
            " or ".join(f"{stem}-*.pth" for stem in source.stems),
            (str(error) or repr(error)).splitlines()[0],
        )
        who = "torchvision" if enum else "timm"
        raise LlafsError(
            f"no file {pattern} in {folder}, and {who} could not download its own ({reason}). "
            "Put the weights there and set LLAFS_DATA to the folder that holds weights/."
        ) from error


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
    """The deepest tap of each of `strides` (of 8, 16 and 32), finest first; `levels` as a backbone has them.

    Strides without a tap are left out: a vision transformer has one map for all.
    """
    ends = {stride: sum(levels[: i + 1]) - 1 for i, stride in enumerate(STRIDES) if levels[i]}
    return [taps[ends[stride]] for stride in sorted(strides) if stride in ends]


@torch.inference_mode()
def encode(backbone: Backbone, inputs: Tensor) -> list[Tensor]:
    """The taps of one standardised image: inputs [3, H, W] → a list of [C, h, w] on the backbone's device.

    Under autocast the backbone computes in half precision; the taps are then float32 again.
    """
    return encode_batch(backbone, inputs[None])[0]


@torch.inference_mode()
def encode_batch(backbone: Backbone, inputs: Tensor) -> list[list[Tensor]]:
    """`encode` for several images in one pass: inputs [B, 3, H, W] → the taps of each, which share no memory."""
    like = next(backbone.parameters())
    batch = [tap.to(like.dtype) for tap in backbone(inputs.to(like))]  # each [B, C, h, w]
    return [[tap[i] if len(inputs) == 1 else tap[i].clone() for tap in batch] for i in range(len(inputs))]


def images_at_once(device: torch.device) -> int:
    """How many images to encode in one pass. A CPU gains nothing from several (`docs/results.md`)."""
    return 1 if device.type == "cpu" else 16


def usual_device() -> torch.device:
    """A GPU if PyTorch has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_image(image: np.ndarray) -> None:
    """An image to segment, or to show as a support, must be [H, W, 3] uint8.

    Raises:
        LlafsError: it is not.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise LlafsError(f"an image must be [H, W, 3] uint8 RGB, not {list(image.shape)} {image.dtype}.")


def to_input(image: np.ndarray, size: int, how: str = "bilinear") -> Tensor:
    """Squash an image to a square and standardise it with ImageNet's mean and deviation (spec §1.9).

    Args:
        image: [H, W, 3] uint8 RGB.
        size: side of the square in pixels; the aspect ratio is not kept, as in HSNet.
        how: a backbone's `interpolation`.

    Returns: [3, size, size] float32.
    """
    return (squash(image, size, how) - _MEAN).div_(_STD)


def squash(image: np.ndarray, size: int, how: str = "bilinear") -> Tensor:
    """Resize an image [H, W, 3] uint8 to [3, size, size] uint8, bilinear or bicubic, with antialiasing.

    PIL's result, which HSNet uses, to within one grey level (each rounds in its own way), four times faster.
    """
    x = torch.from_numpy(np.require(image, requirements=("C", "W")))
    x = x.permute(2, 0, 1)[None]  # [H, W, 3] → [1, 3, H, W]
    return F.interpolate(x, (size, size), mode=how, antialias=True)[0]


def to_mask(mask: np.ndarray, size: int) -> Tensor:
    """Squash a mask or label map [H, W] to [size, size] int64 by nearest neighbour (spec §1.9)."""
    square = cv2.resize(mask.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
    return torch.from_numpy(square).long()
