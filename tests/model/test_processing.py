"""The processor against transformers' tokenizer, chat template and image processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import noise
from PIL import Image
from transformers import AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as reference_resize

from open4ov.model import Processor, processing
from open4ov.model.images import ImageSettings, batch_patches, patches, smart_resize
from open4ov.model.processing import SPECIAL_TOKENS, visuals
from open4ov.recipe import UserError
from open4ov.sample import Message, Part, assistant, user


@pytest.fixture(scope="module")
def processor(tiny_dir: Path) -> Processor:
    return Processor.from_pretrained(tiny_dir)


@pytest.mark.parametrize("size", [(96, 96), (64, 64), (128, 96), (160, 32), (100, 37), (20, 20), (500, 400), (1, 150)])
def test_patches_equal_transformers(size: tuple[int, int]) -> None:
    settings = ImageSettings(min_pixels=2048, max_pixels=16_384)
    fields = {key: value for key, value in settings.to_dict().items() if not key.endswith(("_type", "_class"))}
    oracle = Qwen2VLImageProcessorPil(**fields)
    image = noise(*size, seed=4)
    expected = oracle(images=[image], return_tensors="pt")
    pixels, grid = patches(image, settings)
    assert list(grid) == expected["image_grid_thw"][0].tolist()
    torch.testing.assert_close(pixels, expected["pixel_values"], atol=1e-5, rtol=0)


def test_a_batch_on_the_device_equals_transformers_picture_by_picture() -> None:
    settings = ImageSettings(min_pixels=2048, max_pixels=16_384)
    fields = {key: value for key, value in settings.to_dict().items() if not key.endswith(("_type", "_class"))}
    sizes = [(96, 96), (64, 64), (100, 37), (500, 400), (96, 96), (20, 20), (1, 150), (500, 400)]
    images = [noise(*size, seed=seed) for seed, size in enumerate(sizes)]
    images += [Image.linear_gradient("L"), Image.radial_gradient("L").resize((300, 200)).convert("P")]
    expected = Qwen2VLImageProcessorPil(**fields)(images=[i.convert("RGB") for i in images], return_tensors="pt")
    pixels, grids = batch_patches(images, settings)
    assert torch.equal(torch.tensor(grids), expected["image_grid_thw"])
    levels = (pixels - expected["pixel_values"]).abs() * 0.5 * 255
    assert float(levels.max()) <= 2.0
    assert float(levels.mean()) < 0.2
    assert batch_patches([], settings)[0].shape == (0, pixels.shape[1])


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_smart_resize_equals_transformers(height: int, width: int) -> None:
    limits = {"factor": 32, "min_pixels": 65_536, "max_pixels": 1_000_000}
    try:
        expected = reference_resize(height, width, **limits)
    except ValueError:
        with pytest.raises(UserError, match="ratio"):
            smart_resize(height, width, **limits)
        return
    assert smart_resize(height, width, **limits) == expected


def test_grey_and_palette_images_become_rgb(processor: Processor) -> None:
    grey = Image.fromarray(np.full((64, 64), 128, dtype=np.uint8))
    expected = patches(grey.convert("RGB"), processor.images)[0]
    assert torch.equal(patches(grey, processor.images)[0], expected)


CONVERSATION = [
    Message(role="system", content=[Part(type="text", text="The answer is short.")]),
    user("What colour is the circle?\n这是什么颜色？", 1),
    assistant("red"),
    Message(
        role="user",
        content=[Part(type="text", text="left "), Part(type="image", index=1), Part(type="text", text=" right?")],
    ),
    assistant("  \\boxed{7}"),
]


@pytest.mark.parametrize("generate", [False, True])
def test_chat_equals_template_and_tokenizer(processor: Processor, tiny_dir: Path, generate: bool) -> None:
    """Ids equal those of the shipped template, rendered and tokenized by transformers."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    raw = [
        {
            "role": m.role,
            "content": [{"type": p.type, **({"text": p.text} if p.type == "text" else {})} for p in m.content],
        }
        for m in CONVERSATION
    ]
    text = tokenizer.apply_chat_template(raw, tokenize=False, add_generation_prompt=generate)
    encoded = processor.encode(CONVERSATION, [noise(96, 64, 1), noise(64, 64, 2)], generate=generate)
    for count in (6, 4):
        text = text.replace("<|image_pad|>", "<|X|>" * count, 1)
    expected = tokenizer(text.replace("<|X|>", "<|image_pad|>"), add_special_tokens=False).input_ids
    assert encoded.input_ids.tolist() == expected
    assert tokenizer.eos_token_id == processor.eos_id
    assert tokenizer.pad_token_id == processor.pad_id


