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
    _check(temperature)
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


def score_by(weight: Tensor, hidden: Tensor, ids: Tensor, temperature: float, keep: int) -> tuple[Tensor, Tensor]:
    """As `score`, for a head that is a weight [V, D] and nothing else; chunk by chunk, so that what lies between logits
    and result stays in the cache. Up to `keep` logits are kept for the gradient; more are computed again there."""
    _check(temperature)
    if not len(ids):
        return hidden.sum(-1).float(), hidden.new_zeros(0, dtype=torch.float32)
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    kept = wanted and len(ids) * len(weight) <= keep
    with torch.autocast(kind, enabled=False):
        values, entropies = _Score.apply(hidden.to(dtype), weight.to(dtype), ids, temperature, kept)  # pyright: ignore[reportGeneralTypeIssues]
    return values, entropies


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float, kept: bool
    ) -> tuple[Tensor, Tensor]:
        count, rows = len(ids), rows_at_once(weight)
        logits_of = hidden.new_empty(count if kept else min(rows, count), len(weight))
        scratch = hidden.new_empty(min(rows, count), len(weight), dtype=torch.float32)
        totals, values, entropies = (hidden.new_empty(count, dtype=torch.float32) for _ in range(3))
        for start in range(0, count, rows):
            here = slice(start, start + rows)
            place = logits_of[here] if kept else logits_of[: len(ids[here])]
            logits = torch.mm(hidden[here], weight.T, out=place).float()
            if temperature != 1:
                logits = logits / temperature
            largest = logits.amax(-1, keepdim=True)
            weights = torch.sub(logits, largest, out=scratch[: len(logits)]).exp_()
            sums = weights.sum(-1)
            torch.add(sums.log(), largest[:, 0], out=totals[here])
            torch.sub(logits.gather(1, ids[here, None])[:, 0], totals[here], out=values[here])
            torch.sub(totals[here], weights.mul_(logits).sum(-1) / sums, out=entropies[here])
        ctx.save_for_backward(hidden, weight, ids, totals, *([logits_of] if kept else []))
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropies)
        return values, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, ids, totals, *kept = ctx.saved_tensors
        need_hidden, need_weight, *_ = ctx.needs_input_grad
        up, rows = (gradients[0] / ctx.temperature)[:, None], rows_at_once(weight)
        hidden_grad = torch.empty_like(hidden) if need_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        scratch = hidden.new_empty(min(rows, len(ids)), len(weight), dtype=torch.float32)
        for start in range(0, len(ids), rows):
            here = slice(start, start + rows)
            logits = (kept[0][here] if kept else torch.mm(hidden[here], weight.T)).float()
            if ctx.temperature != 1:
                logits = logits / ctx.temperature
            weights = torch.sub(logits, totals[here, None], out=scratch[: len(logits)]).exp_().mul_(-up[here])
            gradient = weights.scatter_add_(1, ids[here, None], up[here]).to(weight.dtype)
            if hidden_grad is not None:
                torch.mm(gradient, weight, out=hidden_grad[here])
            if weight_grad is not None:
                weight_grad += gradient.T @ hidden[here]
        return hidden_grad, None if weight_grad is None else weight_grad.to(weight.dtype), None, None, None


def _check(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"a distribution has a temperature above 0, not {temperature}")


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
