"""Frozen layers for inference on a CPU: norms and activations folded in, weights stored as oneDNN wants them.

`F.conv2d` brings its weights into oneDNN's layout anew in every pass, and `F.linear` calls another library, which takes
twice the time on some processors. `torch.compile` calls the functions of oneDNN that are called here.
"""

from __future__ import annotations

import ctypes
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# What oneDNN computes together with the layer before it: its name there, and its numbers.
ACTIVATIONS = {
    nn.ReLU: ("relu", [], ""),
    nn.ReLU6: ("hardtanh", [0.0, 6.0], ""),
    nn.SiLU: ("swish", [], ""),
    nn.Hardswish: ("hardswish", [], ""),
}
NONE = ("none", [], "")
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of glibc's mallopt


class _Packed:
    """A layer whose weight is packed when it is first used; a copy, and all but float32 on a CPU, unpacks it."""

    seen: torch.Size | None = None  # the input's shape that the weight is packed for
    act: type[nn.Module] | None = None  # of `ACTIVATIONS`, applied to the output

    def _packs(self, x: Tensor) -> bool:
        known = hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        return known and x.device.type == "cpu" and x.dtype == torch.float32 and not x.requires_grad

    def _attributes(self) -> tuple[str, list[float], str]:
        return ACTIVATIONS.get(self.act, NONE)

    def _unpacked(self) -> Tensor:
        return self.weight.to_dense() if self.weight.is_mkldnn else self.weight

    def _keep(self, packed: Tensor, seen: torch.Size) -> None:
        self.weight, self.seen = nn.Parameter(packed, requires_grad=False), seen

    def __getstate__(self) -> dict:
        # Packed weights can neither be copied nor pickled.
        weight = nn.Parameter(self._unpacked(), requires_grad=False)
        return self.__dict__ | {"_parameters": self._parameters | {"weight": weight}, "seen": None}


class PackedConv2d(_Packed, nn.Conv2d):
    """A frozen convolution whose weights are stored in the layout that oneDNN wants for the input shape seen last."""

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """The output of a Conv2d, activated. With `onto`, its sum with that, which may be written over `onto`."""
        x, padding = self._padded(x)
        how = padding, self.stride, self.dilation, self.groups
        if not self._packs(x):
            y = F.conv2d(x, self._unpacked(), self.bias, self.stride, padding, self.dilation, self.groups)
            y = y if self.act is None else self.act()(y)
            return y if onto is None else y.add_(onto)
        if x.shape != self.seen:
            self._keep(torch.ops.mkldnn._reorder_convolution_weight(self._unpacked(), *how, list(x.shape)), x.shape)
        if onto is None:
            return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *how, *self._attributes())
        add = torch.ops.mkldnn._convolution_pointwise_.binary
        return add(onto, x, self.weight, self.bias, *how, "add", 1.0, None, [], "")

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return x, self.padding


class PackedConv2dSame(PackedConv2d):
    """The same for timm's Conv2dSame, whose padding is TensorFlow's: it depends on the input's size."""

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        sides = zip(x.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True)
        high, wide = (max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in sides)
        if high % 2 == wide % 2 == 0:  # the same on both ends, which spares a copy of x
            return x, (high // 2, wide // 2)
        return F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2)), (0, 0)


class PackedLinear(_Packed, nn.Linear):
    """A frozen linear layer whose weights are stored in the layout that oneDNN wants."""

    def forward(self, x: Tensor) -> Tensor:
        if not self._packs(x):
            return F.linear(x, self._unpacked(), self.bias)
        if not self.weight.is_mkldnn:
            rows = x.numel() // self.in_features
            self._keep(torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), rows), x.shape)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *NONE)


def _same_padding(conv: nn.Module) -> bool:
    return type(conv).__name__ == "Conv2dSame" and type(conv).__module__.startswith("timm.")


def _pack(layer: nn.Module) -> bool:
    """Make a layer a packed one, if it is one of the plain kinds (others change their weights in each pass)."""
    if type(layer) is nn.Conv2d and isinstance(layer.padding, tuple) and layer.padding_mode == "zeros":
        layer.__class__ = PackedConv2d
    elif _same_padding(layer):
        layer.__class__ = PackedConv2dSame
    elif type(layer) is nn.Linear:
        layer.__class__ = PackedLinear
    return isinstance(layer, _Packed)


def fold_norms(module: nn.Module) -> int:
    """Merge each batch normalisation into the convolution before it, if the two are registered in a row → how many.

    So is the activation that follows: one that timm's norm holds, or the next in a Sequential.
    """
    children, folded = [*module.named_children(), ("", nn.Identity())], 0
    for (name, conv), (norm_name, norm), (act_name, act) in zip(children, children[1:], children[2:], strict=False):
        plain = type(conv) is nn.Conv2d or _same_padding(conv)
        if plain and isinstance(norm, nn.BatchNorm2d):
            conv, own = fuse_conv_bn_eval(conv, norm), getattr(norm, "act", nn.Identity())
            setattr(module, name, conv)
            setattr(module, norm_name, own)
            folded += 1
            where, act = (act_name, act) if isinstance(module, nn.Sequential) else (norm_name, own)
            if type(act) in ACTIVATIONS and where and _pack(conv):
                conv.act = type(act)
                setattr(module, where, nn.Identity())
    return folded


def pack(module: nn.Module) -> None:
    """Turn a network's layers into packed ones; the network stays frozen from then on."""
    for layer in module.modules():
        _pack(layer)


def keep_freed_memory() -> None:
    """Have glibc keep freed memory, up to 512 MB, for the next map: a process that encodes images calls this once.

    Else each large map is fetched anew from the system, which clears it page by page: a third of the time of a pass.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, 2**28) or mallopt(MMAP_THRESHOLD, 2**25)  # older ones take no more than 32 MB
        mallopt(TRIM_THRESHOLD, 2**29)
