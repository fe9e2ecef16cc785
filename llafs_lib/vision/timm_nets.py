"""Networks of timm as frozen features: which are chosen by a short name, where their taps are, and their weights.

A convolutional network gives the output of every block at strides 8, 16 and 32. A vision transformer gives one map: the
patch tokens of its last layer, or of layer n for a name that ends in `@n`, without class and register tokens.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llafs_lib.errors import LlafsError


@dataclass(frozen=True)
class Choice:
    """timm: its name there; params: in millions; licence: of the weights; seconds: what an image of `size` px takes on
    one thread of an AMD EPYC, `optimised`; files: others that hold the same release of the weights."""

    timm: str
    params: float
    licence: str
    size: int
    seconds: float
    files: tuple[str, ...] = ()


# DINOv2 is the variant with registers. DINOv3 has to be asked for on Hugging Face, by its licence.
CHOICES: dict[str, Choice] = {
    "efficientnet_lite2": Choice(
        "tf_efficientnet_lite2.in1k", 4.8, "apache-2.0", 577, 0.06, ("tf_efficientnet_lite2-ea11728f.pth",)
    ),
    "convnext_tiny": Choice("convnext_tiny.in12k_ft_in1k", 27.8, "apache-2.0", 448, 0.41),
    "dinov2_s": Choice("vit_small_patch14_reg4_dinov2.lvd142m", 22.1, "apache-2.0", 448, 0.48),
    "dinov2_b": Choice("vit_base_patch14_reg4_dinov2.lvd142m", 86.6, "apache-2.0", 448, 2.2),
    "dinov3_s": Choice("vit_small_patch16_dinov3.lvd1689m", 21.6, "dinov3-license", 448, 0.50),
}


def timm_name(name: str) -> str:
    """The name that timm knows, of a backbone's name without `@n`."""
    return CHOICES[name].timm if name in CHOICES else name


def is_known(name: str) -> bool:
    """Whether timm has a network of that name, with `@n` or without."""
    import timm  # takes seconds, and most uses need none of it

    return timm.is_model(timm_name(name.partition("@")[0]))


@dataclass(frozen=True)
class BlockTaps:
    """Taps of a convolutional network: the outputs of `blocks`, by name; without any, the maps of its stages."""

    blocks: tuple[str, ...]
    stages: tuple[int, ...]  # timm's indices of the last stages at strides 8, 16 and 32

    def __call__(self, net: nn.Module, x: Tensor) -> list[Tensor]:
        taps: list[Tensor] = []
        hooks = [net.get_submodule(b).register_forward_hook(lambda *seen: taps.append(seen[2])) for b in self.blocks]
        try:
            maps = net.forward_intermediates(x, indices=list(self.stages), intermediates_only=True, stop_early=True)
        finally:
            for hook in hooks:
                hook.remove()
        return taps or maps


@dataclass(frozen=True)
class TokenTaps:
    """The one tap of a vision transformer: its patch tokens after `layer` layers, as a map."""

    layer: int
    patch: int
    name: str

    def __call__(self, net: nn.Module, x: Tensor) -> list[Tensor]:
        for side in x.shape[-2:]:
            if side % self.patch:
                down = side // self.patch * self.patch
                sizes = " or ".join(str(s) for s in (down, down + self.patch) if s)
                raise LlafsError(f"{self.name} takes sides that are multiples of {self.patch} px, not {side}: {sizes}.")
        how = {"indices": [self.layer - 1], "norm": True, "intermediates_only": True, "stop_early": True}
        return net.forward_intermediates(x, **how)


Taps = BlockTaps | TokenTaps


def build(name: str, others: Sequence[str] = tuple(CHOICES)) -> tuple[nn.Module, Taps, tuple[int, int, int]]:
    """A network with random weights, its taps, and how many there are at strides 8, 16 and 32.

    A vision transformer's one tap counts as one of stride 32, whatever its patch. `others` are named where there is no
    such network.

    Raises:
        LlafsError: timm has no such network, its maps are not at these strides, or the layer is none of its.
    """
    plain, _, layer = name.partition("@")
    if not is_known(name):
        raise LlafsError(f"unknown backbone {name!r}: none of {', '.join(others)}, and timm has none of that name.")
    net = _create(plain)
    strides = [f["reduction"] for f in net.feature_info]
    if len(set(strides)) == 1:
        depth = len(strides)
        if layer and not (layer.isdigit() and 1 <= int(layer) <= depth):
            raise LlafsError(f"{name!r}: {plain} has layers 1 to {depth}; write {plain}@{depth} for the last.")
        return net, TokenTaps(int(layer or depth), strides[0], plain), (0, 0, 1)
    if layer or not {8, 16, 32} <= set(strides) or not hasattr(net, "forward_intermediates"):
        raise LlafsError(f"{name!r} cannot serve: no maps at strides 8, 16 and 32, or no layers to choose from.")
    return net, *_taps_per_block(net, strides)


