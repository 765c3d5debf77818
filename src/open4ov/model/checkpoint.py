"""Weights on disk in Hugging Face's layout. Their names live in this file only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from open4ov.errors import UserError

from .config import Config
from .files import read_json, replacing, write_atomic
from .lora import is_adapter

if TYPE_CHECKING:
    from .qwen3_vl import Qwen3VL

Header = tuple[list[int], str]
"""The shape and the type of a tensor in a file"""
Region = tuple[slice, ...]
"""Of one of our tensors, a slice for each dim; `slice(None)` where it is the whole dim"""

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
_EXPERT_PARTS = {
    ".mlp.router": ".mlp.gate.weight",
    ".mlp.gate_up": ".mlp.experts.gate_up_proj",
    ".mlp.down": ".mlp.experts.down_proj",
}
"""Ends of the names of a layer with experts."""
_VISION_PARTS = ((".attention.", ".attn."), (".fc1.", ".linear_fc1."), (".fc2.", ".linear_fc2."))
_PATCH = "vision.patch.weight"
_OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_READ = {"F16", "BF16", "F32", "F64"}
"""Types of numbers in a file, as safetensors calls them"""
SHARD_BYTES = 5 * 10**9
"""Largest file that `save` writes, unless one tensor alone is larger."""


def hf_name(name: str) -> str:
    """Hugging Face's name of one of our parameters."""
    for ours, theirs in _VISION_PARTS if name.startswith("vision.") else _TEXT_PARTS:
        name = name.replace(ours, theirs)
    for ours, theirs in _EXPERT_PARTS.items():
        if name.endswith(ours):
            name = name.removesuffix(ours) + theirs
    for ours, theirs in _PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise AssertionError(f"parameter {name} has no Hugging Face name")


Held = torch.dtype | Callable[[str, Tensor], Tensor]
"""How weights are held: all in a type, or each by (our name, weight as the file has it, experts maybe in another order
of memory) -> weight. One that is given back as it came lies in the file's memory map, all of which then stays."""


def load(directory: Path | str, dtype: Held = torch.float32, device: torch.device | str = "cpu") -> Qwen3VL:
    """A model from a Hugging Face directory (one `model.safetensors`, or shards with an index).

    Files are read one after another through a memory map, each tensor straight to the device. On the CPU a tensor
    that is of the wanted type already is not copied: it lies in the file's map, which stays for the model's life.
    Raises UserError for a missing or unreadable file, pickled weights, another model type, and for tensors that are
    missing, unknown, misshapen or of numbers other than float16, bfloat16, float32 and float64. All files are looked
    through before any is read; the first eight faults are named, the rest counted.
    """
    from .qwen3_vl import Qwen3VL

    found = examine(Path(directory))
    with torch.device("meta"):
        model = Qwen3VL(found.config)
    model.load_state_dict(dict(_each(found, dtype, device)), assign=True)
    return model.requires_grad_(True)


