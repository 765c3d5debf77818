"""Packs that the tests of the parallel part compute: pictures, shared beginnings, groups with a shared prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from tiny import moe_config, tiny_config

from open4ov.model import Config, Encoded, Pack, Processor, Qwen3VL, pack
from open4ov.model.sharing import beginning, lay
from open4ov.rl.prefix import SharedPrefix
from open4ov.sample import Message, assistant, user


def noise(width: int, height: int, seed: int) -> Image.Image:
    values = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(values.to(torch.uint8).numpy())


A, B = noise(64, 96, 1), noise(64, 32, 2)


def told(processor: Processor) -> list[Encoded]:
    """Two conversations about A that begin alike, one about A and B, one about B, one without a picture."""
    talks: list[tuple[list[Message], list[Image.Image]]] = [
        ([user("What colour is the circle?", 1), assistant("red")], [A]),
        ([user("What squares are there?", 1), assistant("one two three left right")], [A]),
        ([user("How many squares are there?", 2), assistant("three")], [A, B]),
        ([user("left", 1), assistant("right above")], [B]),
        ([user("1 + 1 ="), assistant("2")], []),
    ]
    return [processor.encode(messages, images) for messages, images in talks]


def plain_pack(processor: Processor) -> Pack:
    return pack(told(processor))


def shared_pack(processor: Processor) -> Pack:
    """The same documents; the two that begin alike share their beginning."""
    documents, names = told(processor), [["a"], ["a"], ["a", "b"], ["b"], []]
    token = processor.special["<|image_pad|>"]
    found = [beginning(d, d.input_ids == token, n, 2) for d, n in zip(documents, names, strict=True)]
    laid, _ = lay(documents, found)
    assert laid.prefixes, "two conversations begin alike"
    return laid


def grouped_pack(processor: Processor, model: Qwen3VL) -> SharedPrefix:
    """RL's: two prompts, one with a picture, and responses to each."""
    prompts = [
        processor.encode([user("What colour is the circle?", 1)], [A], generate=True),
        processor.encode([user("1 + 1 =")], [], generate=True),
    ]
    texts = [["red", "blue and so on", "7"], ["2", "left right above"]]
    responses = [[processor.tokenize(text) for text in group] for group in texts]
    with torch.no_grad():
        vision = model.encode_images(prompts[0].pixels, prompts[0].grids)
    bare = [replace(prompts[0], pixels=prompts[0].pixels[:0]), prompts[1]]
    shared = SharedPrefix.build([(bare[0], vision), (bare[1], None)], responses)
    places = model.visual_places(shared.pack.input_ids[: shared.prompt_tokens])
    return replace(shared, pack=replace(shared.pack, places=places))


def config_of(processor: Processor, kind: str) -> Config:
    """`dense`, `untied`, `biased` (attention), `experts`; sizes that two and four ranks divide."""
    if kind == "biased":
        config = tiny_config(processor)
        return replace(config, text=replace(config.text, attention_bias=True))
    if kind == "experts":
        return moe_config(processor, num_experts=4, router_aux_loss_coef=0.05)
    return tiny_config(processor, tie=kind != "untied")


def model_of(processor: Processor, kind: str) -> Qwen3VL:
    return Qwen3VL(config_of(processor, kind), seed=3)


def processor_of(directory: Path | str) -> Processor:
    return Processor.from_pretrained(directory)
