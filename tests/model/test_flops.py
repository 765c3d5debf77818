"""Operations counted from the configuration against PyTorch's own counter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import conversations
from tiny import moe_config, tiny_config
from torch.utils.flop_counter import FlopCounterMode

from open4ov.model import Processor, Qwen3VL, pack
from open4ov.model.flops import Flops, count, shared_prefix
from open4ov.model.moe import MoE
from open4ov.model.sizes import SIZES


@pytest.mark.parametrize("make", [tiny_config, moe_config], ids=["dense", "experts"])
def test_products_equal_what_pytorch_counts(tiny_dir: Path, make) -> None:
    processor = Processor.from_pretrained(tiny_dir)
    model = Qwen3VL(make(processor), seed=0)
    for module in model.modules():
        if isinstance(module, MoE):
            module.kernel = "loop"  # which the counter sees through
    document = conversations(processor)["several images"][0]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.logits(model.hidden_states(pack([document])))
    counted = counter.get_flop_counts()["Global"]
    products = sum(flops for op, flops in counted.items() if "attention" not in str(op))
    ours = count(model.config, [len(document)], [tuple(grid) for grid in document.grids.tolist()])
    heads, depth = model.config.vision, model.config.vision.depth
    attention = sum(4 * depth * (h * w) ** 2 * heads.hidden_size for _, h, w in document.grids.tolist())
    assert ours.forward - ours.attention - attention == products


def test_causal_attention_is_counted_as_causal() -> None:
    config = SIZES["2B"]
    one, pair = count(config, [1]).attention, count(config, [2]).attention
    assert pair == 3 * one
    assert one == 4 * 28 * 16 * 128
    assert count(config, [100, 200]).attention == count(config, [100]).attention + count(config, [200]).attention


def test_only_the_experts_in_use_count() -> None:
    """30B-A3B: about 3.3 billion parameters a token, of which the experts are 1.8."""
    flops = count(SIZES["30B-A3B"], [1])
    assert flops.experts == 2 * 48 * (128 * 2048 + 8 * 3 * 2048 * 768)
    assert (flops.forward - flops.attention) / 2 == pytest.approx(3.03e9, rel=0.01)


def test_training_counts_three_passes_and_a_frozen_tower_one() -> None:
    flops = Flops(vision=5, language=1, attention=2, experts=3, head=4)
    assert flops.training() == 45
    assert flops.training(frozen_vision=True) == 35
    assert flops.training(cached_vision=True) == 30


def test_a_shared_prompt_is_counted_once() -> None:
    """8 responses to a prompt four times as long: (4 + 1) * 8 / (4 + 8) = 3.3 in the linear part."""
    config = SIZES["2B"]
    apart = shared_prefix(config, 400, [100] * 8, shared=False)
    once = shared_prefix(config, 400, [100] * 8)
    assert apart.language / once.language == pytest.approx(40 / 12)
    assert apart.head == once.head
    assert apart.attention - once.attention == 7 * count(config, [400]).attention
