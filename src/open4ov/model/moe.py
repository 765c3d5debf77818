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
        probs = self.probabilities(x)
        weights, chosen = self.choose(probs)
        counts = tally(chosen, probs.shape[-1])
        if routings is not None:
            routings.append(self.routing(probs, chosen, counts, times))
        return self.combined(x, weights.to(x.dtype), chosen, counts)

    def probabilities(self, x: Tensor) -> Tensor:
        """The router's, x [T, D] -> float32 [T, E]."""
        return F.linear(x, self.router).float().softmax(-1)

    def choose(self, probs: Tensor) -> tuple[Tensor, Tensor]:
        """probs [T, E] -> the weights [T, k] of each token's experts, and which they are, Long [T, k]."""
        _, chosen = probs.detach().topk(self.top_k, dim=-1)
        return self.weigh(probs, chosen), chosen

    def weigh(self, probs: Tensor, chosen: Tensor) -> Tensor:
        """The weights [T, k] of the chosen experts, Long [T, k]."""
        weights = probs.gather(-1, chosen)
        return weights / weights.sum(-1, keepdim=True) if self.normalised else weights

    def routing(self, probs: Tensor, chosen: Tensor, counts: Tensor, times: Tensor | None) -> Routing:
        """probs [T, E], chosen [T, k] and how often each was, counts [E]; times [T] as `forward` has it."""
        with torch.no_grad():
            entropy = -torch.xlogy(probs, probs).sum(-1)
        if times is None:
            return Routing(counts.float(), probs.mean(0), entropy.mean(), len(probs))
        total = times.sum()
        return Routing(spread(chosen, times, len(counts)), probs.T.mv(times) / total, times.dot(entropy) / total, total)

    def combined(self, x: Tensor, weights: Tensor, chosen: Tensor, counts: Tensor) -> Tensor:
        """What its experts make of each token, weighed: x [T, D], weights and chosen [T, k], counts [E] -> [T, D]."""
        order = chosen.flatten().argsort(stable=True)
        token = order // self.top_k
        out = self.products(x[token], counts)
        out = out * weights.flatten()[order, None]
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


def tally(chosen: Tensor, experts: int) -> Tensor:
    """How often each of E experts was chosen, Long [E]: chosen Long, any shape. As `bincount`, for which the host would
    wait until the GPU is done."""
    flat = chosen.flatten()
    return torch.zeros(experts, dtype=torch.long, device=flat.device).scatter_add_(0, flat, torch.ones_like(flat))


def spread(chosen: Tensor, times: Tensor, experts: int) -> Tensor:
    """How often each of E experts was chosen, [E] of the type of `times`: chosen [T, k], a token counts `times` [T]."""
    counts = torch.zeros(experts, dtype=times.dtype, device=times.device)
    return counts.index_add(0, chosen.flatten(), times.repeat_interleave(chosen.shape[-1]))


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
