"""Quantised weights for a loaded model, put in place from outside: INT8 on a CPU, FP8 on a GPU.

`quantize(model, "int8")` takes the decoder's linear layers and experts; embeddings, norms and routers stay as they are,
and the vision tower and the head unless `parts` names them. A quantised model answers; it is neither trained nor saved.
New weights come unquantised (`load_state_dict`, `Engine.update_weights`) and are quantised on the way in.

How the products are computed is in `int8.py`, `fp8.py` and `deepgemm.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4ov.engine import deepgemm
from open4ov.engine.fp8 import MULTIPLE, Fp8Experts, Fp8Matrix
from open4ov.engine.half import in_half, reading
from open4ov.engine.int8 import Int8Experts, Int8Matrix, available
from open4ov.errors import UserError, nearest
from open4ov.model import Qwen3VL, lora
from open4ov.model.lora import LoraLinear, LoraMoE
from open4ov.model.moe import MoE

PARTS = ("language", "vision", "head")
DTYPES = (torch.float32, torch.bfloat16)
MIN_CAPABILITY = (8, 9)
"""Of a GPU that multiplies FP8"""


@dataclass(frozen=True)
class Report:
    """What `quantize` has done: bytes of all weights `before` and `after`, layers in all, and those with experts that
    DeepGEMM computes."""

    kind: str
    layers: int
    grouped: int
    before: int
    after: int

    def __str__(self) -> str:
        experts = f", {self.grouped} by DeepGEMM" if self.grouped else ""
        return (
            f"{self.kind}: {self.layers} layers{experts}; weights {self.after / 2**20:.1f} MiB instead of "
            f"{self.before / 2**20:.1f}"
        )


def quantize(model: Qwen3VL, kind: str, parts: Sequence[str] = ("language",)) -> Report:
    """Quantises the linear layers and experts of `parts` (PARTS) in place, one after another. The model has no
    gradients from then on.

    Raises UserError, before anything is changed, for an unknown kind or part, a model that is quantised already, has
    adapters, weights of another type than float32 and bfloat16 or numbers that are not finite, and for a device or
    sizes that `kind` cannot compute on.
    """
    if kind not in KINDS:
        raise UserError(f"quantize: no kind is called '{kind}'{nearest(kind, KINDS)}; there are {', '.join(KINDS)}")
    for part in parts:
        if part not in PARTS:
            raise UserError(f"quantize: no part is called '{part}'{nearest(part, PARTS)}; there are {', '.join(PARTS)}")
    if quantised(model):
        raise UserError("quantize: the model is quantised already; load it anew")
    if any(isinstance(module, LoraLinear | LoraMoE) for module in model.modules()):
        raise UserError("quantize: the model has adapters: merge them first (lora.merge)")
    if "head" in parts and model.head is None:
        raise UserError("quantize: this model's head is its embedding (tie_word_embeddings), which is not quantised")
    check_machine(kind, model.device)
    layers = dict(_chosen(model, parts))
    if not layers:
        raise UserError("quantize: no parts are named; there are " + ", ".join(PARTS))
    for name, layer in layers.items():
        for weight in _weights(layer).values():
            _check(name, weight, kind)
    before = weight_bytes(model)
    model.requires_grad_(False)
    for layer in layers.values():
        weights = _weights(layer)
        layer.__class__ = QuantisedMoE if isinstance(layer, MoE) else QuantisedLinear  # pyright: ignore[reportAttributeAccessIssue]
        cast(_Quantised, layer).convert(kind, weights)
    grouped = sum(isinstance(packed, deepgemm.GroupedExperts) for packed in _packed(model)) // 2
    return Report(kind, len(layers), grouped, before, weight_bytes(model))


def load(
    directory: Path | str,
    kind: str | None = None,
    adapter: Path | None = None,
    half: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Qwen3VL:
    """A model to answer with, read from a folder to a device (fp8: to the GPU, whatever `device` is) in float32, and
    quantised when `kind` is given; in bfloat16 for fp8. `adapter`: a file of `lora.save`, merged into the weights.
    `half`: what an engine with `autocast` is to compute in: it then casts no weight more than once; the weights that
    are left require gradients for that, though nothing trains them. Raises UserError as `quantize`, `lora.load` and
    `Qwen3VL.from_pretrained`."""
    if kind == "fp8":
        check_machine(kind, torch.device("cuda"))
        model = Qwen3VL.from_pretrained(directory, torch.bfloat16).to("cuda")
    else:
        plain = kind is None and adapter is None  # else it is quantised or merged in float32
        held = reading(half) if half is not None and plain else torch.float32
        model = Qwen3VL.from_pretrained(directory, held, device)
    if adapter is not None:
        lora.load(model, adapter)
        lora.merge(model)
    if kind is not None:
        quantize(model, kind)
    if half is not None:
        in_half(model, half)
    return model.requires_grad_(half is not None)  # of such weights alone autocast keeps what it has cast


def quantised(model: nn.Module) -> bool:
    """Whether any of a model's layers is."""
    return any(isinstance(module, _Quantised) for module in model.modules())


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights: parameters, each once, and quantised weights with their scales."""
    return sum(p.nbytes for p in model.parameters()) + sum(packed.nbytes for packed in _packed(model))


def check_machine(kind: str, device: torch.device) -> None:
    """Raises UserError where `kind` cannot be computed on that device."""
    if kind == "int8":
        if device.type != "cpu":
            raise UserError(f"quantize: int8 is computed on the CPU and the model is on {device}; use fp8, or move it")
        if not available():
            raise UserError("quantize: int8 needs FBGEMM, which this PyTorch has not or this processor cannot run (x86 "
                            "with AVX2); serve without --quantize")  # fmt: skip
    elif kind == "fp8":
        if device.type != "cuda" or not torch.cuda.is_available():
            raise UserError("quantize: fp8 is computed on an NVIDIA GPU, and there is none or the model is not on it; "
                            "use int8 on a CPU")  # fmt: skip
        if torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
            found = ".".join(map(str, torch.cuda.get_device_capability(device)))
            raise UserError(f"quantize: fp8 needs a GPU of compute capability 8.9 or more, and this has {found}; use "
                            "bfloat16 there")  # fmt: skip


def _fp8_experts(weight: Tensor) -> Fp8Experts | deepgemm.GroupedExperts:
    library = deepgemm.installed()
    hopper = weight.is_cuda and torch.cuda.get_device_capability(weight.device) >= (9, 0)
    return (
        deepgemm.GroupedExperts(weight, library) if library and hopper and deepgemm.fits(weight) else Fp8Experts(weight)
    )


KINDS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Any]]] = {
    "int8": (Int8Matrix, Int8Experts),
    "fp8": (Fp8Matrix, _fp8_experts),
}
"""Name -> what holds the weights [N, K] of a linear layer, and those of experts [E, N, K]"""


class _Quantised(nn.Module):
    """What a layer is that holds quantised weights in place of some of its parameters (`names`)."""

    names: ClassVar[tuple[str, ...]]
    kind: str
    packed: dict[str, Any]
    shapes: dict[str, torch.Size]
    at: torch.device
    revision: nn.Parameter
    """Another number each time that weights are loaded, for those who watch parameters (`watch.py`)"""

    def convert(self, kind: str, weights: Mapping[str, Tensor]) -> None:
        """Quantises the weights and drops the parameters that held them."""
        self.kind, self.packed, self.shapes = kind, {}, {name: weight.shape for name, weight in weights.items()}
        self.at = next(iter(weights.values())).device
        self.revision = nn.Parameter(torch.zeros((), device=self.at), requires_grad=False)
        for name in self.names:
            del self._parameters[name]
            self._take(name, weights[name])

    @torch.no_grad()
    def _take(self, name: str, weight: Tensor) -> None:
        self.packed[name] = KINDS[self.kind][weight.ndim - 2](weight.detach().to(self.at))
        self.revision.copy_((self.revision + 1) % 128)  # exact in any type

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Takes unquantised weights by the names they have in a plain model."""
        keys = {prefix + name: name for name in self.names}
        for key, name in keys.items():
            weight = state_dict.get(key)
            if weight is None:
                if strict:
                    missing_keys.append(key)
            elif weight.shape != self.shapes[name]:
                error_msgs.append(f"{key} has shape {list(weight.shape)}, not {list(self.shapes[name])}")
            elif not bool(weight.isfinite().all()):
                error_msgs.append(f"{key} has numbers that are not finite")
            else:
                self._take(name, weight)
        rest = {key: value for key, value in state_dict.items() if key not in keys}
        rest[prefix + "revision"] = self.revision.detach()
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> NoReturn:
        raise UserError("a quantised model cannot be saved: save it before it is quantised (quantize)")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        done = super()._apply(fn, recurse)
        if self.revision.device != self.at:
            raise UserError("a quantised model cannot be moved to another device: move it before it is quantised")
        return done

    def _answers(self, x: Tensor) -> torch.dtype:
        """The type that a product with x is given in, as a plain layer gives it."""
        if torch.is_grad_enabled() and x.requires_grad:
            raise UserError("a quantised model cannot be trained: train it before it is quantised (quantize)")
        kind = x.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class QuantisedLinear(_Quantised, nn.Linear):
    """A linear layer with quantised weights; its bias is as before. Made by `quantize`."""

    names = ("weight",)

    @property
    def weight(self) -> NoReturn:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise UserError("a quantised layer has no weights to read or train: use the model as it was before (quantize)")

    def forward(self, input: Tensor) -> Tensor:
        dtype = self._answers(input)
        out = self.packed["weight"](input).to(dtype)
        return out if self.bias is None else out + self.bias.to(dtype)


