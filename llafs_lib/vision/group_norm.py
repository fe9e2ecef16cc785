"""Group normalisation for `hsnet_fast.py`: of a plane whose cells outside of a box are one number per channel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class NormaliseAndRectify(torch.autograd.Function):
    """Group normalisation and ReLU of [cells, C, hq·wq], where some cells are one number per channel.

    PyTorch's own function needs all cells, and transposed.
    """

    @staticmethod
    def forward(
        ctx,
        y: Tensor,
        outside: Tensor,
        cells_outside: int,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        eps: float,
        training: bool,
    ) -> tuple[Tensor, Tensor]:
        """y [cells, C, hq·wq] and the value [C] of all `cells_outside` → the same, normalised and rectified."""
        away = cells_outside * y.shape[-1]
        n = (len(y) + cells_outside) * y.shape[-1] * (len(weight) // groups)
        # In float64, because the variance is a small difference of large numbers.
        total = y.sum(-1).double().sum(0) + away * outside.double()  # [C]
        square = torch.linalg.vector_norm(y, dim=-1).double().square().sum(0) + away * outside.double().square()
        mean, mean_square = _over_groups(total, groups) / n, _over_groups(square, groups) / n  # [C]
        slope = ((mean_square - mean.square()).clamp(min=0) + eps).rsqrt()
        scale = weight * slope
        shift = (bias - mean * scale).to(y.dtype)
        scale = scale.to(y.dtype)
        z = torch.mul(y, scale[:, None], out=None if training else y).add_(shift[:, None]).relu_()
        rectified = (outside * scale + shift).relu()
        if training:
            ctx.save_for_backward(y, outside, z, rectified, weight, mean, slope)
            ctx.n, ctx.away, ctx.groups = n, away, groups
        else:
            ctx.mark_dirty(y)
        return z, rectified

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, grad_outside: Tensor) -> tuple[Tensor | None, ...]:
        y, outside, z, rectified, weight, mean, slope = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grad, z, 0)  # the ReLU's
        grad_outside = (grad_outside * (rectified > 0)).double()  # summed over all cells outside
        total = grad.sum(-1).double().sum(0) + grad_outside  # [C], which is also the gradient of the bias
        along = torch.linalg.vecdot(grad, y).double().sum(0) + grad_outside * outside
        grad_weight = slope * (along - mean * total)
        # The mean and the variance of a group depend on all of its values.
        a = weight * slope
        b = -slope.square() * _over_groups(weight * grad_weight, ctx.groups) / ctx.n
        c = -slope * _over_groups(weight * total, ctx.groups) / ctx.n - b * mean
        grad_y = torch.addcmul(c.to(y)[:, None], y, b.to(y)[:, None]).addcmul_(grad, a.to(y)[:, None])
        grad_outside = a * grad_outside + ctx.away * (b * outside + c)
        return grad_y, grad_outside.to(y), None, grad_weight.to(y), total.to(y), None, None, None


def _over_groups(values: Tensor, groups: int) -> Tensor:
    """The sum of its group for each of the values [C]."""
    return values.view(groups, -1).sum(1, keepdim=True).expand(-1, len(values) // groups).flatten()
