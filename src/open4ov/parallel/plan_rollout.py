"""How long the responses of an RL step take to generate, on the devices that then train.

A decoding step of many rows reads every weight that some row needs and every row's keys and values: on a GPU memory is
the limit, and below it what the host can launch. `HOST` is measured for this project's engine; a server such as vLLM,
which records its launches, is limited by memory instead.

A step ends with its longest response: whatever else is done, that one takes its tokens' decoding steps. What is more
than the engines hold at once is taken in while others end, in the mean after a mean response's steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from open4ov.model.config import Config

from .plan_hardware import Hardware

BANDWIDTH = 0.5
"""Share of the memory's bandwidth that decoding reaches: assumed"""
HOST = 0.9e-3
"""Seconds of a layer and decoding step that the own engine needs at least: 64 rows at the 2B shape made 2,508 tokens a
second on an H200, 25.5 ms a step of 28 layers (bench/results/2026-11-26-gpu.md)"""


@dataclass(frozen=True)
class Rollouts:
    """Of one optimizer batch. `step`: seconds of one decoding step; `bound`: what limits it."""

    tokens: int
    step: float
    seconds: float
    bound: str

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def rollouts(
    config: Config,
    responses: int,
    prompt: int,
    length: int,
    devices: int,
    hardware: Hardware,
    rows: int,
    own: bool,
    half: bool = False,
    longest: int | None = None,
) -> Rollouts:
    """`responses` of `length` tokens in the mean, and `longest` at most (None: all are alike), to prompts of `prompt`
    tokens, on `devices` engines of one device each, with at most `rows` under way on each. own: this project's engine;
    half: its weights are bf16, as a server's are, and not float32."""
    text, each = config.text, -(-responses // devices)
    waves, rows = -(-each // rows), min(rows, each)
    attention = text.hidden_size * text.head_dim * (2 * text.num_attention_heads + 2 * text.num_key_value_heads)
    weights = float(text.vocab_size * text.hidden_size)
    for layer in range(text.num_hidden_layers):
        weights += attention
        if text.sparse(layer):
            touched = text.num_experts * (1 - (1 - text.num_experts_per_tok / text.num_experts) ** rows)
            weights += touched * 3 * text.hidden_size * text.moe_intermediate_size
        else:
            weights += 3 * text.hidden_size * text.intermediate_size
    cached = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    read = (4 if own and not half else 2) * weights + 2 * rows * (prompt + length / 2) * cached
    memory = read / (hardware.bandwidth * 1e9 * BANDWIDTH)
    host = text.num_hidden_layers * HOST if own else 0.0
    step = max(memory, host)
    steps = (waves - 1) * length + (longest or length)
    return Rollouts(responses * length, step, steps * step, "launches by the host" if host > memory else "memory")
