"""HSNet's correlation and learner on the CPU, equal to the plain form in `hsnet.py` and faster.

The plain form keeps the query plane outside and the support plane inside, so that half of its 4-D convolutions copy the
whole tensor twice. Here one pair of pictures is worked on at a time, support-major: x [hs, ws, C, hq, wq].

- The convolution over the query plane is an ordinary 2-D convolution of hs·ws maps; a stride is a slice.
- The convolution over the support plane is a sum of matrix products. In one support row the cells under the kernel are
  adjacent, k·C rows of hq·wq numbers: the products read them where they lie, and what is padding is not computed.
- Where the support's mask is zero so is the correlation: only the mask's cells are computed, only its bounding box is
  stored, and the first layer, which makes the rest one number per channel, does not compute that either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llafs_lib.errors import LlafsError

EPS = 1e-5
CELLS_AT_ONCE = 128  # support cells in one matrix product: fewer leave the processor waiting, more leave its cache


class Pairs(NamedTuple):
    """Pictures to compare, as an `HSNetLearner` takes them; no gradient flows into the taps.

    query, support: taps, shallow to deep, each [B, C, h, w]; mask: the supports' foreground, [B, H, W], 0 or 1;
    levels: how many taps belong to strides 8, 16 and 32.
    """

    query: Sequence[Tensor]
    support: Sequence[Tensor]
    mask: Tensor
    levels: tuple[int, int, int]


def squeeze(learner: nn.Module, pairs: Pairs) -> Tensor:
    """Correlation, encoder and mixing of an `HSNetLearner` → [B, 128, hq, wq] of the finest level."""
    return torch.stack([_squeeze_one(learner, pairs, b) for b in range(len(pairs.mask))])


def _squeeze_one(learner: nn.Module, pairs: Pairs, b: int) -> Tensor:
    shallow, middle, _ = pairs.levels
    stride8, stride16, stride32 = slice(shallow), slice(shallow, shallow + middle), slice(shallow + middle, None)

    def encode(block: nn.Sequential, taps: slice) -> Tensor:
        x = correlate([q[b] for q in pairs.query[taps]], [s[b] for s in pairs.support[taps]], pairs.mask[b])
        return _layers(block, x)

    x = _mix(encode(learner.encoder_layer4, stride32), encode(learner.encoder_layer3, stride16))
    x = _mix(_layers(learner.encoder_layer4to3, x), encode(learner.encoder_layer2, stride8))
    return _layers(learner.encoder_layer3to2, x).cells.mean(dim=(0, 1))  # [hs, ws, 128, hq, wq] → [128, hq, wq]


class Planes(NamedTuple):
    """Query maps at the cells of a support plane; outside of a box each channel is one number.

    cells: [h, w, C, hq, wq], those in the box; corner: the box's first row and column; grid: the plane's (hs, ws);
    outside: [C].
    """

    cells: Tensor
    corner: tuple[int, int]
    grid: tuple[int, int]
    outside: Tensor

    def whole(self) -> bool:
        return tuple(self.cells.shape[:2]) == tuple(self.grid)


@torch.no_grad()
def correlate(query: Sequence[Tensor], support: Sequence[Tensor], mask: Tensor) -> Planes:
    """Clamped cosine similarity (spec §1.2, §1.3) inside the mask's bounding box.

    Args:
        query, support: n taps, each [C, h, w]; mask: [H, W], 0 or 1.

    Returns: n channels.
    """
    grid = support[0].shape[-2:]
    small = resize(mask[None, None].to(support[0].dtype), grid)[0, 0]  # [hs, ws]
    rows, columns = (_extent(small.any(dim=d)) for d in (1, 0))
    weight = small[rows, columns]  # [h, w]
    seen = weight.flatten().nonzero()[:, 0]
    queries = [q.flatten(1) for q in query]  # [C, hq, wq] → [C, hq·wq]
    lengths = torch.stack([q.norm(dim=0) + EPS for q in queries])  # [n, hq·wq]
    supports = [(s[:, rows, columns] * weight).flatten(1)[:, seen] for s in support]  # [C, h, w] → [C, seen]
    units = [(s / (s.norm(dim=0) + EPS)).t() for s in supports]  # [seen, C]
    x = lengths.new_zeros(weight.numel(), *lengths.shape)  # [h·w, n, hq·wq]
    part = lengths.new_empty(CELLS_AT_ONCE, *lengths.shape)
    for start in range(0, len(seen), CELLS_AT_ONCE):
        cells = seen[start : start + CELLS_AT_ONCE]
        for n, (q, s) in enumerate(zip(queries, units, strict=True)):
            torch.mm(s[start : start + CELLS_AT_ONCE], q, out=part[: len(cells), n])
        x[cells] = part[: len(cells)].clamp_(min=0).div_(lengths)
    cells = x.view(*weight.shape, len(query), *query[0].shape[-2:])  # → [h, w, n, hq, wq]
    return Planes(cells, (rows.start, columns.start), tuple(grid), x.new_zeros(len(query)))


def _extent(used: Tensor) -> slice:
    """From the first to the last True of `used` [n]."""
    where = used.nonzero().flatten().tolist()
    return slice(where[0], where[-1] + 1) if where else slice(0, 0)


def _mix(coarse: Planes, fine: Planes) -> Planes:
    """Bring the coarse level to the fine level's query grid and add."""
    check_support_grids(coarse.grid, fine.grid)
    wide = resize(coarse.cells.flatten(0, 1), fine.cells.shape[-2:])  # [hs, ws, C, hq, wq] → [hs·ws, C, hq', wq']
    return fine._replace(cells=fine.cells + wide.view_as(fine.cells))


