"""The shape and tokenizer of the tests' tiny Qwen3-VL (`tiny_dir` in conftest.py)."""

from __future__ import annotations

from dataclasses import replace

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from open4ov.model import Config, Processor, TextConfig, VisionConfig

CORPUS = [
    "system user assistant What colour is the circle? red green blue yellow How many squares are there? one two three",
    "The answer is \\boxed{7}. 0 1 2 3 4 5 6 7 8 9 10 + - = ; left right above below",
    "这是什么颜色？红色的圆。图中有几个方块？三个。",
]


def tiny_tokenizer() -> Tokenizer:
    """Byte-level BPE of 400 tokens, NFC like Qwen's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def tiny_config(processor: Processor, tie: bool = True) -> Config:
    """Two taps, three decoder layers, sides that all differ, so that no transposed or swapped weight goes unseen."""
    return Config(
        text=TextConfig(
            vocab_size=processor.tokenizer.get_vocab_size(),
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            mrope_section=(4, 2, 2),
            initializer_range=0.1,
        ),
        vision=VisionConfig(
            depth=3,
            hidden_size=32,
            intermediate_size=56,
            num_heads=2,
            out_hidden_size=48,
            deepstack_visual_indexes=(0, 1),
            num_position_embeddings=36,
            initializer_range=0.1,
        ),
        image_token_id=processor.special["<|image_pad|>"],
        video_token_id=processor.special["<|video_pad|>"],
        vision_start_token_id=processor.special["<|vision_start|>"],
        vision_end_token_id=processor.special["<|vision_end|>"],
        tie_word_embeddings=tie,
    )


def moe_config(processor: Processor, tie: bool = True, **changes: object) -> Config:
    """The tiny shape with five experts a layer, two of them a token. The hidden size (48) is neither the width of an
    expert nor twice it, where a transposed tensor would have the right shape too."""
    experts = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "router_aux_loss_coef": 0.0}
    config = tiny_config(processor, tie)
    return replace(config, text=replace(config.text, **{**experts, **changes}))  # pyright: ignore[reportArgumentType]
