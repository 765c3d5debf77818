"""The vision cache: a picture is encoded once, and never seen through weights that are gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from open4ov import training
from open4ov.engine import Engine, Request, VisionCache
from open4ov.engine.vision_cache import digests
from open4ov.model import Encoded, Processor, Qwen3VL, VisionFeatures
from open4ov.model.processing import Visual, visuals
from open4ov.sample import user


@pytest.fixture
def model(tiny_dir: Path) -> Qwen3VL:
    return Qwen3VL.from_pretrained(tiny_dir)


@pytest.fixture
def processor(tiny_dir: Path) -> Processor:
    return Processor.from_pretrained(tiny_dir)


def picture(seed: int, side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def asked(processor: Processor, *images: Image.Image) -> tuple[list[Encoded], list[Visual], list[str]]:
    messages = [user("What?", len(images))]
    documents = [processor.encode(messages, images, generate=True)]
    return documents, visuals(messages, images), digests(messages, images)


def equal(a: VisionFeatures, b: VisionFeatures) -> bool:
    pairs = zip((a.merged, *a.deepstack), (b.merged, *b.deepstack), strict=True)
    return all(x.shape == y.shape and torch.allclose(x, y, atol=1e-6) for x, y in pairs)


def fresh(model: Qwen3VL, documents: list[Encoded]) -> VisionFeatures:
    with torch.no_grad():
        return model.encode_images(documents[0].pixels, documents[0].grids)


def test_a_picture_is_encoded_once(model: Qwen3VL, processor: Processor) -> None:
    cache = VisionCache(model, processor)
    encoded: list[int] = []
    encode = model.encode_images
    model.encode_images = lambda pixels, grids: (encoded.append(len(grids)), encode(pixels, grids))[1]
    a, b = picture(1), picture(2, 96)
    documents, seen, names = asked(processor, a, b, a)
    found = cache.features(documents, seen, names)
    assert encoded == [2]
    assert (cache.statistics.hits, cache.statistics.misses) == (1, 2)
    again = cache.features(*asked(processor, b))
    assert encoded == [2]
    assert equal(again[0], found[1])
    assert equal(found[0], found[2])
    assert equal(VisionFeatures.cat(found), fresh(model, documents))


CHANGES: dict[str, Callable[[Qwen3VL], object]] = {
    "a state dict": lambda m: m.load_state_dict({k: 1.5 * v for k, v in m.state_dict().items()}),
    "a state dict, assigned": lambda m: m.load_state_dict({k: 1.5 * v for k, v in m.state_dict().items()}, assign=True),
    "a frozen tensor written to": lambda m: m.vision.requires_grad_(False).merger.fc2.weight.mul_(1.5),
    "past the version counter": lambda m: m.vision.requires_grad_(False).merger.fc2.weight.data.mul_(1.5),
    "signs turned": lambda m: m.vision.merger.fc2.weight.data.neg_(),
    "rows in another order": lambda m: m.vision.merger.fc2.weight.data.copy_(m.vision.merger.fc2.weight.data.flip(0)),
    "another tower": lambda m: setattr(m, "vision", Qwen3VL(m.config, seed=5).vision),
    "a tensor written to": lambda m: m.vision.merger.fc2.weight.detach().mul_(1.5),
    "a tensor put in place": lambda m: setattr(
        m.vision.merger.fc2.weight, "data", 1.5 * m.vision.merger.fc2.weight.data
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_stale_after_the_weights_change(model: Qwen3VL, processor: Processor, change: str) -> None:
    cache = VisionCache(model, processor)
    documents, seen, names = asked(processor, picture(1))
    before = cache.features(documents, seen, names)[0]
    CHANGES[change](model)
    after = cache.features(documents, seen, names)[0]
    assert not equal(after, before)
    assert equal(after, fresh(model, documents))


@pytest.mark.parametrize("build", [training.adamw, training.muon])
def test_nothing_stale_after_a_step_of_the_optimizer(
    model: Qwen3VL, processor: Processor, build: Callable[[Qwen3VL, float], training.Optimizer]
) -> None:
    cache, optimizer = VisionCache(model, processor), build(model, 0.05)
    documents, seen, names = asked(processor, picture(1))
    before = cache.features(documents, seen, names)[0]
    model.encode_images(documents[0].pixels, documents[0].grids).merged.square().sum().backward()
    optimizer.step()
    after = cache.features(documents, seen, names)[0]
    assert not equal(after, before)
    assert equal(after, fresh(model, documents))


def test_a_frozen_tower_outlives_training_of_the_rest(model: Qwen3VL, processor: Processor) -> None:
    training.freeze_vision(model)
    cache, optimizer = VisionCache(model, processor), training.adamw(model, 0.05)
    documents, seen, names = asked(processor, picture(1))
    cache.features(documents, seen, names)
    model.text.embed.weight.square().sum().backward()
    optimizer.step()
    cache.features(documents, seen, names)
    assert (cache.statistics.hits, cache.statistics.misses) == (1, 1)


def test_what_the_key_holds(model: Qwen3VL, processor: Processor) -> None:
    """The same bytes at another size, by other options or in another type are other features."""
    cache = VisionCache(model, processor)
    documents, seen, names = asked(processor, picture(1))
    plain = cache.features(documents, seen, names)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert cache.features(documents, seen, names)[0].merged.dtype == torch.bfloat16
    brighter = Processor(processor.tokenizer, replace(processor.images, mean=(0.4, 0.4, 0.4)), processor.files)
    cache.processor = brighter
    assert not equal(cache.features(documents, seen, names)[0], plain)
    larger = Processor(processor.tokenizer, replace(brighter.images, min_pixels=128 * 128), processor.files)
    cache.processor = larger
    bigger, _, same_names = asked(larger, picture(1))
    assert same_names == names
    assert len(cache.features(bigger, seen, names)[0].merged) == 16
    assert (cache.statistics.hits, cache.statistics.misses) == (0, 4)
    cache.processor = processor
    assert equal(cache.features(documents, seen, names)[0], plain)
    assert (cache.statistics.hits, cache.statistics.misses) == (1, 4)


def test_the_palette_is_part_of_a_picture(model: Qwen3VL, processor: Processor) -> None:
    red, green = (Image.new("P", (64, 64), 0) for _ in range(2))
    red.putpalette([255, 0, 0])
    green.putpalette([0, 255, 0])
    _, _, names = asked(processor, red, green, red.convert("RGB"))
    assert names[0] == names[2] != names[1]


def test_a_cache_of_another_model_is_refused(model: Qwen3VL, processor: Processor) -> None:
    other = Qwen3VL(model.config, seed=5)
    with pytest.raises(ValueError, match="of another model"):
        Engine(other, processor, vision_cache=VisionCache(model, processor))


def test_a_tower_thawed_trained_and_frozen_between_two_looks(model: Qwen3VL, processor: Processor) -> None:
    training.freeze_vision(model)
    cache = VisionCache(model, processor)
    documents, seen, names = asked(processor, picture(1))
    before = cache.features(documents, seen, names)[0]
    model.vision.requires_grad_(True)
    optimizer = training.adamw(model, 0.05)
    model.encode_images(processor.pixels(seen), documents[0].grids).merged.square().sum().backward()
    optimizer.step()
    training.freeze_vision(model)
    assert not equal(cache.features(documents, seen, names)[0], before)


def test_it_holds_no_more_than_its_limit(model: Qwen3VL, processor: Processor) -> None:
    one = 4 * 4 * 48 * 3  # 64 x 64 pixels: four tokens of 48 numbers, merged and two taps, in float32
    cache = VisionCache(model, processor, limit=2 * one)
    for seed in (1, 2, 1, 3):  # 2 is the oldest when 3 comes
        cache.features(*asked(processor, picture(seed)))
    assert cache.statistics.bytes == 2 * one
    assert cache.statistics.evicted == 1
    hits = cache.statistics.hits
    cache.features(*asked(processor, picture(1)))
    assert cache.statistics.hits == hits + 1
    cache.features(*asked(processor, picture(2)))
    assert cache.statistics.hits == hits + 1
    held = cache._held.values()
    assert all(x.untyped_storage().nbytes() == x.nbytes for f in held for x in (f.merged, *f.deepstack))


def test_more_pictures_than_the_limit_holds_are_still_given(model: Qwen3VL, processor: Processor) -> None:
    cache = VisionCache(model, processor, limit=1)
    documents, seen, names = asked(processor, picture(1), picture(2))
    assert equal(VisionFeatures.cat(cache.features(documents, seen, names)), fresh(model, documents))
    assert cache.statistics.bytes == 0


def test_the_engine_keeps_pictures_from_call_to_call(model: Qwen3VL, processor: Processor) -> None:
    engine = Engine(model, processor)
    request = Request([user("What colour is it?", 1)], [picture(1)], max_tokens=6)
    first = engine.generate([request])[0][0]
    assert engine.generate([request])[0][0].token_ids == first.token_ids
    statistics = engine.vision_cache.statistics
    assert (statistics.hits, statistics.misses) == (0, 1), "the picture was found with its prompt"
    engine.generate([Request([user("How many?", 1)], [picture(1)], max_tokens=1)])
    assert (statistics.hits, statistics.misses) == (1, 1)
    other = Qwen3VL(model.config, seed=9)
    engine.update_weights(other.state_dict())
    assert engine.generate([request])[0][0].token_ids == Engine(other, processor).generate([request])[0][0].token_ids
    assert engine.vision_cache.statistics.misses == 2


def test_features_from_generation_can_be_trained_on(model: Qwen3VL, processor: Processor) -> None:
    cache = VisionCache(model, processor)
    documents, seen, names = asked(processor, picture(1))
    with torch.inference_mode():
        cache.features(documents, seen, names)
    merged = cache.features(documents, seen, names)[0].merged
    assert not merged.requires_grad
    weight = torch.ones(48, requires_grad=True)
    (merged * weight).sum().backward()
    assert weight.grad is not None
