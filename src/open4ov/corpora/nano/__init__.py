"""The nano base: a real Qwen3-VL of about 10 M parameters, pretrained here on general tasks only."""

from __future__ import annotations

from tokenizers import Tokenizer

from open4ov.model import Config
from open4ov.model.config import TextConfig, VisionConfig

from .train import NanoTraining, train

__all__ = ["NanoTraining", "nano_config", "train"]


def nano_config(tokenizer: Tokenizer) -> Config:
    """The shape of the nano base for a tokenizer: 6 decoder layers of 256, a vision tower of 6 layers of 192."""

    def token(text: str) -> int:
        index = tokenizer.token_to_id(text)
        assert index is not None, text
        return index

    return Config(
        text=TextConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            mrope_section=(12, 10, 10),
            rope_theta=10_000.0,
            max_position_embeddings=4096,
        ),
        vision=VisionConfig(
            depth=6,
            hidden_size=192,
            intermediate_size=512,
            num_heads=4,
            out_hidden_size=256,
            deepstack_visual_indexes=(1, 3),
            num_position_embeddings=64,
        ),
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
        extra={"eos_token_id": token("<|im_end|>"), "pad_token_id": token("<|endoftext|>")},
    )
