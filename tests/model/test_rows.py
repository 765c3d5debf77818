"""Hidden states of some tokens only: the same as picked from all, in value and gradient, whoever the last layer is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracle import conversations
from tiny import moe_config, tiny_config

from open4ov.model import Config, Processor, Qwen3VL, pack


def _config(kind: str, processor: Processor) -> Config:
    if kind == "experts":
        return moe_config(processor)
    config = tiny_config(processor)
    shallow = replace(config.text, num_hidden_layers=2)  # the last layer is one that DeepStack adds to
    return replace(config, text=shallow) if kind == "tapped" else config


@pytest.mark.parametrize("kind", ["dense", "tapped", "experts"])
def test_rows_equal_all_states(tiny_dir: Path, kind: str) -> None:
    processor = Processor.from_pretrained(tiny_dir)
    model = Qwen3VL(_config(kind, processor), seed=3)
    batch = pack(conversations(processor)["batch"])
    rows = batch.predicted - 1
    up = torch.randn(len(rows), model.config.text.hidden_size, generator=torch.Generator().manual_seed(0))
    gradients: list[dict[str, torch.Tensor | None]] = []
    states: list[torch.Tensor] = []
    for some in (None, rows):
        found = model.hidden_states(batch, rows=some)
        found = found[rows] if some is None else found
        found.backward(up)
        states.append(found.detach())
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        model.zero_grad(set_to_none=True)
    assert 0 < len(rows) < len(batch.input_ids)
    torch.testing.assert_close(states[1], states[0], rtol=1e-5, atol=1e-5)
    for name, expected in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
