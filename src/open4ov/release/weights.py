"""The weights of a release: the run's, in another precision, read and written tensor by tensor.

`bf16` and `fp32` are plain checkpoints. `int8` and `fp8` are checkpoints of the format compressed-tensors ("W8A8":
8-bit weights with a scale for each output, activations scaled by token as they come), which vLLM reads, and
transformers with the package compressed-tensors. They hold what `engine/quantize.py` computes with: the decoder's
linear layers and experts in 8 bits; embeddings, norms, routers, the head and the vision tower in bfloat16. Our own
engine keeps no quantised files: it reads a bf16 release and quantises as it loads (`open4ov serve --quantize`).

Experts are one tensor of all in a plain checkpoint, and in a quantised one a linear layer each, as vLLM wants them:
`experts.0.gate_proj.weight` with `.weight_scale`.

Shapes: N outputs, K inputs, E experts, F the width of an expert, D the hidden size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from open4ov.errors import UserError
from open4ov.model.checkpoint import SHARD_BYTES, Directory, examine
from open4ov.model.files import replacing

Precision = Literal["bf16", "fp32", "int8", "fp8"]
PRECISIONS: tuple[Precision, ...] = ("bf16", "fp32", "int8", "fp8")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "int8": torch.bfloat16, "fp8": torch.bfloat16}
"""What is not in 8 bits is held in this type"""
_LINEAR = re.compile(r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")
_EXPERTS = re.compile(r"(model\.language_model\.layers\.\d+\.mlp\.experts)\.(gate_up|down)_proj")
IGNORED = ["re:.*lm_head", "re:.*visual.*", "re:.*mlp.gate$"]
"""Linear layers that stay as they are: head, vision tower, routers"""


@dataclass
class Written:
    """What was written: tensors in all, those of 8 bits, and bytes."""

    tensors: int = 0
    quantised: int = 0
    bytes: int = 0
    files: list[str] = field(default_factory=list[str])


def write_weights(source: Path, out: Path, precision: Precision, shard_bytes: int = SHARD_BYTES) -> Written:
    """Writes config.json and the weights of the model in `source` to the folder `out`. Holds one shard in memory.

    Raises UserError as `examine` does, and for weights that are not finite.
    """
    found = examine(source)
    written = Written()
    index: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    parts: list[list[str]] = []
    size = 0

    def flush() -> None:
        nonlocal shard, size
        if shard:
            with replacing(out / f"part-{len(parts)}") as temporary:
                save_file(shard, temporary, metadata={"format": "pt"})
            parts.append(list(shard))
            shard, size = {}, 0

    for name, tensor in _tensors(found, precision):
        if size and size + tensor.nbytes > shard_bytes:
            flush()
        shard[name] = tensor
        size += tensor.nbytes
        written.tensors += 1
        written.quantised += tensor.dtype in (torch.int8, torch.float8_e4m3fn)
        written.bytes += tensor.nbytes
    flush()
    for number, names in enumerate(parts):
        single = len(parts) == 1
        file = "model.safetensors" if single else f"model-{number + 1:05}-of-{len(parts):05}.safetensors"
        (out / f"part-{number}").rename(out / file)
        index |= dict.fromkeys(names, file)
        written.files.append(file)
    if len(parts) > 1:
        table = {"metadata": {"total_size": written.bytes}, "weight_map": dict(sorted(index.items()))}
        (out / "model.safetensors.index.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = str(DTYPES[precision]).removeprefix("torch.")
    config.pop("torch_dtype", None)  # the older name of the same
    if precision in ("int8", "fp8"):
        config["quantization_config"] = quantization_config(precision)
    (out / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return written


def quantization_config(precision: Precision) -> dict[str, Any]:
    """`quantization_config` of config.json, in the words of compressed-tensors 0.17."""
    kind, format = ("int", "int-quantized") if precision == "int8" else ("float", "float-quantized")
    common = {"num_bits": 8, "type": kind, "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**common, "strategy": "channel", "dynamic": False},
        "input_activations": {**common, "strategy": "token", "dynamic": True},
        "output_activations": None,
        "format": format,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": IGNORED,
        "kv_cache_scheme": None,
    }


def to_8_bits(weight: Tensor, precision: Precision) -> tuple[Tensor, Tensor]:
    """A weight [N, K] in int8 or float8_e4m3fn, and what to multiply its rows by: float32 [N, 1].

    The values are those of the engine (`int8.py`: s = max|w| / 127; `fp8.py`: s = max|w| / 448).
    """
    weight = weight.float()
    tiny = torch.finfo(torch.float32).tiny
    if precision == "int8":
        scales = weight.abs().amax(1, keepdim=True).clamp_min(tiny) / 127
        return (weight / scales).round().clamp(-127, 127).to(torch.int8).contiguous(), scales
    scales = weight.abs().amax(1, keepdim=True).clamp_min(tiny * 448) / 448
    return (weight / scales).to(torch.float8_e4m3fn).contiguous(), scales


def _tensors(found: Directory, precision: Precision) -> Iterator[tuple[str, Tensor]]:
    """All tensors of the release, in the order of the files. They are new ones: nothing stays mapped."""
    dtype = DTYPES[precision]
    for path in dict.fromkeys(found.files.values()):
        with safe_open(path, framework="pt") as file:
            for name in (name for name, place in found.files.items() if place == path):
                tensor: Tensor = file.get_tensor(name)
                if not bool(tensor.isfinite().all()):
                    raise UserError(f"{path}: {name} has numbers that are not finite; this model is of no use")
                parts = list(_quantisable(name, tensor, found)) if precision in ("int8", "fp8") else []
                for part, weight in parts:
                    values, scales = to_8_bits(weight, precision)
                    yield part, values
                    yield f"{part}_scale", scales
                if not parts:
                    yield name, tensor.to(dtype, copy=True).contiguous()


def _quantisable(name: str, tensor: Tensor, found: Directory) -> Iterator[tuple[str, Tensor]]:
    """The weights [N, K] that a tensor of the file holds, by their names in a quantised checkpoint; none when it is
    not quantised."""
    if _LINEAR.fullmatch(name):
        yield name, tensor
    elif match := _EXPERTS.fullmatch(name):
        experts, part = match.groups()
        stacked = tensor.transpose(1, 2) if found.hub else tensor  # [E, N, K]
        for number, weight in enumerate(stacked):
            if part == "down":
                yield f"{experts}.{number}.down_proj.weight", weight
            else:
                gate, up = weight.chunk(2)
                yield f"{experts}.{number}.gate_proj.weight", gate
                yield f"{experts}.{number}.up_proj.weight", up
