"""LoRA: small trainable matrices beside frozen ones, for linear layers and experts, merged back into a plain model.

y = x W^T + (alpha / rank) (x A^T) B^T with A [rank, in] random and B [out, rank] zero at first (Hu et al. 2021). Layers
are adapted in place: the frozen weights keep their names, and a plain checkpoint can be read into them.

Shapes: E experts, R rows sorted by expert, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from open4ov.errors import UserError, nearest

from .moe import MoE
from .qwen3_vl import Qwen3VL

LINEAR = ("q", "k", "v", "o", "gate", "up", "down")
"""Linear layers of the decoder that can be adapted, by the last part of their names."""

EXPERTS = "experts"
TARGETS = (*LINEAR, EXPERTS)
PLAIN = (nn.Linear, MoE)
"""What can be adapted: these themselves, since a class made from them may hold its weights in another way."""

LINEAR_PARTS = ("lora_a", "lora_b")
EXPERT_PARTS = ("gate_up_a", "gate_up_b", "down_a", "down_b")


class LoraLinear(nn.Linear):
    """A linear layer with an adapter; made from a plain one by `add`."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    scale: float

    def adapt(self, rank: int, alpha: float, generator: torch.Generator) -> None:
        self.scale = alpha / rank
        self.lora_a = _random(self.weight, (rank, self.in_features), generator)
        self.lora_b = nn.Parameter(self.weight.new_zeros(self.out_features, rank))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + F.linear(F.linear(input, self.lora_a), self.lora_b) * self.scale

    @torch.no_grad()
    def merge(self) -> None:
        self.weight += (self.lora_b @ self.lora_a * self.scale).to(self.weight.dtype)
        del self.lora_a, self.lora_b
        self.__class__ = nn.Linear  # pyright: ignore[reportAttributeAccessIssue]


class LoraMoE(MoE):
    """Experts with an adapter each, for both of their products; the router stays as it is. Made by `add`."""

    gate_up_a: nn.Parameter  # [E, r, D]
    gate_up_b: nn.Parameter  # [E, 2F, r]
    down_a: nn.Parameter  # [E, r, F]
    down_b: nn.Parameter  # [E, D, r]
    scale: float

    def adapt(self, rank: int, alpha: float, generator: torch.Generator) -> None:
        self.scale = alpha / rank
        for name, weight in (("gate_up", self.gate_up), ("down", self.down)):
            experts, out, width = weight.shape
            setattr(self, f"{name}_a", _random(weight, (experts, rank, width), generator))
            setattr(self, f"{name}_b", nn.Parameter(weight.new_zeros(experts, out, rank)))

    def weights(self) -> tuple[Tensor, Tensor]:
        """The experts with their adapters added: one product for each expert, whatever it is sent."""
        return (
            self.gate_up + self.gate_up_b @ self.gate_up_a * self.scale,
            self.down + self.down_b @ self.down_a * self.scale,
        )

    @torch.no_grad()
    def merge(self) -> None:
        gate_up, down = self.weights()
        self.gate_up.copy_(gate_up)
        self.down.copy_(down)
        del self.gate_up_a, self.gate_up_b, self.down_a, self.down_b
        self.__class__ = MoE  # pyright: ignore[reportAttributeAccessIssue]


def add(
    model: Qwen3VL, rank: int, alpha: float | None = None, targets: Sequence[str] = TARGETS, seed: int = 0
) -> list[nn.Parameter]:
    """Freezes the model and puts adapters beside the decoder's `targets`; gives the parameters to train.

    `alpha` is the rank by default. The model computes what it did until the adapters are trained. Raises UserError for
    a rank below 1, an unknown target, and a model that is adapted already or has none of the targets.
    """
    if rank < 1:
        raise UserError(f"lora: the rank must be at least 1, not {rank}")
    for name in targets:
        if name not in TARGETS:
            raise UserError(f"lora: no target {name!r}{nearest(name, TARGETS)}; there are {', '.join(TARGETS)}")
    if any(_adapted(model)):
        raise UserError("lora: the model has adapters already; merge them first")
    chosen: list[nn.Module] = []
    for name, module in model.text.layers.named_modules():
        wanted = name.rpartition(".")[2] if isinstance(module, nn.Linear) else EXPERTS
        if type(module) in PLAIN and wanted in targets:
            chosen.append(module)
    if not chosen:
        raise UserError(
            f"lora: the model has none of the targets {', '.join(targets) or '(none named)'} as a plain layer"
        )
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    trained: list[nn.Parameter] = []
    for module in chosen:
        module.__class__ = LoraMoE if isinstance(module, MoE) else LoraLinear  # pyright: ignore[reportAttributeAccessIssue]
        before = set(module.parameters())
        cast(LoraLinear | LoraMoE, module).adapt(rank, rank if alpha is None else alpha, generator)
        trained += [parameter for parameter in module.parameters() if parameter not in before]
    return trained


def merge(model: Qwen3VL) -> None:
    """Adds the adapters to the weights beside them and drops them: a plain model again, all of it trainable."""
    for module in list(_adapted(model)):
        module.merge()
    model.requires_grad_(True)


