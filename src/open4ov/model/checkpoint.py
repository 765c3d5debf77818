"""Weights on disk in Hugging Face's layout. Their names live in this file only."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from open4ov.errors import UserError

from .config import Config

if TYPE_CHECKING:
    from .qwen3_vl import Qwen3VL

_PREFIXES = (
    ("vision.taps.", "model.visual.deepstack_merger_list."),
    ("vision.patch.", "model.visual.patch_embed.proj."),
    ("vision.position.", "model.visual.pos_embed."),
    ("vision.", "model.visual."),
    ("text.embed.", "model.language_model.embed_tokens."),
    ("text.", "model.language_model."),
    ("head.", "lm_head."),
)
_TEXT_PARTS = (
    (".attention.q_norm.", ".self_attn.q_norm."),
    (".attention.k_norm.", ".self_attn.k_norm."),
    (".attention_norm.", ".input_layernorm."),
    (".mlp_norm.", ".post_attention_layernorm."),
    *((f".attention.{x}.", f".self_attn.{x}_proj.") for x in "qkvo"),
    *((f".mlp.{x}.", f".mlp.{x}_proj.") for x in ("gate", "up", "down")),
)
_VISION_PARTS = ((".attention.", ".attn."), (".fc1.", ".linear_fc1."), (".fc2.", ".linear_fc2."))
_PATCH = "vision.patch.weight"


def hf_name(name: str) -> str:
    """Hugging Face's name of one of our parameters."""
    for ours, theirs in _VISION_PARTS if name.startswith("vision.") else _TEXT_PARTS:
        name = name.replace(ours, theirs)
    for ours, theirs in _PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise AssertionError(f"parameter {name} has no Hugging Face name")


def load(directory: Path | str, dtype: torch.dtype = torch.float32) -> Qwen3VL:
    """A model from a Hugging Face directory (one `model.safetensors`, or shards with an index).

    Raises UserError for a missing or unreadable file, another model type, and missing or misshapen tensors.
    """
    from .qwen3_vl import Qwen3VL

    directory = Path(directory)
    config = Config.from_dict(read_json(directory / "config.json"), where=str(directory / "config.json"))
    files = _weight_files(directory)
    with torch.device("meta"):
        model = Qwen3VL(config)
    shapes = {name: parameter.shape for name, parameter in model.state_dict().items()}
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        key = hf_name(name)
        if key not in files:
            raise UserError(f"{directory}: no tensor {key}; the checkpoint is incomplete or of another model")
        tensor = _read(files[key], key)
        if name == _PATCH:
            tensor = tensor.flatten(1)
        if tensor.shape != shape:
            raise UserError(f"{files[key]}: {key} has shape {list(tensor.shape)}; config.json asks for {list(shape)}")
        state[name] = tensor.to(dtype)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True)


def save(model: Qwen3VL, directory: Path | str, dtype: torch.dtype | None = None) -> None:
    """Writes `model.safetensors` and `config.json`, each whole or not at all."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    vision = model.config.vision
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name == _PATCH:
            patch = (vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
            tensor = tensor.unflatten(1, patch)
        state[hf_name(name)] = tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
    kind = str(dtype or model.text.embed.weight.dtype).removeprefix("torch.")
    with replacing(directory / "model.safetensors") as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
    (directory / "model.safetensors.index.json").unlink(missing_ok=True)
    raw = {**model.config.to_dict(), "dtype": kind}
    write_atomic(directory / "config.json", json.dumps(raw, indent=2, ensure_ascii=False).encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """Raises UserError when the file is missing or is not a JSON object."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a Hugging Face directory of a Qwen3-VL") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return raw


class replacing:
    """Hands out a temporary path beside `path`; moves it there when the block ends well, removes it otherwise."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> str:
        handle, self.temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        os.close(handle)
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            Path(self.temporary).unlink(missing_ok=True)
            return
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(self.temporary, 0o666 & ~umask)
        with open(self.temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.temporary, self.path)


def write_atomic(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        Path(temporary).write_bytes(content)


def _weight_files(directory: Path) -> dict[str, Path]:
    """Which file holds each tensor."""
    index = directory / "model.safetensors.index.json"
    if index.exists():
        table = read_json(index).get("weight_map")
        if not isinstance(table, dict):
            raise UserError(f"{index}: missing weight_map")
        files = {key: directory / name for key, name in table.items()}
        missing = sorted({str(path) for path in files.values() if not path.exists()})
        if missing:
            raise UserError(f"{index} names files that are not there: {', '.join(missing)}")
        return files
    path = directory / "model.safetensors"
    if not path.exists():
        raise UserError(f"{directory}: neither model.safetensors nor model.safetensors.index.json is there")
    try:
        with safe_open(path, framework="pt") as file:
            return dict.fromkeys(file.keys(), path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {error}") from None


def _read(path: Path, key: str) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(key)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot read {key}: {error}") from None
