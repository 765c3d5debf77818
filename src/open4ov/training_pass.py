"""What a trainer asks of a model: gradients of an objective over some tokens of a pack, and scores of tokens. The same
for a model in one process and one that is spread over many.

A trainer's weights divide by what the whole step has, on all ranks; gradients are sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from open4ov.model import Config, Memory, Pack, Qwen3VL, Trainable, VisionFeatures

Precision = Callable[[], AbstractContextManager[Any]]
"""What a forward pass is computed in"""
T = TypeVar("T")


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass over a pack. n tokens are scored."""

    pack: Pack
    vision: VisionFeatures | None
    """Of the pack's pictures; None: they are encoded from its pixels"""
    memory: Memory | None
    rows: Tensor
    """Long [n]: tokens whose hidden states are read; some may be there several times"""
    ids: Tensor
    """Long [n]: the token that follows each"""
    weight: float
    """What the objective is multiplied with"""
    temperature: float = 1.0
    objective: Callable[[Tensor, Tensor], Tensor] | None = None
    """(log-probabilities [n], entropies [n] without gradient) -> scalar; None: the sum of -log p, with `temperature` 1.
    Every rank that shares the pack computes the same"""

    @staticmethod
    def of(pack: Pack, vision: VisionFeatures | None, share: float) -> Pass:
        """The mean -log p of the pack's targets (nats a token), times `share`."""
        at = pack.predicted
        return Pass(pack, vision, None, at - 1, pack.input_ids[at], share / max(len(at), 1))


@dataclass(frozen=True)
class Whole:
    """One forward and backward pass whose objective is the model's own loss (`Trainable.loss`), for any model."""

    batch: Any
    vision: Any
    share: float
    """What the loss is multiplied with"""


@runtime_checkable
class Spread(Protocol):
    """A model that lies on many processes (`parallel.Parallel`). All of them make the same calls."""

    @property
    def config(self) -> Config: ...

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        ...

    @property
    def processes(self) -> int:
        """How many there are."""
        ...

    def accumulate(self, passes: Iterable[Pass], precision: Precision) -> list[Tensor]: ...

    def score(self, one: Pass, precision: Precision) -> tuple[Tensor, Tensor]: ...

    def summed(self, values: Sequence[float]) -> list[float]:
        """Each over the ranks that compute other passes."""
        ...

    def shared_out(self, costs: Sequence[float]) -> list[int | None]:
        """Of a step's passes those of this rank, by their costs; None: one that only keeps in step with the others."""
        ...

    def filler(self) -> Pack:
        """A pack for such a pass."""
        ...

    def mine(self, count: int) -> range:
        """Of so many pieces of work that any process can do by itself, those of this one, by number."""
        ...

    def told(self, own: T) -> list[T]:
        """What every process says, by rank."""
        ...

    def gathered(self, own: Sequence[T]) -> list[T]:
        """What the ranks that compute other passes have, one after another. Of those that share a pass, one that has
        something counts."""
        ...

    def clip(self, parameters: list[nn.Parameter], most: float) -> float:
        """Scales the gradients down to the norm `most` where theirs is larger; what it was."""
        ...


def accumulate(
    model: Trainable[Any, Any], passes: Iterable[Pass | Whole], precision: Precision = nullcontext
) -> list[Tensor]:
    """Computes the passes one after another and adds up their gradients -> what each objective was, times its weight.

    With experts, a pass without an objective adds the mean of the layers' balancing losses, times the model's
    coefficient and the pass's share (`weight` x n). On many processes the values are of this rank's passes, and the
    gradients of all ranks'.
    """
    if isinstance(model, Spread):
        return model.accumulate((_as_pass(one) for one in passes), precision)
    values: list[Tensor] = []
    for one in passes:
        with precision():
            value = _value(model, one)
        value.backward()
        values.append(value.detach())
    return values


@torch.no_grad()
def score(model: Trainable[Any, Any], one: Pass, precision: Precision = nullcontext) -> tuple[Tensor, Tensor]:
    """log p of the pass's tokens [n] at its temperature, and the entropies [n] (nats), without gradient."""
    if isinstance(model, Spread):
        return model.score(one, precision)
    assert isinstance(model, Qwen3VL), "a Pass is for a Qwen3-VL"
    with precision():
        return _scored(model, one)


def processes(model: nn.Module) -> int:
    """That the model lies on."""
    return model.processes if isinstance(model, Spread) else 1


def summed(model: nn.Module, values: Sequence[float]) -> list[float]:
    """Each over all ranks that compute other passes."""
    return model.summed(values) if isinstance(model, Spread) else list(values)


def shared_out(model: nn.Module, costs: Callable[[], Sequence[float]], count: int) -> list[int | None]:
    """Of a step's `count` passes those of this process, by their costs; None: one that only keeps in step."""
    return model.shared_out(costs()) if isinstance(model, Spread) else list(range(count))


def told(model: nn.Module, own: T) -> list[T]:
    """What every process says, by rank."""
    return model.told(own) if isinstance(model, Spread) else [own]


def gathered(model: nn.Module, own: Sequence[T]) -> list[T]:
    """What the processes that compute other passes have, one after another."""
    return model.gathered(own) if isinstance(model, Spread) else list(own)


def most(model: nn.Module, counts: Sequence[int]) -> list[int]:
    """Each count as the process has it that has most."""
    return [max(each) for each in zip(*told(model, list(counts)), strict=True)]


def in_step(model: nn.Module, passes: Iterable[Pass], count: int) -> Iterator[Pass]:
    """The passes of this process, and so many more that there are `count`, which only keep in step with other
    processes. They are beside passes that have an objective."""
    made = 0
    for one in passes:
        made += 1
        yield one
    for _ in range(count - made):
        assert isinstance(model, Spread), "a process alone keeps in step with itself"
        nothing = torch.zeros(0, dtype=torch.long)
        yield Pass(model.filler(), None, None, nothing, nothing, 0.0, objective=lambda log_probs, _: log_probs.sum())


def _value(model: Trainable[Any, Any], one: Pass | Whole) -> Tensor:
    if isinstance(one, Whole):
        return model.loss(one.batch, one.vision) * one.share
    assert isinstance(model, Qwen3VL), "a Pass is for a Qwen3-VL"
    if one.objective is not None:
        return one.objective(*_scored(model, one)) * one.weight
    rows, ids = one.rows.to(model.device), one.ids.to(model.device)
    return model.mean_nll(one.pack, rows, ids, one.vision, one.memory) * (one.weight * len(ids))


def _scored(model: Qwen3VL, one: Pass) -> tuple[Tensor, Tensor]:
    read, place = torch.unique(one.rows.to(model.device), return_inverse=True)
    hidden = model.hidden_states(one.pack, one.vision, one.memory, rows=read)
    return model.score(hidden.index_select(0, place), one.ids.to(model.device), one.temperature)


def _as_pass(one: Pass | Whole) -> Pass:
    return one if isinstance(one, Pass) else Pass.of(one.batch, one.vision, one.share)