def save(model: Qwen3VL, path: Path) -> None:
    """Writes the adapters, and nothing else of the model. Raises UserError when there are none."""
    state = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if is_adapter(name)}
    if not state:
        raise UserError("lora: the model has no adapters to save")
    scale = next(iter(_adapted(model))).scale
    save_file(state, path, metadata={"format": "pt", "scale": repr(scale)})


def read(model: Qwen3VL, path: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The adapters in a file of `save` or a folder of PEFT's: tensors by our names, and the scale of each layer's. The
    model is only looked at. Raises UserError for what is neither, and for adapters that do not fit the model."""
    if path.is_dir():
        from .peft import read_peft

        state, scales = read_peft(model, path)
    else:
        try:
            with safe_open(path, framework="pt") as file:
                scale = float((file.metadata() or {})["scale"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{path}: no adapters of open4ov: {error}") from None
        scales = dict.fromkeys((name.rpartition(".")[0] for name in state), scale)
    _check(model, path, state, scales)
    return state, scales


def _check(model: Qwen3VL, path: Path, state: dict[str, Tensor], scales: dict[str, float]) -> None:
    modules = dict(model.named_modules())
    for owner in sorted(scales):
        module = modules.get(owner)
        if not isinstance(module, nn.Linear | MoE) or not owner.startswith("text.layers."):
            raise UserError(f"{path}: is for another model: this one has no plain layer {owner}")
        parts = EXPERT_PARTS if isinstance(module, MoE) else LINEAR_PARTS
        missing = [f"{owner}.{part}" for part in parts if f"{owner}.{part}" not in state]
        unknown = [key for key in state if key.rpartition(".")[0] == owner and key.rpartition(".")[2] not in parts]
        if missing or unknown:
            fault = f"no tensor {missing[0]}" if missing else f"unknown tensor {unknown[0]}"
            raise UserError(f"{path}: no whole set of adapters: {fault}")
        if isinstance(module, nn.Linear):
            a, b = state[f"{owner}.lora_a"], state[f"{owner}.lora_b"]
            fits = a.dim() == b.dim() == 2 and a.shape[1] == module.in_features and b.shape[0] == module.out_features
            if not fits or a.shape[0] != b.shape[1]:
                raise UserError(
                    f"{path}: is for another model: {owner} takes {module.in_features} and gives "
                    f"{module.out_features}, its adapter is {list(a.shape)} and {list(b.shape)}"
                )


def load(model: Qwen3VL, path: Path) -> None:
    """Puts the adapters at a path beside a plain model's layers, which are frozen as `add` freezes them. Raises
    UserError as `read` does."""
    state, scales = read(model, path)
    if any(_adapted(model)):
        raise UserError("lora: the model has adapters already; merge them first")
    modules = dict(model.named_modules())
    for owner in sorted(scales):
        if type(modules[owner]) not in PLAIN:
            raise UserError(f"{path}: is for another model: this one has no plain layer {owner}")
    model.requires_grad_(False)
    for owner, scale in sorted(scales.items()):
        module = modules[owner]
        module.__class__ = LoraMoE if isinstance(module, MoE) else LoraLinear  # pyright: ignore[reportAttributeAccessIssue]
        adapted = cast(LoraLinear | LoraMoE, module)
        rank = min(state[name].shape[-2] for name in state if name.startswith(f"{owner}.") and name.endswith("_a"))
        adapted.adapt(rank, scale * rank, torch.Generator())
    faults = [
        f"{name} has shape {list(state[name].shape)}, not {list(parameter.shape)}"
        for name, parameter in model.named_parameters()
        if name in state and state[name].shape != parameter.shape
    ]
    if faults:
        raise UserError(f"{path}: is for another model: {'; '.join(faults[:4])}")
    model.load_state_dict(state, strict=False)


def beginnings(shapes: Mapping[str, Sequence[int]], seed: int) -> Iterator[tuple[str, Tensor]]:
    """The random ones of what `add` puts beside layers, by the names and shapes of all adapters in the model's order:
    one after another, whole, in float32 on the CPU. The others are zero at first."""
    generator = torch.Generator().manual_seed(seed)
    for name, shape in shapes.items():
        if name.endswith("_a"):
            yield name, _drawn(tuple(shape), generator)


def _adapted(model: nn.Module) -> Iterator[LoraLinear | LoraMoE]:
    return (module for module in model.modules() if isinstance(module, LoraLinear | LoraMoE))


def is_adapter(name: str) -> bool:
    """Whether a parameter of that name belongs to an adapter."""
    return name.rpartition(".")[2] in (*LINEAR_PARTS, *EXPERT_PARTS)


def _random(like: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(_drawn(shape, generator).to(like.device, like.dtype))


def _drawn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform within 1 / sqrt(inputs), as a linear layer starts."""
    bound = 1 / math.sqrt(shape[-1])
    return torch.empty(shape, dtype=torch.float32, device="cpu").uniform_(-bound, bound, generator=generator)