def _create(name: str, **options: Any) -> nn.Module:
    import timm

    try:  # a vision transformer takes images of any size then; others have no such option
        net = timm.create_model(timm_name(name), dynamic_img_size=True, **options)
    except TypeError:
        net = timm.create_model(timm_name(name), **options)
    net.reset_classifier(0)
    return net.eval()


@torch.no_grad()
def _taps_per_block(net: nn.Module, strides: list[int]) -> tuple[BlockTaps, tuple[int, int, int]]:
    """Taps at every block, if a trial shows that blocks lead to the stages' maps; else one tap at each stride."""
    ends, names = {stride: i for i, stride in enumerate(strides)}, [f["module"] for f in net.feature_info]
    stages = tuple(ends[stride] for stride in (8, 16, 32))
    levels = [_blocks(net, names[i], names[i - 1] if i else "") for i in stages]
    plain, blocks = BlockTaps((), stages), BlockTaps(tuple(b for level in levels for b in level), stages)
    shape = (1, *net.pretrained_cfg["input_size"])
    x = torch.linspace(-2, 2, math.prod(shape)).view(shape)
    maps, (taps, as_made) = plain(net, x), _with_copies(blocks, net, x)
    counts = tuple(len(level) for level in levels)
    if len(taps) == sum(counts) and all(isinstance(t, Tensor) for t in taps):
        grids = [m.shape[-2:] for m, n in zip(maps, counts, strict=True) for _ in range(n)]
        fit = [t.shape[-2:] for t in taps] == grids
        last = [taps[end - 1] for end in itertools.accumulate(counts)]
        # A later layer may have written over a tap.
        if fit and all(map(torch.equal, [*taps, *last], [*as_made, *maps])):
            return blocks, counts
    return plain, (1, 1, 1)


def _with_copies(taps: BlockTaps, net: nn.Module, x: Tensor) -> tuple[list[Any], list[Any]]:
    """Taps, and copies of them from the moment when each was made."""
    copies: list[Any] = []
    modules = [net.get_submodule(b) for b in taps.blocks]
    hooks = [m.register_forward_hook(lambda *seen: copies.append(copy.deepcopy(seen[2]))) for m in modules]
    found = taps(net, x)
    for hook in hooks:
        hook.remove()
    return found, copies


def _blocks(net: nn.Module, end: str, before: str) -> list[str]:
    """The blocks of the stage `end`, and of the stages between it and the stage `before`, by name."""
    parent, _, own = end.rpartition(".")
    stages = [n for n, m in net.get_submodule(parent).named_children() if n == own or len(list(m.children()))]
    holder, _, last = before.rpartition(".")
    first = stages.index(last) + 1 if holder == parent and last in stages else stages.index(own)
    found = []
    for stage in stages[first : stages.index(own) + 1]:
        name = f"{parent}.{stage}".lstrip(".")
        inner = f"{name}.blocks" if hasattr(net.get_submodule(name), "blocks") else name
        blocks = list(net.get_submodule(inner).named_children())
        alike = len({type(b) for _, b in blocks}) == 1
        found += [f"{inner}.{b}" for b, _ in blocks] if alike else [name]
    return found


# Weights --------------------------------------------------------------------------------------------------------------


def licence_of(name: str) -> str:
    import timm

    return getattr(timm.get_pretrained_cfg(timm_name(name)), "license", None) or "not named by timm"


def official_files(name: str) -> list[str]:
    """What files with the network's official weights are called, best first."""
    import timm

    cfg, known = timm.get_pretrained_cfg(timm_name(name)), CHOICES[name].files if name in CHOICES else ()
    urls = [Path(cfg.url).name] if cfg.url else []
    return [*known, *urls, f"{timm_name(name)}.safetensors"]


def read_by_timm(name: str, state: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
    """Weights in any form that timm knows for this network, under the names of the built network's parameters.

    Raises:
        LlafsError: they do not fit it.
    """
    for key, value in _create(name).state_dict().items():
        # timm would bring positions and patches of another model to this one's.
        if key in state and getattr(state[key], "shape", ()) != value.shape:
            there, here = list(getattr(state[key], "shape", ())), list(value.shape)
            raise LlafsError(f"{source} does not hold {name} weights: {key} is {there} in it and {here} in the model.")
    try:
        net = _create(name, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state)})
    except Exception as error:  # whatever a foreign file makes timm do
        reason = " ".join(str(error).split())[:300]
        raise LlafsError(f"{source} does not hold {name} weights: {reason}") from error
    return net.state_dict()


def download(name: str) -> Path:
    """The file that timm would download, in the cache of whichever library fetched it.

    Raises:
        Exception: no network, or no such file there.
    """
    import timm
    from huggingface_hub import hf_hub_download

    cfg = timm.get_pretrained_cfg(timm_name(name))
    if cfg.hf_hub_id:
        return Path(hf_hub_download(cfg.hf_hub_id, cfg.hf_hub_filename or "model.safetensors"))
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(cfg.url).name
    if not path.exists():
        torch.hub.download_url_to_file(cfg.url, str(path))
    return path
