"""What must lie in a directory before transformers reads it, and transformers itself: an optional part of open4ov."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from open4ov.errors import UserError, nearest

from .checkpoint import weight_files
from .files import read_json

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
_IMAGES = ("preprocessor_config.json", "processor_config.json")
_NOT_OF_PROCESSOR = ("config.json", "generation_config.json", "model.safetensors.index.json")
_PROCESSOR_SUFFIXES = (".json", ".jinja", ".txt", ".model")
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""How every file is read: from the directory only, and none of it as code."""


def library() -> ModuleType:
    """The transformers package. Raises UserError where it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"models other than Qwen3-VL are read by transformers, which cannot be imported ({error}): "
            "pip install 'open4ov[hf]'"
        ) from None
    return transformers


def model_config(directory: Path) -> Any:
    """The transformers configuration of a directory with `config.json` and safetensors weights.

    Raises UserError for a missing or unknown configuration and for missing or pickled weights.
    """
    transformers = library()
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as FAMILIES

    path = directory / "config.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a Hugging Face directory of a model that reads images and text")
    family = read_json(path).get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise UserError(
            f"{path}: model_type {family!r} is no model for images and text of transformers "
            f"{transformers.__version__}{nearest(str(family), FAMILIES)}"
        )
    for file in sorted(set(weight_files(directory).values())):
        if file.suffix != ".safetensors":  # transformers would unpickle what an index calls so
            raise UserError(f"{directory}: the weights' index names {file.name}; open4ov reads safetensors only")
    try:
        return transformers.AutoConfig.from_pretrained(directory, **LOCAL)
    except Exception as error:  # a family's configuration checks itself in its own ways
        raise UserError(f"{path}: transformers cannot read it: {error}") from error


def processor_files(directory: Path) -> dict[str, bytes]:
    """The files that make up tokenizer, chat template and image processor, by name.

    Raises UserError naming those without which there is no processor.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; give a Hugging Face directory of a model")
    for names, what in ((_TOKENIZERS, "tokenizer"), (_IMAGES, "image processor")):
        if not any((directory / name).is_file() for name in names):
            raise UserError(f"{directory}: no {what}: one of {', '.join(names)} must be there")
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir())
        if path.is_file() and path.suffix in _PROCESSOR_SUFFIXES and path.name not in _NOT_OF_PROCESSOR
    }