class QuantisedMoE(_Quantised, MoE):
    """A layer whose experts have quantised weights; its router is as before. Made by `quantize`."""

    names = ("gate_up", "down")

    def products(self, x: Tensor, counts: Tensor) -> Tensor:
        dtype = self._answers(x)
        gate, up = self.packed["gate_up"](x, counts).chunk(2, dim=-1)
        return self.packed["down"](F.silu(gate) * up, counts).to(dtype)


def _chosen(model: Qwen3VL, parts: Sequence[str]) -> Iterator[tuple[str, nn.Linear | MoE]]:
    """The layers of the parts by name. The patch embedding is none: it tells the type that the tower computes in."""
    roots = {
        "language": [("text.layers", model.text.layers)],
        "vision": [(f"vision.{name}", getattr(model.vision, name)) for name in ("blocks", "merger", "taps")],
        "head": [("head", model.head)],
    }
    for part in dict.fromkeys(parts):
        for root, module in roots[part]:
            for name, layer in module.named_modules(prefix=root):
                if isinstance(layer, nn.Linear | MoE):
                    yield name, layer


def _weights(layer: nn.Linear | MoE) -> dict[str, Tensor]:
    kind = QuantisedMoE if isinstance(layer, MoE) else QuantisedLinear
    return {name: getattr(layer, name).detach() for name in kind.names}


def _check(name: str, weight: Tensor, kind: str) -> None:
    if weight.dtype not in DTYPES:
        raise UserError(
            f"quantize: {name} holds {weight.dtype}; float32 and bfloat16 are taken: load it in one of them"
        )
    if not bool(weight.isfinite().all()):
        raise UserError(f"quantize: {name} has numbers that are not finite; the checkpoint is damaged")
    if kind == "fp8" and any(size % MULTIPLE for size in weight.shape[-2:]):
        raise UserError(f"quantize: fp8 needs sizes that are multiples of {MULTIPLE}, and {name} has "
                        f"{list(weight.shape)}; use bfloat16")  # fmt: skip


def _packed(model: nn.Module) -> Iterator[Any]:
    return (packed for module in model.modules() if isinstance(module, _Quantised) for packed in module.packed.values())