def each(directory: Path, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a directory one after another, by our names, without a model to hold them. Raises UserError as
    `load` does, before the first."""
    return _each(examine(directory), dtype, "cpu")


def _each(found: Directory, dtype: Held, device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
    for path in dict.fromkeys(found.files.values()):
        with _opened(path) as file:
            for key in [key for key, place in found.files.items() if place == path]:
                name = found.wanted[key]
                weight = _held(name, file.get_tensor(key), found.hub)
                if isinstance(dtype, torch.dtype):
                    yield name, weight.to(device, dtype).contiguous()
                else:
                    yield name, dtype(name, weight).to(device)


@dataclass(frozen=True)
class Directory:
    """A Hugging Face directory that was looked through and holds a whole model. `files` and `shapes`: by the names of
    the tensors there, of which `wanted` gives ours; `hub`: whether experts are [E, in, out] there."""

    config: Config
    files: dict[str, Path]
    shapes: dict[str, list[int]]
    wanted: dict[str, str]
    hub: bool


def examine(directory: Path) -> Directory:
    """Looks through the headers of all files. Raises UserError as `load` does."""
    from .qwen3_vl import Qwen3VL

    config = Config.from_dict(read_json(directory / "config.json"), where=str(directory / "config.json"))
    files = weight_files(directory)
    with torch.device("meta"):
        model = Qwen3VL(config)
    wanted = {hf_name(name): name for name in model.state_dict()}
    headers = {path: _header(path) for path in dict.fromkeys(files.values())}
    stored = {key: headers[path].get(key) for key, path in files.items()}
    hub = _experts_as_on_the_hub(config, stored)
    faults = [f"no tensor {key}" for key in wanted if key not in files]
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    known = {**({"lm_head.weight": "text.embed.weight"} if config.tie_word_embeddings else {}), **wanted}
    for key, header in stored.items():
        if key not in known:
            faults.append(f"unknown tensor {key}")
        elif header is None:
            faults.append(f"no tensor {key} in {files[key].name}, where the index puts it")
        elif fault := _fault(key, header, _on_disk(known[key], shapes[known[key]], config, hub)):
            faults.append(f"{files[key].name}: {fault}")
    if faults:
        raise UserError(f"{directory}: the checkpoint is incomplete or of another model: {_listed(faults)}")
    read = {key: files[key] for key in files if key in wanted}
    return Directory(config, read, {key: (stored[key] or ([], ""))[0] for key in read}, wanted, hub)


def regions(found: Directory, wanted: Mapping[str, Region]) -> Iterator[tuple[str, Tensor]]:
    """Reads these regions of our tensors only, one after another: our name, and the region as we hold it, in the file's
    type. It may lie in the file still: copy it before the next one is asked for.

    Raises UserError for a file that cannot be read.
    """
    for path in dict.fromkeys(found.files.values()):
        keys = [key for key, place in found.files.items() if place == path and found.wanted[key] in wanted]
        with _opened(path) as file:
            for key in keys:
                name = found.wanted[key]
                part = file.get_slice(key)[_in_file(name, wanted[name], len(found.shapes[key]), found.hub)]
                yield name, _held(name, part, found.hub)


def save(
    model: Qwen3VL, directory: Path | str, dtype: torch.dtype | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes `config.json` and `model.safetensors`, or shards with an index when the weights exceed `shard_bytes`.

    Each file is written whole or not at all; files of an earlier save that are not part of this one go last. Raises
    UserError for a model with adapters.
    """
    directory = Path(directory)
    weights = model.state_dict()
    adapters = [name for name in weights if is_adapter(name)]
    if adapters:
        raise UserError(
            f"{directory}: the model has adapters ({adapters[0]}): merge the adapters first (lora.merge), or save them "
            "apart (lora.save)"
        )
    directory.mkdir(parents=True, exist_ok=True)
    sizes = {name: t.numel() * (dtype or t.dtype).itemsize for name, t in weights.items()}
    shards = _shards(sizes, shard_bytes)
    single = len(shards) == 1
    index: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = "model.safetensors" if single else f"model-{number:05}-of-{len(shards):05}.safetensors"
        state = {
            hf_name(name): _to_hub(name, weights[name].detach(), model.config)
            .to("cpu", dtype or weights[name].dtype)
            .contiguous()
            for name in names
        }
        with replacing(directory / file) as temporary:
            save_file(state, temporary, metadata={"format": "pt"})
        index |= dict.fromkeys(state, file)
    table = directory / "model.safetensors.index.json"
    if single:
        table.unlink(missing_ok=True)
    else:
        content = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(index.items()))}
        write_atomic(table, json.dumps(content, indent=2).encode() + b"\n")
    kind = str(dtype or model.text.embed.weight.dtype).removeprefix("torch.")
    raw = {**model.config.to_dict(), "dtype": kind}
    write_atomic(directory / "config.json", json.dumps(raw, indent=2, ensure_ascii=False).encode() + b"\n")
    for old in directory.glob("model*.safetensors"):
        if old.name not in index.values() and _OURS.fullmatch(old.name):  # not what a user put beside them
            old.unlink()


def _experts_as_on_the_hub(config: Config, stored: Mapping[str, Header | None]) -> bool:
    """Whether a checkpoint's experts are [E, in, out], as released, or [E, out, in], as transformers 5 saves its own.

    Both bear the same names. A tensor whose sides are equal tells nothing, but the sides of `down_proj` (D, F) and of
    `gate_up_proj` (D, 2F) are never both equal: the one that tells decides for the whole checkpoint.
    """
    text = config.text
    size, width = text.hidden_size, text.moe_intermediate_size
    ours, sides = (".mlp.down", [width, size]) if size != width else (".mlp.gate_up", [size, 2 * width])
    for key, header in stored.items():
        if header is not None and key.endswith(_EXPERT_PARTS[ours]):
            return header[0][1:] != sides[::-1]
    return True


