"""Qwen3-VL in plain PyTorch: the model, its processor, and packs of documents."""

from .config import Config, TextConfig, VisionConfig
from .memory import Memory
from .packing import Encoded, Pack, pack
from .processing import Processor
from .qwen3_vl import Qwen3VL
from .tokenizer_files import make_tokenizer_files
from .trainable import Batch, Trainable
from .vision import VisionFeatures

__all__ = [
    "Batch",
    "Config",
    "Encoded",
    "Memory",
    "Pack",
    "Processor",
    "Qwen3VL",
    "TextConfig",
    "Trainable",
    "VisionConfig",
    "VisionFeatures",
    "make_tokenizer_files",
    "pack",
]
