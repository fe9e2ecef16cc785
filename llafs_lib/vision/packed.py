"""Frozen convolutions for inference on a CPU: batch normalisation folded in, weights stored as oneDNN wants them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class PackedConv2d(nn.Conv2d):
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


class PackedConv2dSame(PackedConv2d):
    """The same for timm's Conv2dSame, whose padding is TensorFlow's: it depends on the input's size."""

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        from timm.layers import pad_same

        return super().forward(pad_same(x, self.kernel_size, self.stride, self.dilation), onto)


def _same_padding(conv: nn.Module) -> bool:
    return type(conv).__name__ == "Conv2dSame" and type(conv).__module__.startswith("timm.")


def fold_batch_norms(module: nn.Module) -> int:
    """Merge each batch normalisation into the convolution before it, if the two are registered in a row → how many."""
    children, folded = list(module.named_children()), 0
    for (name, conv), (norm_name, norm) in zip(children, children[1:], strict=False):
        plain = type(conv) is nn.Conv2d or _same_padding(conv)  # others change their weights in each pass
        if plain and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, getattr(norm, "act", nn.Identity()))  # timm's norms hold their activation
            folded += 1
    return folded


def pack(module: nn.Module) -> None:
    """Turn a network's convolutions into packed ones, where this PyTorch can; the network stays frozen from then on."""
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return
    for conv in module.modules():
        if type(conv) is nn.Conv2d and isinstance(conv.padding, tuple) and conv.padding_mode == "zeros":
            conv.__class__ = PackedConv2d
        elif _same_padding(conv):
            conv.__class__ = PackedConv2dSame
