"""The mesh: which ranks share what (paper §5.1).

World order from outer to inner: pp, dp_replicate, dp_shard, cp, tp. The same ranks seen by the experts ("sparse"): pp,
dp_replicate, efsdp, ep, with efsdp x ep = dp_shard x cp x tp, so that ep folds tp first: ranks of one machine.

An axis is one of those, or joined of neighbours: dp = dp_replicate x dp_shard (ranks with other packs), fsdp = dp_shard
x cp (what FSDP shards dense parameters over), seq = cp x tp (ranks that share the tokens of a pack), loss =
dp_replicate x dp_shard x cp (ranks that see other targets).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from open4ov.errors import UserError
from open4ov.model.config import Config
from open4ov.recipe_parallel import AXES, ParallelSection

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

JOINED = {
    "dp": ("dp_replicate", "dp_shard"),
    "fsdp": ("dp_shard", "cp"),
    "seq": ("cp", "tp"),
    "loss": ("dp_replicate", "dp_shard", "cp"),
}
"""Axis -> the neighbouring axes that it joins"""
VIEWS: tuple[tuple[str, ...], ...] = (
    ("pp", "dp_replicate", "fsdp", "tp"),
    ("pp", "dp_replicate", "efsdp", "ep"),
    ("pp", "dp_replicate", "dp_shard", "cp", "tp"),
    ("pp", "dp", "seq"),
    ("pp", "loss", "tp"),
)
"""How the world is cut; together these have every axis. The first two are `Mesh.dense` and `Mesh.sparse`."""


@dataclass(frozen=True)
class Mesh:
    """Sizes of the axes, and this process's place among them. Sizes and ranks need no process group; `open` makes them.

    `at`: this process's rank in the world."""

    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1
    ep: int = 1
    at: int = 0
    views: tuple[DeviceMesh, ...] = ()
    spans: dict[tuple[int, int], tuple[int, str]] = field(default_factory=dict, repr=False, compare=False)
    """Distance and number of the ranks of an axis -> the view, and the axis in it, that has their groups"""

    @staticmethod
    def of(options: ParallelSection, world: int, config: Config) -> Mesh:
        """The mesh of `world` processes for that model. Raises UserError, naming the number to change, for sizes that
        do not multiply to the processes or that the model cannot be cut into."""
        mesh = Mesh.sized(options, world)
        faults = [*misfits(mesh, options, config)]
        if faults:
            raise UserError("\n".join(faults))
        return mesh

    @staticmethod
    def sized(options: ParallelSection, world: int) -> Mesh:
        """The mesh of `world` processes, whatever the model. Raises UserError as `of` does."""
        others = options.pp * options.dp_replicate * options.cp * options.tp
        product = " x ".join(f"{axis} {getattr(options, axis)}" for axis in AXES if axis != "dp_shard")
        if options.dp_shard == -1:
            if world % others:
                raise UserError(
                    f"parallel: {product} = {others} does not divide {world}, the processes that were started; start a "
                    f"multiple of {others} (torchrun --nproc-per-node), or change {_named(options)}"
                )
            shard = world // others
        else:
            shard = options.dp_shard
            if others * shard != world:
                raise UserError(
                    f"parallel: {product} x dp_shard {shard} = {others * shard} processes, but {world} were started; "
                    f"start {others * shard} (torchrun --nproc-per-node), or change {_named(options)}"
                    + ("" if world % others else f": parallel.dp_shard of {world // others} or -1 fits")
                )
        folded = shard * options.cp * options.tp
        if folded % options.ep:
            raise UserError(
                f"parallel.ep: {options.ep} must divide dp_shard x cp x tp = {shard} x {options.cp} x {options.tp} = "
                f"{folded}, the ranks that it folds"
            )
        return Mesh(options.pp, options.dp_replicate, shard, options.cp, options.tp, options.ep)

    @property
    def world(self) -> int:
        """Processes."""
        return self.pp * self.dp_replicate * self.dp_shard * self.cp * self.tp

    @property
    def efsdp(self) -> int:
        """Ranks that FSDP shards an expert's parameters over."""
        return self.dp_shard * self.cp * self.tp // self.ep

    def size(self, axis: str) -> int:
        """Ranks along an axis."""
        return prod(getattr(self, name) for name in JOINED.get(axis, (axis,)))

    def rank(self, axis: str, at: int | None = None) -> int:
        """The place along an axis of this process, or of the one of rank `at` in the world."""
        at = self.at if at is None else at
        inner, size = self._span(axis)
        return at // inner % size

    def open(self, device: torch.device | str) -> Mesh:
        """The same mesh with its process groups. torch.distributed must be initialised, with as many processes; all of
        them call this."""
        from torch.distributed.device_mesh import init_device_mesh

        if dist.get_world_size() != self.world:
            raise ValueError(f"a mesh of {self.world} processes was opened by {dist.get_world_size()}")
        kind = torch.device(device).type
        # one root, so that FSDP and tensor parallel can meet in one DTensor
        root = init_device_mesh(kind, (self.world,), mesh_dim_names=("world",))
        views: list[DeviceMesh] = []
        found: dict[tuple[int, int], tuple[int, str]] = {}
        for view in VIEWS:
            new = [axis for axis in view if self.size(axis) > 1 and self._span(axis) not in found]
            if len(views) >= 2 and not new:
                continue  # its groups are there already, by other names; each of gloo's has a thread
            sizes = {axis: self.size(axis) for axis in view}
            cut = root._unflatten(0, (*sizes.values(),), view, _options(kind, sizes))  # pyright: ignore[reportPrivateUsage]
            views.append(cut)
            found |= {self._span(axis): (len(views) - 1, axis) for axis in new}
        return replace(self, at=dist.get_rank(), views=tuple(views), spans=found)

    def _span(self, axis: str) -> tuple[int, int]:
        """How far apart the ranks of an axis are, and how many: two axes with the same have the same groups."""
        view = next(view for view in VIEWS if axis in view)
        return prod(self.size(name) for name in view[view.index(axis) + 1 :]), self.size(axis)

    @property
    def dense(self) -> DeviceMesh:
        """pp, dp_replicate, fsdp, tp."""
        return self._opened()[0]

    @property
    def sparse(self) -> DeviceMesh:
        """pp, dp_replicate, efsdp, ep."""
        return self._opened()[1]

    def group(self, axis: str) -> dist.ProcessGroup | None:
        """The ranks that differ from this one along that axis only; None for an axis of size 1."""
        if self.size(axis) == 1:
            return None
        views = self._opened()
        number, name = self.spans[self._span(axis)]
        return views[number].get_group(name)

    def _opened(self) -> tuple[DeviceMesh, ...]:
        if not self.views:
            raise ValueError("this mesh has sizes only: open it after torch.distributed is initialised")
        return self.views

    def __str__(self) -> str:
        """The axes that are larger than 1, such as `pp 2 x dp_shard 2 x tp 2, ep 4`."""
        sizes = [f"{axis} {self.size(axis)}" for axis in AXES if self.size(axis) > 1]
        return (" x ".join(sizes) or "one process") + (f", ep {self.ep}" if self.ep > 1 else "")


