"""A Qwen3-VL on a mesh of processes (paper §5.1): what trainers ask of a model, under every axis.

`Parallel.of` takes a whole model, which every rank has with the same weights, and leaves each rank its part. All ranks
make the same calls in the same order; those that differ in `dp` only have passes of their own, as many on each.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from open4ov.errors import UserError
from open4ov.model import Config, Pack, Qwen3VL, Trainable, VisionFeatures
from open4ov.model.moe import Routing
from open4ov.model.qwen3_vl import router_figures
from open4ov.recipe_parallel import ParallelSection
from open4ov.training_pass import Pass, Precision

from . import data, exchange, expert, fsdp, gradients, loss, pictures, tensor
from .layout import Layout
from .mesh import Mesh
from .reading import Reading
from .stage import Stage

T = TypeVar("T")


class Parallel(Trainable[Pack, VisionFeatures]):
    """The stages of the model that this rank has. Parameters have the names that they have in the whole model; those
    that are trained are DTensors."""

    def __init__(self, config: Config, mesh: Mesh, options: ParallelSection, stages: list[Stage]) -> None:
        super().__init__()
        self.config, self.mesh, self.options = config, mesh, options
        self.stages = stages  # a list is no module: the stages' names are not prefixed
        self.words = loss.Words.of(config.text.vocab_size, mesh)
        self._routings: list[Routing] = []
        self._uneven: list[float] = []

    @classmethod
    def of(
        cls,
        model: Qwen3VL,
        mesh: Mesh,
        options: ParallelSection | None = None,
        *,
        allocate: bool = False,
        half: bool = False,
    ) -> Parallel:
        """Spreads the model over an opened mesh; it is not used any more by itself. It should be on the CPU: only parts
        of it go to the mesh's device. What is frozen must be so before, and recomputation applied. allocate: it is on
        the meta device; this rank's parts get memory, and what lies in it is nothing (`pretrained.opened` fills it).
        half: products will be in bf16, and so may be what FSDP sends (`parallel.gather`).

        Raises UserError for what a mesh cannot cut.
        """
        options = options or ParallelSection()
        if mesh.pp > 1:
            from .piped import Piped  # which builds on this

            return Piped.laid(model, mesh, options, allocate, half)
        stages = [Stage(model, 0, model.config.text.num_hidden_layers)]
        spread(stages, mesh, options, allocate=allocate, half=half)
        return cls(model.config, mesh, options, stages)

    def accumulate(self, passes: Iterable[Pass], precision: Precision) -> list[Tensor]:
        """See `training_pass.accumulate`."""
        values: list[Tensor] = []
        (stage,) = self.stages
        for one, final in _knowing_the_last(passes):
            _sums_over_copies(stage, final)
            with precision():
                part, value = self.objective(one, stage)
            part.backward()
            values.append(value)
        return values

    @torch.no_grad()
    def score(self, one: Pass, precision: Precision) -> tuple[Tensor, Tensor]:
        """See `training_pass.score`."""
        (stage,) = self.stages
        with precision():
            reading, hidden, _ = self._forward(one, stage)
            found = self.scored(one, stage, reading, hidden)
        self.put_away()
        return found

    def objective(self, one: Pass, stage: Stage) -> tuple[Tensor, Tensor]:
        """What this rank goes backward from, and the pass's value, which all ranks that share the pack get."""
        reading, hidden, routings = self._forward(one, stage)
        if one.weight:  # what only keeps in step is two tokens of nobody's
            self._routings = [routing.detach() for routing in routings]
            self._uneven = expert.shares(stage)
        part, value = self.read(one, stage, reading, hidden)
        extra = self.balance(one, routings)
        return (part, value) if extra is None else (part + extra, value + extra.detach())

    def balance(self, one: Pass, routings: Sequence[Routing]) -> Tensor | None:
        """What the layers of these routings add to the pass's value: their share of the mean over all layers with
        experts. None where nothing is added."""
        text = self.config.text
        if not routings or not text.router_aux_loss_coef:
            return None
        layers = sum(text.sparse(layer) for layer in range(text.num_hidden_layers))
        total = torch.stack([routing.balance() for routing in routings]).sum()
        return total * (text.router_aux_loss_coef / layers * one.weight * len(one.ids))

    def read(self, one: Pass, stage: Stage, reading: Reading, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The objective of the last stage's hidden states: this rank's share, and its value."""
        if one.objective is not None:
            part = one.objective(*self.scored(one, stage, reading, hidden)) * one.weight
            return part, part.detach()
        ids = one.ids[reading.span].to(hidden.device)
        part = loss.nll_sum(reading.states(hidden), stage.head_weight, ids, self.words) * one.weight
        value = part.detach().clone()
        if (group := self.mesh.group("cp")) is not None:
            dist.all_reduce(value, group=group)
        return part, value

    def scored(self, one: Pass, stage: Stage, reading: Reading, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """log p [n] and entropies [n] by the last stage's hidden states, on every rank."""
        ids = one.ids[reading.span].to(hidden.device)
        states = reading.states(hidden)
        values, entropies = loss.score(states, stage.head_weight, ids, one.temperature, self.words)
        return reading.together(values), reading.together(entropies)

    def _forward(self, one: Pass, stage: Stage) -> tuple[Reading, Tensor, list[Routing]]:
        pack = one.pack.to(self.device)
        layout = Layout.of(pack, self.config, self.mesh)
        reading = Reading.of(one.rows.to(self.device), layout, self.mesh)
        routings: list[Routing] = []
        balanced = routings if one.objective is None and one.memory is None else None
        tower = self.runs_tower(stage, one)
        hidden, _ = stage(layout, None, None, one.vision, one.memory, balanced, reading.rows, tower)
        return reading, hidden, routings

    def runs_tower(self, stage: Stage, one: Pass) -> bool:
        """Whether some rank's pictures have to pass the tower, which is sharded: then all ranks run it."""
        group = self.mesh.group("dp")
        if group is None or stage.vision is None or not isinstance(stage.vision, FSDPModule):
            return False
        wanted = torch.tensor([float(one.vision is None and len(one.pack.pixels) > 0)], device=self.device)
        dist.all_reduce(wanted, dist.ReduceOp.MAX, group=group)
        return bool(wanted.item())

    def put_away(self) -> None:
        """What was put together for a forward pass without a backward pass is given up: the optimizer changes the
        shards."""
        for stage in self.stages:
            for module in stage.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()

    def loss(self, batch: Pack, vision: VisionFeatures | None = None) -> Tensor:
        """Without a gradient (that is `accumulate`'s): the mean over this rank's batch."""
        if torch.is_grad_enabled():
            raise RuntimeError("a model on many processes gives gradients by `accumulate` only")
        (stage,) = self.stages
        _, value = self.objective(Pass.of(batch, vision, 1.0), stage)
        self.put_away()
        return value

    def encode_images(self, pixels: Tensor, grids: Tensor) -> VisionFeatures:
        """As Qwen3VL's. A rank encodes by itself where the tower is frozen; where it is trained, all ranks call it."""
        tower = self.stages[0].vision
        assert tower is not None, "the first stage has the tower"
        features = tower(pixels.to(self.device), grids)
        if not torch.is_grad_enabled():
            self.put_away()
        return features

    def summed(self, values: Sequence[float]) -> list[float]:
        """See `training_pass.Spread`."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        if (group := self.mesh.group("dp")) is not None:
            dist.all_reduce(total, group=group)
        return total.tolist()

    def shared_out(self, costs: Sequence[float]) -> list[int | None]:
        """See `training_pass.Spread`."""
        return data.share(costs, self.mesh.size("dp"))[self.mesh.rank("dp")]

    def filler(self) -> Pack:
        """See `training_pass.Spread`."""
        return data.filler(self.config)

    @property
    def processes(self) -> int:
        """See `training_pass.Spread`."""
        return self.mesh.world

    @property
    def leads(self) -> bool:
        """See `training_pass.Spread`."""
        return self.mesh.at == 0

    def mine(self, count: int) -> range:
        """See `training_pass.Spread`."""
        return range(self.mesh.at, count, self.mesh.world)

    def told(self, own: T) -> list[T]:
        """See `training_pass.Spread`."""
        return exchange.told(own)

    def gathered(self, own: Sequence[T]) -> list[T]:
        """See `training_pass.Spread`."""
        return exchange.gathered(self.mesh, own)

    def clip(self, parameters: list[nn.Parameter], most: float) -> float:
        """See `training_pass.Spread`."""
        norm = float(gradients.norm(parameters))
        gradients.clip(parameters, norm, most)
        return norm

    def wholes(self) -> Iterator[tuple[str, Tensor, bool]]:
        """The whole weights one after another, on every rank where it computes: name, value, whether it is trained.
        All ranks go through all of them, and copy what they keep: a value may be the model's own memory."""
        for name, parameter in self.named_parameters():
            yield name, whole(parameter.detach()), parameter.requires_grad

    def full_state(self, everywhere: bool = False) -> dict[str, Tensor]:
        """The whole weights by name, copies on the CPU: on rank 0, elsewhere nothing; with `everywhere` on all ranks.
        All ranks call it."""
        wanted = everywhere or self.mesh.at == 0
        state: dict[str, Tensor] = {}
        for name, value, trained in self.wholes():
            if wanted:
                state[name] = value.to("cpu", copy=True).requires_grad_(trained)
        return state

    def to_plain(self, everywhere: bool = False) -> Qwen3VL | None:
        """The model in one process, on the CPU: on rank 0 (None elsewhere), or on all. All ranks call it."""
        state = self.full_state(everywhere)
        if not state:
            return None
        with torch.device("meta"):
            model = Qwen3VL(self.config)
        model.load_state_dict(state, assign=True)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(state[name].requires_grad)
        return model

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return next(self.parameters()).device

    def figures(self) -> dict[str, float]:
        """As Qwen3VL's, of this rank's last pass with a weight; and how much more the busiest `ep` rank computed in it
        than the mean."""
        return {**router_figures(self._routings), **expert.figures(self._uneven)}

    def vision_parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if name.startswith("vision.")]

    def merger_parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if name.startswith(("vision.merger.", "vision.taps."))]

    def word_parameters(self) -> list[Tensor]:
        return [p for name, p in self.named_parameters() if name in ("text.embed.weight", "head.weight")]

    def blocks(self) -> list[nn.Module]:
        raise UserError("sft.compile: blocks are not compiled on several processes; set it to false")

    def named_modules(self, *arguments: Any, **named: Any) -> Generator[tuple[str, nn.Module], None, None]:
        for stage in self.stages:
            yield from stage.named_modules(*arguments, **named)

    def named_parameters(self, *arguments: Any, **named: Any) -> Iterator[tuple[str, nn.Parameter]]:
        for stage in self.stages:
            yield from stage.named_parameters(*arguments, **named)

    def train(self, mode: bool = True) -> Parallel:
        self.training = mode
        for stage in self.stages:
            stage.train(mode)
        return self


