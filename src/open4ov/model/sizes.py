"""The shapes of the released Qwen3-VL models, for planning, counting and tests without their files."""

from __future__ import annotations

from typing import Any

from .config import Config, TextConfig, VisionConfig

_TOWERS: dict[str, dict[str, Any]] = {
    "small": {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": (5, 11, 17)},
    "large": {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": (8, 16, 24)},
}


def _size(
    tower: str,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    feed_forward: int,
    tied: bool = False,
    experts: int = 0,
) -> Config:
    """`feed_forward` is the width of an expert when there are `experts` (the 8 best of which a token uses)."""
    mixture: dict[str, Any] = {"num_experts": experts, "num_experts_per_tok": 8, "moe_intermediate_size": feed_forward}
    text = TextConfig(
        vocab_size=151_936,
        hidden_size=hidden,
        intermediate_size=3 * hidden if experts else feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        **(mixture if experts else {}),
    )
    return Config(
        text=text,
        vision=VisionConfig(num_heads=16, out_hidden_size=hidden, **_TOWERS[tower]),
        image_token_id=151_655,
        video_token_id=151_656,
        vision_start_token_id=151_652,
        vision_end_token_id=151_653,
        tie_word_embeddings=tied,
    )


SIZES: dict[str, Config] = {
    "2B": _size("small", 2048, 28, 16, 8, 6144, tied=True),
    "4B": _size("small", 2560, 36, 32, 8, 9728, tied=True),
    "8B": _size("large", 4096, 36, 32, 8, 12288),
    "32B": _size("large", 5120, 64, 64, 8, 25600),
    "30B-A3B": _size("large", 2048, 48, 32, 4, 768, experts=128),
    "235B-A22B": _size("large", 4096, 94, 64, 4, 1536, experts=128),
}
"""Name -> configuration. The width of dense layers in the sparse models is unused: all their layers have experts."""
