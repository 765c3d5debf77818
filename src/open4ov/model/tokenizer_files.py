"""The files beside the weights of a new model: tokenizer, chat template, image and video settings, generation settings.

transformers and the engines that build on it can read them.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer

from .files import write_atomic
from .images import ImageSettings
from .processing import SPECIAL_TOKENS, Processor

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type in ('image', 'image_url') -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- elif part.type == 'text' -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
"""Renders what `Processor.encode` tokenizes, for those who load the directory with other software."""


def make_tokenizer_files(
    directory: Path | str, tokenizer: Tokenizer, min_pixels: int = 1024, max_pixels: int = 16_384
) -> Processor:
    """Writes everything but the model: tokenizer, image settings, chat template, generation settings; returns the
    processor read back. `min_pixels`, `max_pixels`: limits of an image's area (Qwen3-VL itself: 65,536 and 16,777,216).

    Special tokens that the tokenizer lacks are added to it. transformers and the engines that build on it can read
    the directory.
    """
    directory = Path(directory)
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None])
    settings = ImageSettings(min_pixels=min_pixels, max_pixels=max_pixels)
    added = {str(number): _added_token(token.content) for number, token in tokenizer.get_added_tokens_decoder().items()}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "Qwen3VLProcessor",
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 262_144,
    }
    ends = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    video = {**settings.to_dict(), "video_processor_type": "Qwen3VLVideoProcessor"}
    del video["image_processor_type"]
    contents = {
        "tokenizer_config.json": tokenizer_config,
        "preprocessor_config.json": settings.to_dict(),
        "video_preprocessor_config.json": video,
        "generation_config.json": {"do_sample": False, "eos_token_id": ends, "pad_token_id": ends[1]},
    }
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
    write_atomic(directory / "chat_template.jinja", CHAT_TEMPLATE.encode())
    for name, content in contents.items():
        write_atomic(directory / name, json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")
    return Processor.from_pretrained(directory)


def _added_token(content: str) -> dict[str, object]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": content, **flags, "special": content in SPECIAL_TOKENS}