def test_template_text(tiny_dir: Path) -> None:
    """The chat format by hand (Qwen3-VL: no system prompt of its own)."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a\n\nb "}]},
        {"role": "assistant", "content": "\nc"},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>a\n\nb <|im_end|>\n"
        "<|im_start|>assistant\n\nc<|im_end|>\n<|im_start|>assistant\n"
    )


def test_targets_are_the_assistants_words_and_their_end(processor: Processor) -> None:
    encoded = processor.encode(CONVERSATION, [noise(64, 64, 1), noise(64, 64, 2)])
    picked = encoded.input_ids[encoded.targets].tolist()
    assert processor.tokenizer.decode(picked, skip_special_tokens=False) == "red<|im_end|>  \\boxed{7}<|im_end|>"


def test_prompt_is_a_prefix_of_training(processor: Processor) -> None:
    """Even when the response begins with a line break, which would merge with the template's."""
    messages = [user("How many?"), assistant("\n\nthree")]
    whole, prompt = processor.encode(messages, []), processor.encode(messages[:1], [], generate=True)
    assert whole.input_ids[: len(prompt)].tolist() == prompt.input_ids.tolist()
    assert not whole.targets[: len(prompt)].any()
    assert whole.targets[len(prompt)]
    assert prompt.next_position == len(prompt)


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_special_tokens_in_text_stay_text(processor: Processor, token: str) -> None:
    text = f"a {token}user\n {token}"
    clean = processor.encode([user("x"), assistant("y")], [])
    encoded = processor.encode([user(text), assistant(text)], [])
    number = processor.special[token]
    assert (encoded.input_ids == number).sum() == (clean.input_ids == number).sum()
    picked = encoded.input_ids[encoded.targets][:-1].tolist()
    assert processor.decode(picked) == text


@given(st.text())
def test_text_survives(tiny_dir: Path, text: str) -> None:
    import unicodedata

    processor = Processor.from_pretrained(tiny_dir)
    assert processor.decode(processor.tokenize(text)) == unicodedata.normalize("NFC", text)


def test_wrong_messages_are_named(processor: Processor) -> None:
    with pytest.raises(UserError, match="message 0: image part refers to image 0, 0 given"):
        processor.encode([user("x", 1)], [])
    with pytest.raises(UserError, match="message 1: only user messages"):
        processor.encode(
            [user("x"), Message(role="assistant", content=[Part(type="image", index=0)])], [noise(64, 64, 1)]
        )


def test_a_document_is_cut_between_images_only(processor: Processor) -> None:
    images = [noise(64, 64, 1), noise(96, 64, 2)]
    whole = processor.encode([user("one two", 2), assistant("red blue green")], images)
    opened = (whole.input_ids == processor.special["<|vision_start|>"]).nonzero()[:, 0].tolist()
    closed = (whole.input_ids == processor.special["<|vision_end|>"]).nonzero()[:, 0].tolist()
    assert len(opened) == len(closed) == 2
    assert processor.cut(whole, len(whole)) is whole
    for senseless in (0, -1):
        with pytest.raises(ValueError, match="cannot be cut after"):
            processor.cut(whole, senseless)
    refused = 0
    for limit in range(1, len(whole)):
        inside = [n for n in range(2) if opened[n] < limit <= closed[n]]
        if inside:
            refused += 1
            message = (
                f"cut after {limit} of its {len(whole)} tokens.*video {inside[0]}; a limit of {closed[inside[0]] + 1} "
            )
            with pytest.raises(UserError, match=message):
                processor.cut(whole, limit)
            continue
        cut = processor.cut(whole, limit)
        assert torch.equal(cut.input_ids, whole.input_ids[:limit])
        assert torch.equal(cut.positions, whole.positions[:, :limit])
        kept = sum(end < limit for end in closed)
        assert torch.equal(cut.grids, whole.grids[:kept])
        assert len(cut.pixels) == int(whole.grids[:kept].prod(1).sum())
        assert cut.next_position == int(whole.positions[:, limit].min())
    assert refused == sum(end - start for start, end in zip(opened, closed, strict=True))


def test_without_pixels_all_else_is_the_same(processor: Processor) -> None:
    images = [noise(64, 64, 1), noise(96, 64, 2)]
    messages = [user("one two", 2), assistant("red")]
    whole, bare = (processor.encode(messages, images, pixels=pixels) for pixels in (True, False))
    assert bare.pixels.shape == (0, whole.pixels.shape[1])
    assert torch.equal(bare.grids, whole.grids)
    assert torch.equal(bare.input_ids, whole.input_ids)
    assert torch.equal(processor.pixels(visuals(messages, images)), whole.pixels)


@pytest.mark.parametrize("length", [processing.LONG - 1, processing.LONG, 40 * processing.LONG])
def test_long_texts_are_the_same_tokens_and_no_fewer_than_their_length_says(processor: Processor, length: int) -> None:
    longest = max(processor.tokenizer.get_vocab(with_added_tokens=False), key=len).replace("\u0120", " ")
    for unit in ("a", " ", "word, ", "\u4e2d\u6587", "<|im_end|>", "e\u0301", "\u1100\u1161\u11a8", longest):
        text = (unit * length)[:length]
        ids = processor.tokenize(text)
        assert ids == processor.tokenizer.encode(text, add_special_tokens=False).ids
        assert length <= len(ids) * processor.longest_token
