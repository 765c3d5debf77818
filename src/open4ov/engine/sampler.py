"""From logits to tokens: temperature, top-k, top-p, and noise that belongs to a request, not to a batch.

Each completion owns a stream of uniforms seeded by (request seed, completion index); step t uses its t-th number and
inverts the cumulative distribution with it. What a completion samples therefore never depends on its neighbours.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Sampling:
    """How one row samples. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep the whole vocabulary."""

    temperature: float
    top_k: int
    top_p: float
    seed: int
    index: int
    noise: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.noise = random.Random(f"open4ov.sampler/{self.seed}/{self.index}")


@torch.inference_mode()
def sample(logits: Tensor, rows: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """One token for each row.

    logits [B, V] (any float dtype, computed on in float32). Returns tokens [B] (int64) and log-probs [B] (float32):
    the model's own distribution at the row's temperature (1 for greedy rows), before top-k and top-p cut it.
    """
    logits = logits.float()
    temperature = torch.tensor([row.temperature or 1.0 for row in rows], device=logits.device)
    log_probs = torch.log_softmax(logits / temperature[:, None], dim=-1)
    tokens = logits.argmax(dim=-1)
    random_rows = [index for index, row in enumerate(rows) if row.temperature > 0]
    if random_rows:
        picked = torch.tensor(random_rows, device=logits.device)
        chosen = [rows[index] for index in random_rows]
        uniform = torch.tensor([row.noise.random() for row in chosen], dtype=torch.float64, device=logits.device)
        probs = _truncate(log_probs[picked].exp().double(), chosen)
        cumulative = probs.cumsum(dim=-1)
        target = uniform[:, None] * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
        last_possible = probs.shape[-1] - 1 - (probs > 0).int().flip(-1).argmax(dim=-1)
        tokens[picked] = torch.minimum(drawn, last_possible)
    return tokens, log_probs.gather(-1, tokens[:, None]).squeeze(-1)


def _truncate(probs: Tensor, rows: Sequence[Sampling]) -> Tensor:
    """Zero what top-k and top-p leave out; top-p keeps the smallest head whose mass reaches p. probs [B, V]."""
    if all(row.top_k <= 0 and row.top_p >= 1.0 for row in rows):
        return probs
    vocabulary = probs.shape[-1]
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    top_k = torch.tensor([row.top_k if row.top_k > 0 else vocabulary for row in rows], device=probs.device)
    ordered = ordered.where(torch.arange(vocabulary, device=probs.device) < top_k[:, None], 0.0)
    top_p = torch.tensor([row.top_p for row in rows], dtype=probs.dtype, device=probs.device)
    mass_before = ordered.cumsum(dim=-1) - ordered
    cut = (mass_before >= top_p[:, None] * ordered.sum(dim=-1, keepdim=True)) & (top_p < 1.0)[:, None]
    ordered = ordered.masked_fill(cut, 0.0)
    return torch.zeros_like(probs).scatter(-1, order, ordered)
