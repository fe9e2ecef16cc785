"""HSNet's correlation and learner on the CPU, equal to the plain form in `hsnet.py` and faster.

In the plain form the query plane is outside and the support plane inside, so half of its 4-D convolutions copy the
whole tensor twice. The fast form works on one pair of images at a time, support plane outside: x [hs, ws, C, hq, wq].

- The convolution over the query plane is an ordinary 2-D convolution of hs·ws maps, and a stride is a slice.
- The convolution over the support plane is a sum of matrix products. In one support row the cells under the kernel are
  adjacent: k·C rows of hq·wq numbers. The products read them without a copy, and padding is not computed.
- Both convolutions multiply the cell in the middle, the pivot. The first does it for both, with the sum of the weights.
- Where the support's mask is zero, so is the correlation. Only the mask's cells are computed, and only its bounding box
  is stored. After the first layer each channel is one number outside of the box, and is computed once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llafs_lib.errors import LlafsError
from llafs_lib.vision.backbone import resize
from llafs_lib.vision.group_norm import NormaliseAndRectify

EPS = 1e-5
CELLS_AT_ONCE = 512  # support cells in one matrix product: with fewer the processor waits, more do not fit its cache


class Pairs(NamedTuple):
    """Images for an `HSNetLearner` to compare. No gradient flows into the taps.

    query, support: taps, shallow to deep, each [B, C, h, w]; mask: the supports' foreground, [B, H, W], 0 or 1;
    levels: how many taps belong to strides 8, 16 and 32.
    """

    query: Sequence[Tensor]
    support: Sequence[Tensor]
    mask: Tensor
    levels: tuple[int, int, int]


def squeeze(learner: nn.Module, pairs: Pairs) -> Tensor:
    """Correlation, encoder and mixing of an `HSNetLearner` → [B, 128, hq, wq] of the finest level.

    All is computed with the learner's own precision. Autocast does not reach it: its operations write into tensors that
    are there already, and a CPU would gain nothing.
    """
    with torch.autocast("cpu", enabled=False):
        like = next(learner.parameters())
        query, support = ([t.to(like.dtype) for t in taps] for taps in (pairs.query, pairs.support))
        pairs = pairs._replace(query=query, support=support)
        return torch.stack([_squeeze_one(learner, pairs, b) for b in range(len(pairs.mask))])


def _squeeze_one(learner: nn.Module, pairs: Pairs, b: int) -> Tensor:
    shallow, middle, _ = pairs.levels
    stride8, stride16, stride32 = slice(shallow), slice(shallow, shallow + middle), slice(shallow + middle, None)

    def encode(block: nn.Sequential, taps: slice) -> Planes:
        x = correlate([q[b] for q in pairs.query[taps]], [s[b] for s in pairs.support[taps]], pairs.mask[b])
        return _layers(block, x).spread()

    x = _mix(encode(learner.encoder_layer4, stride32), encode(learner.encoder_layer3, stride16))
    x = _mix(_layers(learner.encoder_layer4to3, x), encode(learner.encoder_layer2, stride8))
    return _layers(learner.encoder_layer3to2, x).cells.mean(dim=(0, 1))  # [hs, ws, 128, hq, wq] → [128, hq, wq]


class Planes(NamedTuple):
    """Query maps at the cells of a support plane. Outside of a box each channel is one number.

    cells: [h, w, C, hq, wq], those in the box; corner: the box's first row and column; grid: the plane's (hs, ws);
    outside: [C].
    """

    cells: Tensor
    corner: tuple[int, int]
    grid: tuple[int, int]
    outside: Tensor

    def whole(self) -> bool:
        return tuple(self.cells.shape[:2]) == tuple(self.grid)

    def spread(self) -> Planes:
        """The same maps, with the whole plane as the box."""
        if self.whole():
            return self
        (top, left), (h, w) = self.corner, self.cells.shape[:2]
        cells = self.outside[:, None, None].expand(*self.grid, *self.cells.shape[2:]).clone()
        cells[top : top + h, left : left + w] = self.cells
        return self._replace(cells=cells, corner=(0, 0))


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
    weight = small[rows, columns].flatten()  # [h, w] → [h·w]
    seen, unseen = weight.nonzero()[:, 0], (weight == 0).nonzero()[:, 0]
    positions = query[0][0].numel()  # hq·wq
    x = small.new_empty(len(weight), len(query), positions).index_fill_(0, unseen, 0)  # [h·w, n, hq·wq]
    part = small.new_empty(min(CELLS_AT_ONCE, len(seen)), positions)
    for n, (q, s) in enumerate(zip(query, support, strict=True)):
        q, s = q.flatten(1), s.permute(1, 2, 0)[rows, columns].flatten(0, 1)[seen]  # [C, hq·wq], [seen, C]
        s = s * weight[seen, None]
        units, lengths = s / (s.norm(dim=1, keepdim=True) + EPS), q.norm(dim=0) + EPS
        for cells, some in zip(seen.split(CELLS_AT_ONCE), units.split(CELLS_AT_ONCE), strict=True):
            x[cells, n] = torch.mm(some, q, out=part[: len(cells)]).clamp_(min=0).div_(lengths)
    box = rows.stop - rows.start, columns.stop - columns.start
    cells = x.view(*box, len(query), *query[0].shape[-2:])  # → [h, w, n, hq, wq]
    return Planes(cells, (rows.start, columns.start), tuple(grid), x.new_zeros(len(query)))


def _extent(used: Tensor) -> slice:
    """From the first to the last True of `used` [n]."""
    where = used.nonzero().flatten().tolist()
    return slice(where[0], where[-1] + 1) if where else slice(0, 0)


def _mix(coarse: Planes, fine: Planes) -> Planes:
    """Bring the coarse level to the fine level's query grid and add."""
    check_support_grids(coarse.grid, fine.grid)
    # A bilinear resize is a matrix product for the rows and one for the columns: twice as fast, with its gradient.
    (h, w), (tall, wide) = coarse.cells.shape[-2:], fine.cells.shape[-2:]
    rows, columns = _interpolation(h, tall, coarse.cells), _interpolation(w, wide, coarse.cells)
    return fine._replace(cells=fine.cells + rows @ (coarse.cells @ columns.T))