def _options(kind: str, sizes: Mapping[str, int]) -> dict[str, Any] | None:
    """What the groups of a view are given, by axis: on gloo the time-out of the world's group, which they would not
    take over. An axis that is the whole world has that group."""
    whole: Any = dist.group.WORLD
    gloo: Any = dist.ProcessGroupGloo
    backend: Any = whole._get_backend(torch.device(kind)) if kind == "cpu" else None
    if not isinstance(backend, gloo):  # nccl takes it over; a planner's group only pretends
        return None
    timeout = backend.options._timeout
    each: dict[str, Any] = {}
    for axis, size in sizes.items():
        if size < dist.get_world_size():
            options = gloo._Options()
            options._timeout = timeout
            each[axis] = ("gloo", options)
    return each


def _named(options: ParallelSection) -> str:
    """The sizes that one may change."""
    names = [f"parallel.{axis}" for axis in AXES if axis != "dp_shard" and getattr(options, axis) > 1]
    return " or ".join([*names, *([] if options.dp_shard == -1 else ["parallel.dp_shard"])])


def misfits(mesh: Mesh, options: ParallelSection, config: Config) -> Iterator[str]:
    """What of the model the mesh cannot cut, each with the number to change."""
    text = config.text
    tp, seq = mesh.tp, mesh.cp * mesh.tp
    both = f"cp x tp = {mesh.cp} x {tp}" if mesh.cp > 1 else f"{tp}"
    axis = "parallel.cp or parallel.tp" if mesh.cp > 1 and tp > 1 else "parallel.cp" if mesh.cp > 1 else "parallel.tp"
    heads, kv = text.num_attention_heads, text.num_key_value_heads
    if heads % seq:
        yield f"{axis}: the model's {heads} attention heads cannot be shared out to {both}; use a divisor of {heads}"
    elif any(kv % share and share % kv for share in (tp, seq)):
        yield (
            f"{axis}: the model's {kv} key-value heads can neither be shared out to {both} nor be the same number on "
            f"each: use a divisor or a multiple of {kv}"
        )
    dense = any(not text.sparse(layer) for layer in range(text.num_hidden_layers))
    if dense and text.intermediate_size % tp:
        yield f"parallel.tp: {tp} does not divide the feed-forward's width of {text.intermediate_size}"
    if _last(text.vocab_size, tp) < 1:
        yield f"parallel.tp: {tp} ranks cannot share a vocabulary of {text.vocab_size}"
    if mesh.ep > 1 and not text.num_experts:
        yield f"parallel.ep: {mesh.ep}, but this model has no experts; set it to 1"
    elif text.num_experts % mesh.ep:
        yield f"parallel.ep: {mesh.ep} ranks cannot share {text.num_experts} experts evenly; use a divisor of them"
    pieces = mesh.pp * options.pieces
    if pieces > text.num_hidden_layers:
        what = f"{mesh.pp} x {options.pieces} pieces" if options.pieces > 1 else f"{mesh.pp} stages"
        fewer = " or parallel.chunks" if options.pieces > 2 else ""
        yield (
            f"parallel.pp: {what} of the pipeline, but the model has {text.num_hidden_layers} layers; lower parallel.pp"
            f"{fewer}"
        )
    elif mesh.pp > 1 and options.borders and options.borders[-1] >= text.num_hidden_layers:
        yield (
            f"parallel.borders: the last piece would begin at layer {options.borders[-1]}, but the model has "
            f"{text.num_hidden_layers}, counted from 0; it can be {text.num_hidden_layers - 1} at most"
        )


def _last(length: int, parts: int) -> int:
    """What the last of the parts gets, when each before it gets the quotient rounded up, as DTensor cuts."""
    return length - (parts - 1) * -(-length // parts)