def _layers(block: nn.Sequential, x: Planes) -> Planes:
    """Centre-pivot convolution, group normalisation, ReLU; and again."""
    for i in range(0, len(block), 3):
        x = _normalise(block[i + 1], _center_pivot(block[i], x))
    return x


def _center_pivot(layer: nn.Module, x: Planes) -> Planes:
    """A `CenterPivotConv4d` (spec §1.4): x on a plane (hs, ws) → C' channels on a plane (⌈hs/stride⌉, ⌈ws/stride⌉)."""
    stride, grid = layer.stride, tuple(-(-n // layer.stride) for n in x.grid)
    conv, bias = {"weight": layer.conv1.weight, "padding": layer.conv1.padding}, layer.conv1.bias + layer.conv2.bias
    # the convolution is linear: of what lies outside, everywhere, plus of the box's difference from it
    boxed, cells = not x.whole(), x.cells
    if boxed and x.outside.any():
        cells = cells - x.outside[:, None, None]
    kept = cells[tuple(slice(-first % stride, None, stride) for first in x.corner)]
    if boxed:
        y = _of_outside(layer, x, grid)
        top, left = (-(-first // stride) - start for first, start in zip(x.corner, y.corner, strict=True))
        inside = y.cells[top : top + kept.shape[0], left : left + kept.shape[1]]
        inside += F.conv2d(kept.flatten(0, 1), **conv).view_as(inside)
    else:
        y = F.conv2d(kept.flatten(0, 1), bias=bias, **conv)  # [hs'·ws', C', hq, wq]
        y = Planes(y.unflatten(0, grid), (0, 0), grid, bias)
    corner = tuple(first - start * stride for first, start in zip(x.corner, y.corner, strict=True))
    maps = _AddSupportConv.apply(y.cells.flatten(3), cells.flatten(3), layer.conv2.weight, stride, corner)
    return y._replace(cells=maps.unflatten(-1, cells.shape[-2:]))


def _of_outside(layer: nn.Module, x: Planes, grid: tuple[int, int]) -> Planes:
    """`_center_pivot` if x were everywhere as outside its box: all cells, or at least those that the box can change."""
    bias, outside = layer.conv1.bias + layer.conv2.bias, x.outside[None, :, None, None]
    query_grid, pad = x.cells.shape[-2:], layer.conv1.padding
    if outside.any():  # the borders of both planes are felt
        a = F.conv2d(outside.expand(-1, -1, *query_grid), layer.conv1.weight, bias, padding=pad)  # [1, C', hq, wq]
        o = F.conv2d(outside.expand(-1, -1, *x.grid), layer.conv2.weight, None, layer.stride, pad)  # [1, C', hs', ws']
        cells = (o[0].permute(1, 2, 0)[..., None, None] + a[0]).contiguous()  # [hs', ws', C', hq, wq]
        return Planes(cells, (0, 0), grid, bias)
    spans = [slice(0, n) for n in grid]
    if not torch.is_grad_enabled():  # elsewhere only the bias is left, the same in every cell
        spans = [_reached(x.corner[i], x.cells.shape[i], pad[i], layer.stride, grid[i]) for i in (0, 1)]
    cells = bias[:, None, None].expand(*(s.stop - s.start for s in spans), len(bias), *query_grid)
    return Planes(cells.contiguous(), (spans[0].start, spans[1].start), grid, bias)


def _reached(first: int, size: int, padding: int, stride: int, end: int) -> slice:
    """On one axis, the cells of the output whose kernel meets the `size` cells of the input from `first` on."""
    start, last = -(-(first - padding) // stride), (first + size - 1 + padding) // stride
    return slice(max(start, 0), min(last + 1, end))


class _AddSupportConv(torch.autograd.Function):
    """y + the convolution of x over the support plane, written into y: a matrix product per cell and kernel row.

    Differentiated one by one, the products would each give a gradient as large as x; here they add to the same one.
    """

    @staticmethod
    def forward(ctx, y: Tensor, x: Tensor, weight: Tensor, stride: int, corner: tuple[int, int]) -> Tensor:
        """y [hs', ws', C', hq·wq], x [h, w, C, hq·wq] at `corner` of the plane, weight [C', C, k, k] → y."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.corner = stride, corner
        ctx.mark_dirty(y)
        w = _by_rows(weight)
        for cell, r, columns, k, taps in _products(y.shape, x.shape, len(w), stride, corner):
            y[cell].addmm_(w[k, :, taps].flatten(1), x[r, columns].flatten(0, 1))  # [C', taps·C] · [taps·C, hq·wq]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad, w = grad.contiguous(), _by_rows(weight)
        grad_w, grad_x = torch.zeros_like(w), torch.zeros_like(x) if ctx.needs_input_grad[1] else None
        for cell, r, columns, k, taps in _products(grad.shape, x.shape, len(w), ctx.stride, ctx.corner):
            grad_w[k, :, taps].flatten(1).addmm_(grad[cell], x[r, columns].flatten(0, 1).t())
            if grad_x is not None:
                grad_x[r, columns].flatten(0, 1).addmm_(w[k, :, taps].flatten(1).t(), grad[cell])
        return grad, grad_x, grad_w.permute(1, 3, 0, 2), None, None  # grad_w: → [C', C, k, k]


def _by_rows(weight: Tensor) -> Tensor:
    """A kernel [C', C, k, k] → [k, C', k, C]: in its rows the taps and channels lie as in the rows of x."""
    return weight.permute(2, 0, 3, 1).contiguous()


def _products(
    y: Sequence[int], x: Sequence[int], kernel: int, stride: int, corner: tuple[int, int]
) -> Iterator[tuple[tuple[int, int], int, slice, int, slice]]:
    """What the convolution is made of: (cell of y, row of x, columns of x, row of the kernel, columns of the kernel).

    Args:
        y, x: their shapes. Cells outside x are zero and left out.
    """
    for i in range(y[0]):
        top = i * stride - kernel // 2 - corner[0]  # of the kernel, in rows of x
        for j in range(y[1]):
            left = j * stride - kernel // 2 - corner[1]
            columns = slice(max(left, 0), min(left + kernel, x[1]))
            if columns.start < columns.stop:
                for r in range(max(top, 0), min(top + kernel, x[0])):
                    yield (i, j), r, columns, r - top, slice(columns.start - left, columns.stop - left)


def _normalise(norm: nn.GroupNorm, x: Planes) -> Planes:
    """Group normalisation and ReLU; without gradients, in place."""
    y, groups = x.cells.flatten(3).flatten(0, 1), norm.num_groups  # [h·w, C, hq·wq]
    if torch.is_grad_enabled():
        y = norm(y.transpose(0, 1)[None])[0].relu()  # [C, hs·ws, hq·wq]
        return x._replace(cells=y.transpose(0, 1).contiguous().view_as(x.cells))
    # float64: the variance is a difference
    away, outside = (x.grid[0] * x.grid[1] - len(y)) * y.shape[-1], x.outside.double()
    total = y.sum(-1).double().sum(0) + away * outside  # [C]
    square = torch.linalg.vector_norm(y, dim=-1).double().square().sum(0) + away * outside.square()
    n = (y.numel() + away * len(outside)) / groups
    mean, mean_square = (t.view(groups, -1).sum(1, keepdim=True) / n for t in (total, square))
    scale = norm.weight.view(groups, -1) / ((mean_square - mean.square()).clamp(min=0) + norm.eps).sqrt()
    shift = (norm.bias.view(groups, -1) - mean * scale).view(-1, 1).to(y.dtype)  # [C, 1]
    scale = scale.view(-1, 1).to(y.dtype)
    y.mul_(scale).add_(shift).relu_()
    return x._replace(outside=(x.outside[:, None] * scale + shift).relu()[:, 0])


def check_support_grids(coarse: Sequence[int], fine: Sequence[int]) -> None:
    """The levels' support planes are added cell by cell once they are squeezed.

    Raises:
        LlafsError: they differ.
    """
    if tuple(coarse) != tuple(fine):
        raise LlafsError(
            f"the support grids of two levels end at {tuple(coarse)} and {tuple(fine)} cells and cannot be added: use "
            "supports whose sides are multiples of 32 px."
        )


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, corners aligned."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)
