"""Tensor parallel with sequence parallel: every matrix of the decoder is cut over the ranks of `tp`, and between the
products each rank has other tokens (paper §5.1).

A parameter becomes a DTensor on the axis `tp`, cut or replicated as the table below says, and its module's class one
that computes with the rank's own part. Products that widen are cut by rows of their weight (heads, width of the
feed-forward) and read all tokens of the chunk; products that narrow are cut by columns, and their results are added up
and given back by tokens. Norms, routers and biases of what narrows are replicated, and see the rank's own tokens only:
their gradients are shares, which are added up over `tp` before FSDP reduces them. Embedding and head are cut by words.
Experts are never cut here: every rank computes those of its tokens (`fsdp.py` shards them).

Shapes: C tokens of the chunk (all that the ranks of one `tp` group have), S of the shard, D hidden, d head dim.
"""

from __future__ import annotations

import re
from functools import cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from open4ov.errors import UserError
from open4ov.model import Config
from open4ov.model.moe import MoE
from open4ov.model.norm import RMSNorm
from open4ov.model.text import SwiGLU, TextAttention

from .collectives import all_gather, reduce_scatter
from .layout import Axes
from .stage import Stage

ROWS, COLUMNS, WHOLE = Shard(0), Shard(1), Replicate()
PLAN: tuple[tuple[str, Placement], ...] = (
    (r"text\.embed\.weight", ROWS),
    (r"head\.weight", ROWS),
    (r"text\.layers\.\d+\.attention\.[qkv]\.(weight|bias)", ROWS),
    (r"text\.layers\.\d+\.attention\.o\.weight", COLUMNS),
    (r"text\.layers\.\d+\.mlp\.(gate|up)\.weight", ROWS),
    (r"text\.layers\.\d+\.mlp\.down\.weight", COLUMNS),
)
"""How a parameter is cut, by its name: the first that fits. All others are replicated."""
KEYS_VALUES = r"text\.layers\.\d+\.attention\.[kv]"
NARROWING = r"text\.layers\.\d+\.(attention\.o|mlp\.down)"
KNOWN = (nn.Linear, nn.Embedding, nn.LayerNorm, RMSNorm)
"""Modules whose parameters can be cut or replicated"""


def placement(name: str, config: Config, ranks: int) -> Placement:
    """How the parameter of that name is cut over so many ranks. Where there are fewer key-value heads than ranks, each
    rank has all of them and computes with one."""
    if config.text.num_key_value_heads < ranks and re.fullmatch(KEYS_VALUES + r"\.\w+", name):
        return WHOLE
    return next((cut for pattern, cut in PLAN if re.fullmatch(pattern, name)), WHOLE)


def apply(stage: Stage, axes: Axes, mesh: DeviceMesh) -> None:
    """Cuts the stage over `mesh`, the axis `tp`: every rank has the whole weights before, and a copy of its part after.
    A vision tower that is frozen stays as it is, on every rank.

    Raises UserError for modules that cannot be cut (adapters).
    """
    group, rank, ranks = axes.group("tp"), axes.rank("tp"), axes.size("tp")
    if group is None:
        return
    kept = {id(p) for p in frozen_tower(stage)}
    for name, module in list(stage.named_modules()):
        own = {key: p for key, p in module.named_parameters(recurse=False) if id(p) not in kept}
        if isinstance(module, MoE):
            own = {"router": module.router}
        elif own and type(module) not in KNOWN:
            raise UserError(
                f"parallel.tp: {name} is a {type(module).__name__}, which cannot be cut; set parallel.tp to 1 (with "
                "adapters: or sft.lora_rank to 0)"
            )
        if own:
            for key, parameter in own.items():
                cut = placement(f"{name}.{key}", stage.config, ranks)
                setattr(module, key, _distributed(parameter, cut, rank, mesh))
            _becomes(module, _reading(_kind(name, type(module)), tuple(own)), group)
            if re.fullmatch(KEYS_VALUES, name):
                module.__dict__["head_rows"] = _head(stage.config, rank, ranks)
    for _, layer in stage.layers():
        _becomes(layer.attention, _Attention, group)
        if isinstance(layer.mlp, SwiGLU):
            _becomes(layer.mlp, _SwiGLU, group)


