"""Features of pictures: the same to the last bit whatever else was encoded with them, where they may come again."""

from __future__ import annotations

from pathlib import Path

import torch
from online import section, tasks

from open4ov.engine import VisionCache
from open4ov.model import Processor, Qwen3VL
from open4ov.rl.rollout import encoded_prompts
from open4ov.rl.state import held_pictures


def test_what_may_come_again_passes_the_tower_alone(tiny_dir: Path) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)

    def alone(pool: int, replayed: bool = False, **changes: object) -> bool:
        cache = held_pictures(model, processor, section(steps=3, vision_cache_gib=0.5, **changes), pool, replayed)
        assert cache.limit == 2**29
        return cache.alone

    assert not alone(12)
    assert alone(11)
    assert alone(12, replayed=True)
    assert alone(12, oversampling={"enabled": True})
    assert alone(12, rollout={"ahead": True})
    assert not alone(11, freeze_vision=False), "a tower that learns has no features to hold"


def test_alone_is_to_the_last_bit_whoever_is_there(tiny_dir: Path) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    given = [task for task in tasks(6) if task.images]
    passes: list[int] = []
    encode = model.encode_images

    def counted(pixels: torch.Tensor, grids: torch.Tensor) -> object:
        passes.append(len(grids))
        return encode(pixels, grids)

    model.encode_images = counted  # type: ignore[method-assign]
    together = encoded_prompts(processor, given, VisionCache(model, processor, alone=True))
    assert passes == [1, 1], "two pictures, each once"
    cache = VisionCache(model, processor, alone=True)
    for task, (_, features) in zip(reversed(given), reversed(together), strict=True):
        ((_, again),) = encoded_prompts(processor, [task], cache)
        assert features is not None
        assert again is not None
        assert torch.equal(features.merged, again.merged)
        assert all(map(torch.equal, features.deepstack, again.deepstack))
