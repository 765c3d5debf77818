"""Root mean square norm, with a gradient of its own where PyTorch has no fused one (on a CPU, most of its time).

Shapes: [..., D], statistics over the last dim.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, ones


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight; any shape [..., D]. Under autocast the result is of autocast's type, so that
    the products that read it do not each cast it again."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        if kind != "cpu" or torch.compiler.is_compiling():
            return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps).to(dtype)
        normed: Tensor = _RMSNorm.apply(x, self.weight, self.eps, dtype)  # pyright: ignore[reportAssignmentType]
        return normed


class _RMSNorm(torch.autograd.Function):
    """Computed in float32. Keeps its input and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = norm.square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        scale, up = scale.flatten(0, -2), gradients[0].flatten(0, -2)
        unit = x.flatten(0, -2) * scale
        product = up * unit
        mean = torch.mv(product, weight.float()).div_(x.shape[-1])
        of_x = (up * weight.float()).addcmul_(unit, mean[:, None], value=-1).mul_(scale)
        return of_x.view_as(x).to(x.dtype), product.sum(0).to(weight.dtype), None, None
