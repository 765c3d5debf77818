"""What the trainers share: how the optimizers treat words that a batch does not use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import moe_config, tiny_config

from open4ov import training
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, lora


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("build", [training.adamw, training.muon])
def test_words_that_a_batch_does_not_use_stay_where_they_are(tiny_dir: Path, tied: bool, build: Any) -> None:
    model = Qwen3VL(tiny_config(Processor.from_pretrained(tiny_dir), tie=tied))
    words = model.text.embed.weight if model.head is None else model.head.weight
    before = words.detach().clone()
    optimizer = build(model, learning_rate=1e-2)
    for _ in range(5):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
        words.grad = torch.full_like(words, 1e-6)  # what the softmax leaves for a word that is never the target
        words.grad[7] = 1e-3
        optimizer.step()
    moved = (words.detach() - before).abs().mean(-1)
    assert moved[7] > 0.03
    assert moved[8:].max() < 0.002


def test_a_small_eps_moves_them_as_plain_adamw_does(tiny_dir: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    words = model.text.embed.weight
    before = words.detach().clone()
    optimizer = training.adamw(model, learning_rate=1e-2, embedding_eps=1e-8)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-6)
    optimizer.step()
    assert torch.allclose((words.detach() - before).abs(), torch.full_like(words, 1e-2), rtol=0.05)


def test_every_parameter_is_in_one_group_and_frozen_ones_in_none(tiny_dir: Path) -> None:
    model = Qwen3VL(tiny_config(Processor.from_pretrained(tiny_dir), tie=False))
    training.freeze_vision(model)
    for build in (training.adamw, training.muon):
        held = [id(p) for group in build(model, 1e-3).param_groups for p in group["params"]]
        assert len(held) == len(set(held))
        assert set(held) == {id(p) for p in model.parameters() if p.requires_grad}


def test_experts_decay_and_adapters_go_with_muon(tiny_dir: Path) -> None:
    model = Qwen3VL(moe_config(Processor.from_pretrained(tiny_dir)))
    for build in (training.adamw, training.muon):
        decay = {
            id(p): group["weight_decay"]
            for g in [build(model, 1e-3, 0.1)]
            for group in g.param_groups
            for p in group["params"]
        }
        for name, parameter in model.named_parameters():
            wide = any(part in name for part in ("merger", "taps")) and "norm" not in name
            matrix = parameter.ndim > 1 and (name.startswith("text.layers") or wide)
            if matrix and "router" not in name:
                assert decay[id(parameter)] == 0.1, name
            if parameter.ndim == 1 or "embed" in name or "router" in name:
                assert decay[id(parameter)] == 0.0, name
    dense = Qwen3VL.from_pretrained(tiny_dir)
    parameters = lora.add(dense, 2)
    for build in (training.adamw, training.muon):
        assert {id(p) for group in build(dense, 1e-3).param_groups for p in group["params"]} == set(map(id, parameters))


def test_auto_precision_is_bf16_where_that_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [training.kind(choice) for choice in ("bf16", "fp32")] == ["bf16", "fp32"]
    for fast in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda fast=fast: fast)
        assert training.kind("auto", "cpu") == ("bf16" if fast else "fp32")
        assert training.kind("auto", "cuda") == "bf16"
        with training.precision("auto"):
            assert torch.is_autocast_enabled("cpu") is fast


def test_a_card_that_is_not_there_is_said() -> None:
    assert training.device("cpu", "sft.device") == torch.device("cpu")
    if not torch.cuda.is_available():
        assert training.device("auto", "sft.device") == torch.device("cpu")
        with pytest.raises(UserError, match=r"sft\.device: there is no CUDA device"):
            training.device("cuda", "sft.device")
