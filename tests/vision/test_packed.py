"""Packed layers give what the plain ones give."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn

from llafs_lib.vision.packed import ACTIVATIONS, PackedConv2dSame, PackedLinear, fold_norms, pack


def with_statistics(norm):
    norm.running_mean.normal_(std=0.1), norm.running_var.uniform_(0.5, 2), nn.init.normal_(norm.weight)
    return norm


def nets(act):
    norm = with_statistics(nn.BatchNorm2d(8))
    yield nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), norm, act())
    timms = with_statistics(BatchNormAct2d(8, act_layer=act))
    yield nn.ModuleDict({"conv": Conv2dSame(3, 8, 3, 2), "norm": timms})


def applied(net, x):
    for layer in net.values() if isinstance(net, nn.ModuleDict) else net:
        x = layer(x)
    return x


@pytest.mark.parametrize("act", [*ACTIVATIONS, nn.GELU, nn.Identity])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_norm_and_activation_are_folded_in(act, dtype):
    for plain in nets(act):
        plain.eval().requires_grad_(False).to(dtype)
        fast = copy.deepcopy(plain)
        assert fold_norms(fast) == 1
        pack(fast)
        left = [m for m in fast.modules() if isinstance(m, act)]
        assert act is nn.Identity or bool(left) == (act not in ACTIVATIONS)
        x = 5 * torch.randn(2, 3, 21, 30, dtype=dtype)
        for form in (fast, copy.deepcopy(fast)):  # the second copy is of one that has packed its weights
            torch.testing.assert_close(applied(form, x), applied(plain, x), atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=30)
@given(
    sides=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
)
@torch.inference_mode()
def test_same_padding_at_any_size(sides, kernel, stride, dilation):
    plain = Conv2dSame(4, 4, kernel, stride, dilation=dilation, groups=2).eval().requires_grad_(False)
    fast = copy.deepcopy(plain)
    pack(fast)
    assert type(fast) is PackedConv2dSame
    x = torch.randn(2, 4, *sides)
    torch.testing.assert_close(fast(x), plain(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_linear_layers_of_any_number_of_rows(bias):
    plain = nn.Linear(12, 7, bias).requires_grad_(False)
    fast = copy.deepcopy(plain)
    pack(fast)
    assert type(fast) is PackedLinear
    for shape in ((5, 12), (2, 9, 12), (1, 3, 4, 12), (0, 12), (12,), (5, 12)):
        x = torch.randn(shape)
        for form in (fast, copy.deepcopy(fast)):
            torch.testing.assert_close(form(x), plain(x), atol=1e-5, rtol=1e-4)
