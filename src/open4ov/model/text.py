"""The decoder: GQA with normalised queries and keys, M-RoPE, SwiGLU or experts, RMSNorm. Packed tokens throughout.

Shapes: T tokens, D hidden, H heads, K key-value heads, d head dim, B documents, L longest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from . import attention
from .config import TextConfig
from .moe import MoE, Routing
from .norm import RMSNorm
from .rope import rotate


class Lying(Protocol):
    """Tokens that lie otherwise than as whole documents end to end (`prefix.Shared` is one), with an attention that
    knows how."""

    @property
    def times(self) -> Tensor:
        """Float [T]: in how many documents each token stands."""
        ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor, kernel: str) -> Tensor:
        """Causal attention inside each document. q [T, H, d], k and v [T, K, d] -> [T, H * d]."""
        ...


Laid = attention.Documents | Lying


class TextAttention(attention.Attention):
    """Grouped-query attention's projections, queries and keys normalised head by head."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        size, bias = config.hidden_size, config.attention_bias
        self.q = nn.Linear(size, config.num_attention_heads * self.head_dim, bias=bias)
        self.k = nn.Linear(size, config.num_key_value_heads * self.head_dim, bias=bias)
        self.v = nn.Linear(size, config.num_key_value_heads * self.head_dim, bias=bias)
        self.o = nn.Linear(config.num_attention_heads * self.head_dim, size, bias=bias)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [T, D] -> q [T, H, d], k [T, K, d] (normalised and turned), v [T, K, d]."""
        q, k, v = (linear(x).unflatten(-1, (-1, self.head_dim)) for linear in (self.q, self.k, self.v))
        return rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin), v


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class DecoderLayer(nn.Module):
    """One decoder layer, the `index`-th. `layer.compile(dynamic=True)` works from outside."""

    def __init__(self, config: TextConfig, index: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = TextAttention(config)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MoE(config) if config.sparse(index) else SwiGLU(config)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        documents: Laid,
        routings: list[Routing] | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """x [T, D], cos and sin [T, d] -> [T, D]; with `rows` (Long [n]) only these tokens' -> [n, D]: all others give
        keys and values, and are spared the rest. Experts see all tokens (their balance is of all)."""
        q, k, v = self.attention.project(self.attention_norm(x), cos, sin)
        times: Tensor | None = None
        if isinstance(documents, attention.Documents):
            seen = attention.attend(q, k, v, documents, causal=True, kernel=self.attention.kernel)
        else:
            times, seen = documents.times, documents.attend(q, k, v, self.attention.kernel)
        if rows is not None and not isinstance(self.mlp, MoE):
            x, seen, rows = x.index_select(0, rows), seen.index_select(0, rows), None
        x = x + self.attention.o(seen)
        x = x + self.feed_forward(x, routings, times)
        return x if rows is None else x.index_select(0, rows)

    def feed_forward(self, x: Tensor, routings: list[Routing] | None = None, times: Tensor | None = None) -> Tensor:
        """What the layer's second half adds to x [T, D]. A layer with experts appends its routing to `routings`, in
        which each token counts `times` [T]."""
        x = self.mlp_norm(x)
        return self.mlp(x, routings, times) if isinstance(self.mlp, MoE) else self.mlp(x)

    def continued(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
        rows: Tensor | None = None,
    ) -> Tensor:
        """As `forward`, with an attention that knows what came before: (q, k, v) -> [T, H * d]."""
        seen = attend(*self.attention.project(self.attention_norm(x), cos, sin))
        if rows is not None:
            x, seen = x.index_select(0, rows), seen.index_select(0, rows)
        x = x + self.attention.o(seen)
        return x + self.feed_forward(x)


class TextModel(nn.Module):
    """Embedding, layers, final norm. The loop over layers is in `qwen3_vl`, where DeepStack adds to the first ones."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