def frozen_tower(stage: Stage) -> list[nn.Parameter]:
    """The vision tower's parameters where none of them is trained: no rank has only a part of these."""
    parameters = [] if stage.vision is None else list(stage.vision.parameters())
    return [] if any(p.requires_grad for p in parameters) else parameters


def _head(config: Config, rank: int, ranks: int) -> slice | None:
    """The rows of the one key-value head that a rank computes, where all are on each; None where they are cut."""
    heads, size = config.text.num_key_value_heads, config.text.head_dim
    first = rank * heads // ranks * size
    return slice(first, first + size) if heads < ranks else None


def _distributed(parameter: nn.Parameter, cut: Placement, rank: int, mesh: DeviceMesh) -> nn.Parameter:
    """As `distribute_tensor`, without communication: all ranks hold the same."""
    part = whole = parameter.detach()
    if isinstance(cut, Shard):
        length = whole.shape[cut.dim]
        size = -(-length // mesh.size())
        part = whole.narrow(cut.dim, rank * size, min(size, length - rank * size))
    part = part.clone(memory_format=torch.contiguous_format)
    laid = DTensor.from_local(part, mesh, [cut], run_check=False, shape=whole.shape, stride=whole.stride())
    return nn.Parameter(laid, requires_grad=parameter.requires_grad)


def _becomes(module: nn.Module, kind: type[nn.Module], group: ProcessGroup) -> None:
    module.__class__ = kind
    module.group = group  # pyright: ignore[reportArgumentType]


def _kind(name: str, plain: type[nn.Module]) -> type[nn.Module]:
    """What computes in place of the module."""
    if name == "text.embed":
        return _Embedding
    return _Narrowing if re.fullmatch(NARROWING, name) else plain


@cache
def _reading(kind: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """The class whose parameters of those names read as the rank's own part."""

    def reader(name: str) -> property:
        def read(module: nn.Module) -> Tensor:
            return _own(cast(Tensor, module._parameters[name]), cast("slice | None", module.__dict__.get("head_rows")))

        return property(read)

    return type(f"TensorParallel{kind.__name__.strip('_')}", (kind,), {name: reader(name) for name in names})


def _own(parameter: Tensor, rows: slice | None) -> Tensor:
    """The rank's part of what FSDP has put together, and the parameter itself at any other time. The gradient of what
    is replicated is a share."""
    if not isinstance(parameter, DTensor) or parameter.device_mesh.mesh_dim_names != ("tp",):
        return parameter
    (cut,) = parameter.placements
    own = parameter.to_local(grad_placements=[Partial()] if cut.is_replicate() else [cut])
    return own if rows is None else own[rows]


class _Narrowing(nn.Linear):
    group: ProcessGroup

    def forward(self, input: Tensor) -> Tensor:
        """This rank's columns of x [C, ...] -> [S, D]."""
        out = reduce_scatter(F.linear(input, self.weight), self.group)
        return out if self.bias is None else out + self.bias


class _Embedding(nn.Embedding):
    group: ProcessGroup

    def forward(self, input: Tensor) -> Tensor:
        """Long [C] -> [S, D]."""
        weight = self.weight
        first = self.group.rank() * -(-self.num_embeddings // self.group.size())
        here = (input >= first) & (input < first + len(weight))
        found = F.embedding(torch.where(here, input - first, 0), weight)
        return reduce_scatter(found * here[:, None], self.group)


class _Attention(TextAttention):
    group: ProcessGroup

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [S, D] -> q, k, v of the chunk's tokens [C, ...] and this rank's heads."""
        return super().project(all_gather(x, self.group), cos, sin)


class _SwiGLU(SwiGLU):
    group: ProcessGroup

    def forward(self, x: Tensor) -> Tensor:
        """x [S, D] -> [S, D]."""
        return super().forward(all_gather(x, self.group))
