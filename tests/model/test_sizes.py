"""Every released size: the names, shapes and number of parameters that transformers has for it, without memory."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from open4ov.model import Config, Qwen3VL
from open4ov.model.checkpoint import hf_name
from open4ov.model.sizes import SIZES

PARAMETERS = {
    "2B": 2_127_532_032,
    "4B": 4_437_815_808,
    "8B": 8_767_123_696,
    "32B": 33_357_390_064,
    "30B-A3B": 31_070_754_032,
    "235B-A22B": 235_670_022_896,
}
"""Totals of the published checkpoints."""


@pytest.mark.parametrize("name", SIZES)
def test_names_shapes_and_counts_equal_transformers(name: str) -> None:
    config = SIZES[name]
    raw = config.to_dict()
    kind, theirs = (
        (Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration)
        if config.text.num_experts
        else (Qwen3VLConfig, Qwen3VLForConditionalGeneration)
    )
    with torch.device("meta"):
        ours, oracle = Qwen3VL(config), theirs(kind(**raw))
    expected = {key: parameter.shape for key, parameter in oracle.named_parameters()}
    found = {hf_name(key): parameter.shape for key, parameter in ours.named_parameters()}
    patch = "model.visual.patch_embed.proj.weight"
    assert found.pop(patch).numel() == expected.pop(patch).numel()
    assert found == expected
    assert sum(parameter.numel() for parameter in ours.parameters()) == PARAMETERS[name]
    assert Config.from_dict(raw) == config
