"""Tiny random models of five families, with processors, as directories that transformers reads.

Each has a byte-level tokenizer with the family's special tokens and a chat template in the family's way of writing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from oracle import noise
from tiny import tiny_tokenizer
from tokenizers import AddedToken
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma4Config,
    Idefics3Config,
    InternVLConfig,
    LlavaOnevisionConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
)

from open4ov.model.hf import HFEncoded, HFProcessor
from open4ov.sample import assistant, user

CHATML = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% for part in message.content %}{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
GEMMA = """\
{{ bos_token }}
{%- for message in messages -%}
<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}
{% for part in message.content %}{% if part.type == 'image' %}<start_of_image>{% else %}{{ part.text }}{% endif %}
{%- endfor -%}
<end_of_turn>
{% endfor -%}
{%- if add_generation_prompt -%}
<start_of_turn>model
{% endif -%}
"""
IDEFICS = """\
<|begin_of_text|>{% for message in messages %}{{ message.role | capitalize }}:
{%- for part in message.content %}{% if part.type == 'image' %}<image>{% else %} {{ part.text }}{% endif %}{% endfor -%}
<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.1,
    "max_position_embeddings": 1024,
}
SIGLIP = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "vision_use_head": False,
}


def build(family: str, directory: Path, **text: Any) -> Path:
    """Writes a model of the family with a processor. `text` changes the language model's configuration."""
    config = FAMILIES[family](directory, text)
    torch.manual_seed(1)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # transformers starts some of them at zero or one, where a lost one would go unseen
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim == 1 or not parameter.any() or "position" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    tokenizer = json.loads((directory / "tokenizer_config.json").read_text())
    vocabulary = json.loads((directory / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in vocabulary["added_tokens"]}
    model.generation_config.eos_token_id = ids[CLOSING[family]]
    model.generation_config.pad_token_id = ids[tokenizer["pad_token"]]
    model.save_pretrained(directory)
    return directory


def _tokenizer(
    directory: Path, template: str, special: list[str], named: dict[str, str], **kwargs: str
) -> dict[str, int]:
    """Writes tokenizer and chat template; gives the ids of the special tokens and the `size` of the vocabulary."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=named, **kwargs)
    fast.save_pretrained(directory)
    (directory / "chat_template.jinja").write_text(template)
    return {token: tokenizer.token_to_id(token) for token in special} | {"size": tokenizer.get_vocab_size()}


def _write(directory: Path, name: str, **content: Any) -> None:
    (directory / name).write_text(json.dumps(content))


def _qwen2_5_vl(directory: Path, text: dict[str, Any]) -> Any:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special += ["<|image_pad|>", "<|video_pad|>"]
    template = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    ids = _tokenizer(directory, template, special, {}, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    _write(
        directory,
        "preprocessor_config.json",
        image_processor_type="Qwen2VLImageProcessor",
        processor_class="Qwen2_5_VLProcessor",
        size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64},
        patch_size=8,
        merge_size=2,
        temporal_patch_size=2,
    )
    return Qwen2_5_VLConfig(
        text_config={
            **TEXT,
            "vocab_size": ids["size"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
            "pad_token_id": ids["<|endoftext|>"],
            **text,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_heads": 2,
            "patch_size": 8,
            "window_size": 32,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 32,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )


def _internvl(directory: Path, text: dict[str, Any]) -> Any:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    template = CHATML.replace("IMAGE", "<IMG_CONTEXT>\n")
    ids = _tokenizer(directory, template, special, named, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    _write(
        directory,
        "preprocessor_config.json",
        image_processor_type="GotOcr2ImageProcessor",
        processor_class="InternVLProcessor",
        size={"height": 32, "width": 32},
        crop_to_patches=True,
        max_patches=4,
    )
    _write(directory, "processor_config.json", processor_class="InternVLProcessor", image_seq_length=4)
    return InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT, "vocab_size": ids["size"], **text},
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [32, 32],
            "patch_size": [8, 8],
        },
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=4,
        tie_word_embeddings=False,
    )


def _gemma3(directory: Path, text: dict[str, Any]) -> Any:
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    special += ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokens = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    ids = _tokenizer(directory, GEMMA, special, named, **tokens)
    _write(
        directory,
        "preprocessor_config.json",
        image_processor_type="Gemma3ImageProcessor",
        processor_class="Gemma3Processor",
        size={"height": 32, "width": 32},
    )
    _write(directory, "processor_config.json", processor_class="Gemma3Processor", image_seq_length=4)
    return Gemma3Config(
        text_config={
            **TEXT,
            "vocab_size": ids["size"],
            "head_dim": 16,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "pad_token_id": ids["<pad>"],
            **text,
        },
        vision_config={"model_type": "siglip_vision_model", **SIGLIP},
        mm_tokens_per_image=4,
        image_token_id=ids["<image_soft_token>"],
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        eos_token_id=[ids["<eos>"], ids["<end_of_turn>"]],
    )


def _llava_onevision(directory: Path, text: dict[str, Any]) -> Any:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    template = CHATML.replace("IMAGE", "<image>\n")
    ids = _tokenizer(directory, template, special, {}, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tiles = [[32, 32], [32, 64], [64, 32], [64, 64]]
    _write(
        directory,
        "preprocessor_config.json",
        image_processor_type="LlavaOnevisionImageProcessor",
        processor_class="LlavaOnevisionProcessor",
        size={"height": 32, "width": 32},
        image_grid_pinpoints=tiles,
    )
    _write(
        directory,
        "processor_config.json",
        processor_class="LlavaOnevisionProcessor",
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )
    return LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **TEXT, "vocab_size": ids["size"], **text},
        vision_config={"model_type": "siglip_vision_model", **SIGLIP},
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
        image_grid_pinpoints=tiles,
    )


def _idefics3(directory: Path, text: dict[str, Any]) -> Any:
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<pad>", "<end_of_utterance>"]
    special += ["<fake_token_around_image>", "<image>", "<global-img>"]
    special += [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokens = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<pad>"}
    ids = _tokenizer(directory, IDEFICS, special, {}, **tokens)
    _write(
        directory,
        "preprocessor_config.json",
        image_processor_type="Idefics3ImageProcessor",
        processor_class="Idefics3Processor",
        size={"longest_edge": 64},
        max_image_size={"longest_edge": 32},
    )
    _write(directory, "processor_config.json", processor_class="Idefics3Processor", image_seq_len=4)
    vision = {key: value for key, value in SIGLIP.items() if key != "vision_use_head"}
    return Idefics3Config(
        text_config={
            "model_type": "llama",
            **TEXT,
            "vocab_size": ids["size"],
            "pad_token_id": ids["<pad>"],
            **text,
        },
        vision_config=vision,
        image_token_id=ids["<image>"],
        scale_factor=2,
    )


def capped_model(cap: float | None) -> Any:
    """A Gemma 4, whose logits are `cap` times tanh of what the head gives by `cap`. It has 300 words, no processor."""
    config = Gemma4Config(
        text_config={
            **TEXT,
            "vocab_size": 300,
            "head_dim": 16,
            "global_head_dim": 16,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "hidden_size_per_layer_input": 0,
            "final_logit_softcapping": cap,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "patch_size": 8,
            "position_embedding_size": 8,
        },
        audio_config=None,
        image_token_id=299,
    )
    torch.manual_seed(1)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(3)  # where the cap bends
    return model.eval()


def conversations(processor: HFProcessor) -> list[HFEncoded]:
    """Unequal lengths; two images, no image, one image of another shape and two turns."""
    square, wide, tall = noise(48, 48, 1), noise(64, 32, 2), noise(32, 64, 3)
    return [
        processor.encode([user("left", 2), assistant("这是什么颜色？")], [square, wide]),
        processor.encode([user("How many?"), assistant("three")], []),
        processor.encode([user("What colour?", 1), assistant("red"), user("And now?"), assistant("blue 2")], [tall]),
    ]


FAMILIES: dict[str, Callable[[Path, dict[str, Any]], Any]] = {
    "qwen2_5_vl": _qwen2_5_vl,
    "internvl": _internvl,
    "gemma3": _gemma3,
    "llava_onevision": _llava_onevision,
    "idefics3": _idefics3,
}
CLOSING = {
    "qwen2_5_vl": "<|im_end|>",
    "internvl": "<|im_end|>",
    "gemma3": "<end_of_turn>",
    "llava_onevision": "<|im_end|>",
    "idefics3": "<end_of_utterance>",
}
"""The token that ends an assistant's turn."""
