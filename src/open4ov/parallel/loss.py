"""Cross-entropy, log-probabilities and entropies where each rank of `tp` has some words of the head.

As `model/losses.py`: chunk by chunk, so that the logits of all targets are never in memory together, the softmax in
float32. Of each row the ranks tell one another the largest logit, the sums and the target's logit; logits never travel.
Every rank gets the same values. The gradient of the hidden states is the share of a rank's own words.

Shapes: N targets, n of a chunk, D hidden, V words of this rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from open4ov.model import losses, qwen3_vl

from .layout import Axes


@dataclass(frozen=True)
class Words:
    """Which words of the vocabulary a rank has: those from `first` on, `most` at most."""

    first: int
    most: int
    group: ProcessGroup | None

    @staticmethod
    def of(vocabulary: int, axes: Axes) -> Words:
        """As DTensor cuts: each rank has the quotient rounded up, the last one what is left."""
        most = -(-vocabulary // axes.size("tp"))
        return Words(axes.rank("tp") * most, most, axes.group("tp"))

    def rows(self, device: torch.device) -> int:
        """Targets of one chunk; the same on all ranks, which meet at each."""
        return max(1, losses.LOGITS_AT_ONCE["cpu" if device.type == "cpu" else "cuda"] // self.most)

    def own(self, ids: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Bool [n], which ids are among the `count` words here, and Long [n, 1], their place (0 for others)."""
        here = (ids >= self.first) & (ids < self.first + count)
        return here, torch.where(here, ids - self.first, 0)[:, None]


def nll_sum(hidden: Tensor, weight: Tensor, ids: Tensor, words: Words) -> Tensor:
    """Sum over targets of -log softmax(hidden @ weight.T)[id] in nats over all ranks' words; a float32 scalar.

    hidden [N, D] (the same on every rank), weight [V, D], ids Long [N]. The gradient is computed with the value.
    """
    if words.group is None:
        return losses.nll_sum(hidden, weight, ids)
    kind, dtype = _kind(hidden)
    with torch.autocast(kind, enabled=False):
        total: Tensor = _NllSum.apply(hidden.to(dtype), weight.to(dtype), ids, words)  # pyright: ignore[reportAssignmentType]
    return total


def score(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float, words: Words) -> tuple[Tensor, Tensor]:
    """log p(id) [N] at `temperature`, and the entropy [N] in nats (without gradient) of the distribution it is from.
    The logits are computed again in the backward pass."""
    if words.group is None:
        return losses.score_by(weight, hidden, ids, temperature, keep=qwen3_vl.LOGITS_AT_ONCE)
    if temperature <= 0:
        raise ValueError(f"a distribution has a temperature above 0, not {temperature}")
    kind, dtype = _kind(hidden)
    with torch.autocast(kind, enabled=False):
        values, entropies = _Score.apply(hidden.to(dtype), weight.to(dtype), ids, temperature, words)  # pyright: ignore[reportGeneralTypeIssues]
    return values, entropies


def _kind(hidden: Tensor) -> tuple[str, torch.dtype]:
    kind = hidden.device.type
    return kind, torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


@dataclass
class _Softmax:
    """One chunk of logits [n, V]. All but `weights` is of all ranks' words."""

    weights: Tensor  # [n, V] exponentials of what the logits are below the largest; their sum is `sums`
    sums: Tensor  # [n]
    log_p: Tensor  # [n] of the targets
    entropies: Tensor  # [n]

    @staticmethod
    def of(logits: Tensor, ids: Tensor, words: Words) -> _Softmax:
        largest = logits.amax(-1)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=words.group)
        below = logits.sub_(largest[:, None])
        here, place = words.own(ids, logits.shape[1])
        wanted = torch.where(here, below.gather(1, place)[:, 0], 0.0)
        weights = below.exp()
        sums, wanted, mean = all_ranks = torch.stack((weights.sum(-1), wanted, below.mul_(weights).sum(-1)))
        dist.all_reduce(all_ranks, group=words.group)
        total = sums.log()
        return _Softmax(weights, sums, wanted - total, total - mean / sums)

    def less_one_hot(self, ids: Tensor, words: Words, scale: Tensor) -> Tensor:
        """(probabilities - one-hot of the targets) * scale [n], of this rank's words: [n, V]. Overwrites `weights`."""
        here, place = words.own(ids, self.weights.shape[1])
        scaled = self.weights.mul_((scale / self.sums)[:, None])
        return scaled.scatter_add_(1, place, torch.where(here, -scale, 0.0)[:, None])


class _NllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor, words: Words) -> Tensor:
        need_hidden, need_weight, *_ = ctx.needs_input_grad
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_grad = torch.empty_like(hidden) if need_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        rows = words.rows(weight.device)
        for start in range(0, len(ids), rows):
            here = slice(start, start + rows)
            part, picked = hidden[here], ids[here]
            found = _Softmax.of(torch.mm(part, weight.T).float(), picked, words)
            total -= found.log_p.sum()
            if not (need_hidden or need_weight):
                continue
            gradient = found.less_one_hot(picked, words, torch.ones_like(found.sums)).to(weight.dtype)
            if hidden_grad is not None:
                torch.mm(gradient, weight, out=hidden_grad[here])
            if weight_grad is not None:
                weight_grad += gradient.T @ part
        ctx.save_for_backward(*(g for g in (hidden_grad, weight_grad) if g is not None))
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        saved = list(ctx.saved_tensors)
        need_hidden, need_weight, *_ = ctx.needs_input_grad
        hidden_grad = saved.pop(0) * gradients[0].to(ctx.dtype) if need_hidden else None
        weight_grad = (saved.pop(0) * gradients[0]).to(ctx.dtype) if need_weight else None
        return hidden_grad, weight_grad, None, None


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float, words: Words
    ) -> tuple[Tensor, Tensor]:
        values, entropies = (hidden.new_empty(len(ids), dtype=torch.float32) for _ in range(2))
        rows = words.rows(weight.device)
        for start in range(0, len(ids), rows):
            here = slice(start, start + rows)
            logits = torch.mm(hidden[here], weight.T).float() / temperature
            found = _Softmax.of(logits, ids[here], words)
            values[here], entropies[here] = found.log_p, found.entropies
        ctx.save_for_backward(hidden, weight, ids)
        ctx.temperature, ctx.words = temperature, words
        ctx.mark_non_differentiable(entropies)
        return values, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, ids = ctx.saved_tensors
        need_hidden, need_weight, *_ = ctx.needs_input_grad
        up, words, rows = gradients[0] / ctx.temperature, ctx.words, ctx.words.rows(weight.device)
        hidden_grad = torch.empty_like(hidden) if need_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        for start in range(0, len(ids), rows):
            here = slice(start, start + rows)
            logits = torch.mm(hidden[here], weight.T).float() / ctx.temperature
            found = _Softmax.of(logits, ids[here], words)
            gradient = found.less_one_hot(ids[here], words, -up[here]).to(weight.dtype)
            if hidden_grad is not None:
                torch.mm(gradient, weight, out=hidden_grad[here])
            if weight_grad is not None:
                weight_grad += gradient.T @ hidden[here]
        return hidden_grad, None if weight_grad is None else weight_grad.to(weight.dtype), None, None, None
