"""Which experts each token went to, recorded in one run and forced in another.

A router's choice is a jump: where two experts are as likely as each other, a difference in the last bit sends a token
elsewhere, and two runs that compute the same are far apart. With the choice replayed, what is left to compare is
rounding. Weights and their gradients are of the run itself; only which experts it is that get them is given.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from open4ov.model.moe import MoE

Routes = Mapping[str, Sequence[Tensor]]
"""Layer by its name in the model -> of each pass the experts chosen, Long [T, k]"""
Choose = Callable[[str, MoE, Tensor], tuple[Tensor, Tensor]]
"""(layer's name, layer, probs [T, E]) -> as `MoE.choose`"""


@contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """What the routers choose in the passes within, as it grows. Layers that are computed again for their gradient are
    not recorded again."""
    routes: dict[str, list[Tensor]] = defaultdict(list)

    def record(name: str, layer: MoE, probs: Tensor) -> tuple[Tensor, Tensor]:
        weights, chosen = type(layer).choose(layer, probs)
        if not _again():
            routes[name].append(chosen.cpu())
        return weights, chosen

    with _choosing(model, record):
        yield routes


@contextmanager
def replayed(model: nn.Module, routes: Routes) -> Iterator[None]:
    """The passes within choose what `routes` says, one entry of each layer's list after another.

    A pass may have more tokens than its entry, which fill a shard up: these choose by themselves. A pass that is
    computed again for its gradient takes its entry again, so gradients must come in the order of the passes. Raises
    ValueError for a layer that is not there, or more passes than entries.
    """
    taken: dict[tuple[str, bool], int] = defaultdict(int)

    def replay(name: str, layer: MoE, probs: Tensor) -> tuple[Tensor, Tensor]:
        at = taken[name, _again()]
        taken[name, _again()] += 1
        if at >= len(routes.get(name, ())):
            raise ValueError(f"{name}: pass {at + 1}, but {len(routes.get(name, ()))} were recorded")
        given = routes[name][at].to(probs.device)
        _, own = type(layer).choose(layer, probs[len(given) :])
        chosen = torch.cat([given, own])
        return layer.weigh(probs, chosen), chosen

    with _choosing(model, replay):
        yield


@contextmanager
def _choosing(model: nn.Module, choose: Choose) -> Iterator[None]:
    layers = {name: module for name, module in model.named_modules() if isinstance(module, MoE)}
    for name, layer in layers.items():
        layer.__dict__["choose"] = _bound(choose, name, layer)
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.__dict__["choose"]


def _again() -> bool:
    """Whether this is a computation for the backward pass of one that was."""
    return torch._C._current_graph_task_id() != -1  # as FSDP2 tells them apart


def _bound(choose: Choose, name: str, layer: MoE) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda probs: choose(name, layer, probs)