def _on_disk(name: str, shape: torch.Size, config: Config, hub: bool) -> list[int]:
    """The shape that one of our tensors has in a file."""
    if _of_experts(name) and not hub:
        return list(shape)
    return list(_to_hub(name, torch.empty(shape, device="meta"), config).shape)


def _fault(key: str, header: Header, needed: list[int]) -> str:
    shape, kind = header
    if shape != needed:
        return f"{key} has shape {shape}; config.json asks for {needed}"
    if kind not in _READ:
        return f"{key} holds {kind} numbers; open4ov reads float16, bfloat16, float32 and float64 only"
    return ""


def _held(name: str, tensor: Tensor, hub: bool = True) -> Tensor:
    """A tensor of the file as we hold it: the patch embedding is a matrix, experts are [E, out, in]."""
    if name == _PATCH:
        return tensor.flatten(1)
    return tensor.transpose(1, 2) if hub and _of_experts(name) and tensor.ndim == 3 else tensor


def _to_hub(name: str, tensor: Tensor, config: Config) -> Tensor:
    """The way back: the patch embedding is a convolution, experts are [E, in, out]."""
    vision = config.vision
    if name == _PATCH:
        return tensor.unflatten(1, (vision.in_channels, vision.temporal_patch_size, *2 * (vision.patch_size,)))
    return tensor.transpose(1, 2) if _of_experts(name) else tensor


def _in_file(name: str, region: Region, dims: int, hub: bool) -> Region:
    """A region of one of our tensors, as it lies in a file, where the tensor has so many dims; see `_held`."""
    if name == _PATCH:  # [D, C, T, P, P] there
        assert region[1:] == (slice(None),), "what is one dim here is several there"
        return (region[0], *[slice(None)] * (dims - 1))
    if hub and _of_experts(name):
        experts, out, width = region
        return experts, width, out
    return region


def _of_experts(name: str) -> bool:
    return name.endswith((".mlp.gate_up", ".mlp.down"))


def _shards(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """The names in order, cut into files of at most `limit` bytes (one tensor alone may be larger)."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _listed(faults: list[str], most: int = 8) -> str:
    more = f"; and {len(faults) - most} more" if len(faults) > most else ""
    return "; ".join(faults[:most]) + more


def weight_files(directory: Path) -> dict[str, Path]:
    """Which file holds each tensor. Raises UserError for missing, unreadable and pickled files."""
    index = directory / "model.safetensors.index.json"
    if index.exists():
        table = read_json(index).get("weight_map")
        if not isinstance(table, dict):
            raise UserError(f"{index}: missing weight_map")
        odd = next((key for key, name in table.items() if not isinstance(name, str)), None)
        if odd is not None:
            raise UserError(f"{index}: weight_map must name a file for every tensor; for {odd} it holds {table[odd]!r}")
        files = {key: directory / name for key, name in table.items()}
        missing = sorted({str(path) for path in files.values() if not path.exists()})
        if missing:
            raise UserError(f"{index} names files that are not there: {', '.join(missing)}")
        return files
    path = directory / "model.safetensors"
    if not path.exists():
        pickled = [file.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl") for file in directory.glob(kind)]
        if pickled:
            raise UserError(
                f"{directory}: {pickled[0]} is pickled, which can run code when it is read; open4ov reads safetensors "
                "only: convert it with transformers' save_pretrained where you trust it"
            )
        raise UserError(f"{directory}: neither model.safetensors nor model.safetensors.index.json is there")
    try:
        with safe_open(path, framework="pt") as file:
            return dict.fromkeys(file.keys(), path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {error}") from None


def _header(path: Path) -> dict[str, Header]:
    """The shape and the type of every tensor in a file."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            return {key: (list(part.get_shape()), part.get_dtype()) for key, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {error}") from None


@contextmanager
def _opened(path: Path) -> Generator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {error}") from None
