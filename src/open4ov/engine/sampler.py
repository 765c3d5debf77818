"""From logits to tokens: penalties, grammars, temperature, top-k, top-p, min-p, and noise of a request's own.

Each completion owns a stream of uniforms seeded by (request seed, completion index); step t uses its t-th number and
inverts the cumulative distribution with it. What a completion samples therefore never depends on its neighbours.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from open4ov.engine.grammar import Progress, allowed


@dataclass
class Sampling:
    """How one row samples. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 keep the whole vocabulary.

    Penalties look at `tokens`, the row's own list as it grows, of which the first `prompt` are given: `repetition`
    divides the logits of all tokens there (multiplies negative ones), `presence` is taken off those sampled once or
    more, `frequency` once for each time.
    """

    temperature: float
    top_k: int
    top_p: float
    seed: int
    index: int
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    top: int = 0
    """So many of the likeliest tokens are given beside the one that is taken"""
    tokens: list[int] = field(default_factory=list)
    prompt: int = 0
    grammar: Progress | None = None
    noise: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.noise = random.Random(f"open4ov.sampler/{self.seed}/{self.index}")

    @property
    def penalised(self) -> bool:
        return self.repetition != 1.0 or self.presence != 0.0 or self.frequency != 0.0


@dataclass(frozen=True)
class Drawn:
    """One token for each row: `tokens` [B] (int64), and `log_probs` [B] (float32) of the model's own distribution at
    the row's temperature (1 for greedy rows), before anything is taken off it. `top[b]`: the likeliest (token, log
    p) of that distribution, as many as row b asked for."""

    tokens: Tensor
    log_probs: Tensor
    top: list[list[tuple[int, float]]]


@torch.inference_mode()
def sample(logits: Tensor, rows: Sequence[Sampling]) -> Drawn:
    """logits [B, V], any float dtype, computed on in float32."""
    logits = logits.float()
    temperature = torch.tensor([row.temperature or 1.0 for row in rows], device=logits.device)
    own = torch.log_softmax(logits / temperature[:, None], dim=-1)
    log_probs = own
    if any(row.penalised or row.grammar for row in rows):
        logits = _penalised(logits, rows)
        _forbid(logits, rows)
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
    return Drawn(tokens, own.gather(-1, tokens[:, None]).squeeze(-1), _top(own, rows))


def _top(log_probs: Tensor, rows: Sequence[Sampling]) -> list[list[tuple[int, float]]]:
    most = max((row.top for row in rows), default=0)
    if not most:
        return [[] for _ in rows]
    values, tokens = log_probs.topk(min(most, log_probs.shape[-1]), dim=-1)
    pairs = zip(tokens.tolist(), values.tolist(), strict=True)
    return [list(zip(t[: row.top], v[: row.top], strict=True)) for row, (t, v) in zip(rows, pairs, strict=True)]


def _penalised(logits: Tensor, rows: Sequence[Sampling]) -> Tensor:
    """The logits [B, V] less what the rows' penalties take off."""
    out = logits.clone()
    for place, row in enumerate(rows):
        if not row.penalised:
            continue
        if row.repetition != 1.0:
            seen = torch.tensor(sorted(set(row.tokens)), dtype=torch.long, device=logits.device)
            old = out[place, seen]
            out[place, seen] = torch.where(old > 0, old / row.repetition, old * row.repetition)
        counts = Counter(row.tokens[row.prompt :])
        if counts and (row.presence or row.frequency):
            given = torch.tensor(list(counts), device=logits.device)
            times = torch.tensor(list(counts.values()), device=logits.device)
            out[place, given] -= row.presence + row.frequency * times
    return out


def _forbid(logits: Tensor, rows: Sequence[Sampling]) -> None:
    """Sets to minus infinity what the rows' grammars do not allow, in place."""
    bound = [place for place, row in enumerate(rows) if row.grammar is not None]
    if bound:
        mask = allowed([row.grammar for row in rows if row.grammar is not None], logits.shape[-1])
        picked = torch.tensor(bound, device=logits.device)
        logits[picked] = logits[picked].masked_fill(~mask.to(logits.device), -torch.inf)


def _truncate(probs: Tensor, rows: Sequence[Sampling]) -> Tensor:
    """Zero what top-k, top-p and min-p leave out. probs [B, V]; top-p keeps the smallest head whose mass reaches p,
    min-p what is at least that share as likely as the likeliest."""
    if any(row.min_p for row in rows):
        share = torch.tensor([row.min_p for row in rows], dtype=probs.dtype, device=probs.device)
        probs = probs.masked_fill(probs < share[:, None] * probs.amax(-1, keepdim=True), 0.0)
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
