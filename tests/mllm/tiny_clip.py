"""A CLIP of a few thousand random weights in the layout of sentence-transformers."""

from __future__ import annotations

from pathlib import Path


def save(folder: Path) -> Path:
    """Needs sentence-transformers; the same weights each time."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

    marks = [chr(code) for code in range(33, 127)]
    words = [*marks, *(f"{mark}</w>" for mark in marks), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    begin, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**size, "vocab_size": len(words), "max_position_embeddings": 32, "bos_token_id": begin,
            "eos_token_id": end, "pad_token_id": end}  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config={**size, "image_size": 32, "patch_size": 16},
                                 projection_dim=8))  # fmt: skip
    bare = folder / "bare"
    model.save_pretrained(bare)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, CLIPTokenizer(vocab=vocabulary, merges=[])).save_pretrained(bare)
    out = folder / "clip"
    SentenceTransformer(modules=[Transformer(str(bare))], device="cpu").save(str(out))
    return out