def _interpolation(n: int, m: int, like: Tensor) -> Tensor:
    """The matrix [m, n] that takes n numbers to m by linear interpolation, with the ends aligned."""
    return F.interpolate(torch.eye(n).to(like)[None], m, mode="linear", align_corners=True)[0].T


def _layers(block: nn.Sequential, x: Planes) -> Planes:
    """The layers of a block: centre-pivot convolution, group normalisation and ReLU, several times."""
    for i in range(0, len(block), 3):
        layer, norm = block[i], block[i + 1]
        x = _normalise(norm, _center_pivot(layer, x))
    return x


def _center_pivot(layer: nn.Module, x: Planes) -> Planes:
    """A `CenterPivotConv4d` (spec §1.4): x on a plane (hs, ws) → C' channels on a plane (⌈hs/stride⌉, ⌈ws/stride⌉)."""
    stride, grid = layer.stride, tuple(-(-n // layer.stride) for n in x.grid)
    bias, cells = layer.conv1.bias + layer.conv2.bias, x.cells
    # The convolution is linear: convolve the outside's value, everywhere, and add that of the box's difference from it.
    if not x.whole() and x.outside.any():
        cells = cells - x.outside[:, None, None]
    kept = cells[tuple(slice(-first % stride, None, stride) for first in x.corner)]
    maps = F.conv2d(kept.flatten(0, 1), _with_pivot(layer), bias if x.whole() else None, padding="same")
    if x.whole():
        y, start, box, maps = maps, (0, 0), grid, None  # so the maps need not be added any more
    else:
        y, start = _of_outside(layer, x, grid, bias)
        box, maps = y.shape[:2], maps.unflatten(0, kept.shape[:2]).flatten(3)
    at = tuple(-(-first // stride) - begin for first, begin in zip(x.corner, start, strict=True))
    corner = tuple(first - begin * stride for first, begin in zip(x.corner, start, strict=True))
    sums = _AddConvolutions.apply(y, box, maps, at, cells.flatten(3), layer.conv2.weight, stride, corner)
    return Planes(sums.view(*box, len(bias), *cells.shape[-2:]), start, grid, bias)


def _with_pivot(layer: nn.Module) -> Tensor:
    """The kernel over the query plane, plus the other kernel's middle: the pivot, which both have in common."""
    middle = layer.conv2.kernel_size[0] // 2
    pivot = layer.conv2.weight[..., middle, middle, None, None]  # [C', C, 1, 1]
    return layer.conv1.weight + F.pad(pivot, [k // 2 for k in layer.conv1.kernel_size for _ in range(2)])


def _of_outside(layer: nn.Module, x: Planes, grid: tuple[int, int], bias: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """`_center_pivot` as if every cell of x had the value outside of its box.

    Returns: [h', w', C', hq, wq] and where on the plane these cells begin: all cells, or only those that the box can
        change, where all others are known to hold nothing but the bias.
    """
    outside, query_grid, pad = x.outside[None, :, None, None], x.cells.shape[-2:], layer.conv1.padding
    if outside.any():  # padding shows at the borders of both planes
        a = F.conv2d(outside.expand(-1, -1, *query_grid), layer.conv1.weight, bias, padding=pad)  # [1, C', hq, wq]
        o = F.conv2d(outside.expand(-1, -1, *x.grid), layer.conv2.weight, None, layer.stride, pad)  # [1, C', hs', ws']
        return o[0].permute(1, 2, 0).contiguous()[..., None, None] + a[0], (0, 0)  # [hs', ws', C', hq, wq]
    # Only the bias is left, and it is the same in every cell.
    rows, columns = (_reached(x.corner[i], x.cells.shape[i], pad[i], layer.stride, grid[i]) for i in (0, 1))
    shape = rows.stop - rows.start, columns.stop - columns.start, len(bias), *query_grid
    return bias[:, None, None].expand(shape).clone(), (rows.start, columns.start)


def _reached(first: int, size: int, padding: int, stride: int, end: int) -> slice:
    """On one axis: the cells of the output whose kernel meets the `size` cells of the input that begin at `first`."""
    start, last = -(-(first - padding) // stride), (first + size - 1 + padding) // stride
    return slice(max(start, 0), min(last + 1, end))


class _AddConvolutions(torch.autograd.Function):
    """y, plus the maps of the query plane at some of its cells, plus the convolution of x over the support plane.

    All are added into y; the convolution is a matrix product per cell and kernel row. If autograd differentiated the
    additions one by one, each would make a gradient as large as y or x. Here they share one.
    """

    @staticmethod
    def forward(
        ctx,
        y: Tensor,
        box: tuple[int, int],
        maps: Tensor | None,
        at: tuple[int, int],
        x: Tensor,
        weight: Tensor,
        stride: int,
        corner: tuple[int, int],
    ) -> Tensor:
        """Add to y and return it.

        Args:
            y: the cells of `box` (hs', ws') in a row or as a plane, each [C', hq, wq]. It must not be a view, because
                autograd would copy its gradient.
            maps: [h', w', C', hq·wq], added to y from its cell `at` on.
            x: [h, w, C, hq·wq], at `corner` of the plane that the convolution sees.
            weight: [C', C, k, k] of the convolution; its pivot is left out.
        """
        ctx.save_for_backward(x, weight)
        ctx.at = maps is not None and tuple(slice(first, first + n) for first, n in zip(at, maps.shape, strict=False))
        ctx.box, ctx.stride, ctx.corner = box, stride, corner
        ctx.mark_dirty(y)
        sums, w = y.view(*box, len(weight), x.shape[-1]), _by_rows(weight)
        if maps is not None:
            sums[ctx.at].add_(maps)
        for cell, r, columns, k, taps in _products(box, x.shape, len(w), stride, corner):
            sums[cell].addmm_(w[k, :, taps].flatten(1), x[r, columns].flatten(0, 1))  # [C', taps·C] · [taps·C, hq·wq]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad, w = grad.contiguous(), _by_rows(weight)
        sums = grad.view(*ctx.box, len(weight), x.shape[-1])
        grad_w, grad_x = torch.zeros_like(w), torch.zeros_like(x) if ctx.needs_input_grad[4] else None
        for cell, r, columns, k, taps in _products(ctx.box, x.shape, len(w), ctx.stride, ctx.corner):
            grad_w[k, :, taps].flatten(1).addmm_(sums[cell], x[r, columns].flatten(0, 1).t())
            if grad_x is not None:
                grad_x[r, columns].flatten(0, 1).addmm_(w[k, :, taps].flatten(1).t(), sums[cell])
        grad_w = grad_w.permute(1, 3, 0, 2)  # → [C', C, k, k]
        return grad, None, sums[ctx.at] if ctx.at else None, None, grad_x, grad_w, None, None


def _by_rows(weight: Tensor) -> Tensor:
    """A kernel [C', C, k, k] → [k, C', k, C]: its rows have the order of taps and channels that the rows of x have."""
    return weight.permute(2, 0, 3, 1).contiguous()


def _products(
    box: tuple[int, int], x: Sequence[int], kernel: int, stride: int, corner: tuple[int, int]
) -> Iterator[tuple[tuple[int, int], int, slice, int, slice]]:
    """The matrix products that make the convolution.

    Args:
        box: y's (hs', ws').
        x: the shape of x. Cells outside of it are zero and left out, and so is the kernel's pivot.

    Yields: (cell of y, row of x, columns of x, row of the kernel, columns of the kernel).
    """
    middle = kernel // 2
    for i, j, k in itertools.product(range(box[0]), range(box[1]), range(kernel)):
        r, left = i * stride - middle + k - corner[0], j * stride - middle - corner[1]  # of this kernel row, in x
        if 0 <= r < x[0]:
            for first, end in ((0, middle), (middle + 1, kernel)) if k == middle else ((0, kernel),):
                columns = slice(max(left + first, 0), min(left + end, x[1]))
                if columns.start < columns.stop:
                    yield (i, j), r, columns, k, slice(columns.start - left, columns.stop - left)


def _normalise(norm: nn.GroupNorm, x: Planes) -> Planes:
    """Group normalisation and ReLU of the whole plane, in place where no gradients are needed."""
    y, cells_outside = x.cells.flatten(3).flatten(0, 1), x.grid[0] * x.grid[1] - x.cells.shape[0] * x.cells.shape[1]
    parameters = norm.weight, norm.bias, norm.num_groups, norm.eps
    y, outside = NormaliseAndRectify.apply(y, x.outside, cells_outside, *parameters, torch.is_grad_enabled())
    return x._replace(cells=y.view_as(x.cells), outside=outside)


def check_support_grids(coarse: Sequence[int], fine: Sequence[int]) -> None:
    """Squeezed levels are added cell by cell, so their support planes must have one size.

    Raises:
        LlafsError: their sizes differ.
    """
    if tuple(coarse) != tuple(fine):
        raise LlafsError(
            f"the support grids of two levels end at {tuple(coarse)} and {tuple(fine)} cells and cannot be added: use "
            "supports whose sides are multiples of 32 px."
        )
