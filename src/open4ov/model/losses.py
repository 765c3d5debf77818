"""Head and cross-entropy in one: the logits of all targets are never in memory together.

Shapes: N targets, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = {"cpu": 2**22, "cuda": 2**28}
"""Logits of one chunk: on a CPU they stay in its cache; a GPU needs rows enough for full-speed products (1 GiB)."""


def rows_at_once(weight: Tensor) -> int:
    """Targets of one chunk, for a head weight [V, D]."""
    return max(1, LOGITS_AT_ONCE["cpu" if weight.device.type == "cpu" else "cuda"] // len(weight))


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


def score(
    logits: Callable[[Tensor], Tensor], hidden: Tensor, ids: Tensor, temperature: float, rows: int
) -> tuple[Tensor, Tensor]:
    """log p(id) [N] at `temperature`, and the entropy [N] in nats (without gradient) of the distribution it is from.

    `logits` maps hidden [n, D] to [n, V]. It is called for `rows` targets at a time; when that takes several calls,
    the logits are recomputed in the backward pass instead of kept.
    """
    if temperature <= 0:
        raise ValueError(f"a distribution has a temperature above 0, not {temperature}")
    if not len(ids):
        return hidden.sum(-1).float(), hidden.new_zeros(0, dtype=torch.float32)
    recompute = len(ids) > rows and torch.is_grad_enabled()
    parts: list[tuple[Tensor, Tensor]] = []
    for h, i in zip(hidden.split(rows), ids.split(rows), strict=True):
        if recompute:
            parts.append(checkpoint(_score, logits, h, i, temperature, use_reentrant=False))  # pyright: ignore[reportArgumentType]
        else:
            parts.append(_score(logits, h, i, temperature))
    values, entropies = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(entropies)


def _score(
    logits: Callable[[Tensor], Tensor], hidden: Tensor, ids: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    log_p = (logits(hidden).float() / temperature).log_softmax(-1)
    values = log_p.gather(-1, ids[:, None])[:, 0]
    with torch.no_grad():
        detached = log_p.detach()
        return values, -(detached.exp() * detached).sum(-1)


class _NllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
        need_hidden, need_weight, _ = ctx.needs_input_grad
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_grad = torch.empty_like(hidden) if need_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        rows = rows_at_once(weight)
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
