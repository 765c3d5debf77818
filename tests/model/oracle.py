"""transformers' Qwen3-VL as the numerical oracle of these tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration

from open4ov.model import Encoded, Processor
from open4ov.sample import Message, assistant, user

Reference = Qwen3VLForConditionalGeneration | Qwen3VLMoeForConditionalGeneration


def reference(directory: Path, dtype: torch.dtype = torch.float32) -> Reference:
    """transformers' model of a directory, dense or with experts."""
    kind = json.loads((directory / "config.json").read_text())["model_type"]
    family = Qwen3VLMoeForConditionalGeneration if kind == "qwen3_vl_moe" else Qwen3VLForConditionalGeneration
    return family.from_pretrained(directory, dtype=dtype).eval()


def inputs(documents: list[Encoded], processor: Processor) -> dict[str, Tensor]:
    """A right-padded batch as transformers takes it, without positions: it works them out itself."""
    longest = max(map(len, documents))
    ids = torch.full((len(documents), longest), processor.pad_id)
    mask = torch.zeros(len(documents), longest, dtype=torch.long)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = document.input_ids
        mask[row, : len(document)] = 1
    batch = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": (ids == processor.image_id).int()}
    grids = torch.cat([d.grids for d in documents])
    if len(grids):
        batch |= {"pixel_values": torch.cat([d.pixels for d in documents]), "image_grid_thw": grids}
    return batch


def noise(width: int, height: int, seed: int) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def conversations(processor: Processor) -> dict[str, list[Encoded]]:
    """The cases of the equality tests: documents of one pack."""

    def encode(*messages: Message, images: tuple[Image.Image, ...] = ()) -> Encoded:
        return processor.encode(list(messages), list(images))

    text = encode(user("How many squares are there?"), assistant("three"))
    square, wide, tall = noise(96, 96, 1), noise(128, 64, 2), noise(32, 96, 3)
    one = encode(user("What colour is the circle?", 1), assistant("red"), images=(square,))
    several = encode(
        user("left", 2),
        assistant("这是什么颜色？"),
        user("and this", 1, first_image=2),
        assistant("blue, yellow"),
        images=(wide, square, tall),
    )
    return {"text": [text], "one image": [one], "several images": [several], "batch": [one, text, several]}
