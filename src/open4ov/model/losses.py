"""Head and cross-entropy in one: the logits of all targets are never in memory together.

Shapes: N targets, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LOGITS_AT_ONCE = 2**22
"""Logits of one chunk: small enough to stay in a cache, large enough for full-speed products."""


def nll_sum(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    """Sum over targets of -log softmax(hidden @ weight.T)[id] in nats; a float32 scalar.

    hidden [N, D], weight [V, D], ids Long [N]. Products run in autocast's type when autocast is on, the softmax in
    float32. The gradient is computed with the value, chunk by chunk, as softmax minus one-hot.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    with torch.autocast(kind, enabled=False):
        total: Tensor = _NllSum.apply(hidden.to(dtype), weight.to(dtype), ids)  # pyright: ignore[reportAssignmentType]
    return total


class _NllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
        need_hidden, need_weight, _ = ctx.needs_input_grad
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_grad = torch.empty_like(hidden) if need_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        rows = max(1, LOGITS_AT_ONCE // len(weight))
        for start in range(0, len(ids), rows):
            part, picked = hidden[start : start + rows], ids[start : start + rows, None]
            logits = F.linear(part, weight).float()
            largest, wanted = logits.amax(-1, keepdim=True), logits.gather(1, picked)
            weights = logits.sub_(largest).exp_()
            sums = weights.sum(-1, keepdim=True)
            total += (sums.log() + largest - wanted).sum()
            if not (need_hidden or need_weight):
                continue
            gradient = weights.mul_(1 / sums)
            gradient = gradient.scatter_add_(1, picked, torch.full_like(sums, -1.0)).to(weight.dtype)
            if hidden_grad is not None:
                torch.mm(gradient, weight, out=hidden_grad[start : start + rows])
            if weight_grad is not None:
                weight_grad += gradient.T @ part
        ctx.save_for_backward(*(g for g in (hidden_grad, weight_grad) if g is not None))
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        saved = list(ctx.saved_tensors)
        need_hidden, need_weight, _ = ctx.needs_input_grad
        hidden_grad = saved.pop(0) * gradients[0].to(ctx.dtype) if need_hidden else None
        weight_grad = (saved.pop(0) * gradients[0]).to(ctx.dtype) if need_weight else None
        return hidden_grad, weight_grad, None