def spread(
    stages: Sequence[Stage],
    mesh: Mesh,
    options: ParallelSection,
    gathered: bool = False,
    allocate: bool = False,
    half: bool = False,
) -> None:
    """Cuts the stages of a rank as the mesh says. gathered: what FSDP has put together stays so for a whole step.
    allocate, half: see `Parallel.of`."""
    for stage in stages:
        expert.apply(stage, mesh, options.dispatch)
        tensor.apply(stage, mesh, mesh.dense["tp"])
        if stage.vision is not None and options.vision == "pictures" and not tensor.frozen_tower(stage):
            pictures.apply(stage.vision, stage.config, mesh.group("seq"))
        fsdp.apply(stage, mesh, gathered, half and options.gather == "auto")
        if allocate:
            stage.to_empty(device=mesh.dense.device_type)
        else:
            _moved(stage, mesh.dense.device_type)


def _moved(stage: Stage, kind: str) -> None:
    """What nothing has cut, such as a frozen tower, goes to the mesh's device; the parts of all else are there. So a
    model may stay on the CPU until it is spread."""
    for one in (*stage.parameters(), *stage.buffers()):
        if not isinstance(one, DTensor) and one.device.type not in (kind, "meta"):
            one.data = one.data.to(kind)


def whole(value: Tensor) -> Tensor:
    """A tensor put together from all ranks that have parts of it; they all call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _sums_over_copies(stage: Stage, now: bool) -> None:
    """Of a step's passes only the last one adds the gradients up over dp_replicate."""
    assert isinstance(stage, FSDPModule)
    stage.set_requires_all_reduce(now)


def _knowing_the_last(passes: Iterable[Pass]) -> Iterator[tuple[Pass, bool]]:
    before: Pass | None = None
    for one in passes:
        if before is not None:
            yield before, False
        before = one
    if before is not None:
        yield before, True
