"""The sparse feed-forward of Qwen3-VL-MoE: every token goes to its k best experts, which are computed in one product.

Shapes: T tokens, D hidden, F width of an expert, E experts, k experts a token, A = T k assignments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import TextConfig


@dataclass(frozen=True)
class Routing:
    """How one layer spread its tokens: `counts` [E] assignments of each expert, `probs` [E] mean router probability
    (with gradient), `entropy` of the router's distribution (mean over tokens, nats, no gradient), and tokens T.

    A token that is there for several documents counts for each of them.
    """

    counts: Tensor
    probs: Tensor
    entropy: Tensor
    tokens: int | Tensor

    def detach(self) -> Routing:
        """The same without gradient."""
        return replace(self, probs=self.probs.detach())

    def balance(self) -> Tensor:
        """The load-balancing loss of this layer, a scalar: E * sum_e (share of tokens sent to e) * (mean probability
        of e). k when the load is even; more when the experts that are likely are also the busy ones (Switch
        Transformer, eq. 4-6). Per layer, so that a pipeline stage can compute its own.
        """
        return len(self.counts) * (self.counts / self.tokens * self.probs).sum()


class MoE(nn.Module):
    """Router and experts. `router` [E, D]; `gate_up` [E, 2F, D] and `down` [E, D, F] hold the experts, gate first."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        experts, size, width = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.top_k, self.normalised = config.num_experts_per_tok, config.norm_topk_prob
        self.router = nn.Parameter(torch.empty(experts, size))
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * width, size))
        self.down = nn.Parameter(torch.empty(experts, size, width))
        self.kernel = "grouped" if _aligned(self.gate_up, self.down) else "loop"

    def forward(self, x: Tensor, routings: list[Routing] | None = None, times: Tensor | None = None) -> Tensor:
        """x [T, D] -> [T, D]. How the tokens were spread is appended to `routings` when it is given: `times` [T] is in
        how many documents each token stands (None: in one)."""
        probs = F.linear(x, self.router).float().softmax(-1)
        weights, chosen = probs.topk(self.top_k, dim=-1)
        if self.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        experts = chosen.flatten()
        counts = torch.bincount(experts, minlength=len(self.router))
        if routings is not None:
            routings.append(_routing(probs, experts, counts, times))
        order = experts.argsort(stable=True)
        token = order // self.top_k
        out = self.products(x[token], counts)
        out = out * weights.to(x.dtype).flatten()[order, None]
        return torch.zeros_like(x).index_add(0, token, out.to(x.dtype))

    def products(self, x: Tensor, counts: Tensor) -> Tensor:
        """SwiGLU of every expert on its own rows: x [A, D] sorted by expert, counts [E] rows of each -> [A, D]."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        gate_up, down = (weight.to(dtype) for weight in self.weights())  # autocast does not know grouped products
        return KERNELS[self.kernel](x, counts, gate_up, down)

    def weights(self) -> tuple[Tensor, Tensor]:
        """`gate_up` and `down` as the products take them."""
        return self.gate_up, self.down


def _routing(probs: Tensor, experts: Tensor, counts: Tensor, times: Tensor | None) -> Routing:
    """probs [T, E], experts [A] chosen, counts [E] of them, times [T]."""
    with torch.no_grad():
        entropy = -torch.xlogy(probs, probs).sum(-1)
    if times is None:
        return Routing(counts.float(), probs.mean(0), entropy.mean(), len(probs))
    total = times.sum()
    spread = torch.zeros_like(counts, dtype=times.dtype)
    spread = spread.index_add(0, experts, times.repeat_interleave(len(experts) // len(times)))
    return Routing(spread, times @ probs / total, times @ entropy / total, total)


def grouped(x: Tensor, counts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """SwiGLU of every expert on its own rows, as two grouped products.

    x [A, D] sorted by expert, counts [E] rows of each expert -> [A, D]. The last two sizes of the weights must be
    multiples of 16 bytes (`MoE.kernel` is `loop` where they are not).
    """
    ends = counts.cumsum(0).to(torch.int32)
    gate, up = F.grouped_mm(x.to(gate_up.dtype), gate_up.transpose(1, 2), offs=ends).chunk(2, dim=-1)
    return F.grouped_mm(F.silu(gate) * up, down.transpose(1, 2), offs=ends)


def loop(x: Tensor, counts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The same by its definition, expert after expert. The reference."""
    rows: Sequence[int] = counts.tolist()
    parts: list[Tensor] = []
    for expert, part in enumerate(x.to(gate_up.dtype).split(list(rows))):
        gate, up = F.linear(part, gate_up[expert]).chunk(2, dim=-1)
        parts.append(F.linear(F.silu(gate) * up, down[expert]))
    return torch.cat(parts)


KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {"grouped": grouped, "loop": loop}
"""How experts are computed, by name: (x [A, D] sorted by expert, counts [E], gate_up, down) -> [A, D]."""


def _aligned(*weights: Tensor) -> bool:
    """Whether grouped products take them, in half precision too: rows of whole 16 bytes."""
    return all(size % 8 == 0 for weight in weights for size in weight.shape[1:])
