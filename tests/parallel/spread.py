"""A model on a mesh for the tests of checkpoints, with an optimizer, and steps whose gradients come from the weights
alone: number by number, so that every mesh computes the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny import moe_config
from torch import Tensor

from open4ov import training
from open4ov.checkpoints import Checkpoint
from open4ov.model import Processor, Qwen3VL
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.model import Parallel, whole
from open4ov.recipe_parallel import ParallelSection
from open4ov.training import Optimizer


def tiny_model(directory: Path, experts: bool = False, deep: bool = False) -> Qwen3VL:
    """`deep`: with as many layers as a V of two ranks needs."""
    if not experts:
        model = Qwen3VL.from_pretrained(directory)
        text = replace(model.config.text, num_hidden_layers=4)
        return Qwen3VL(replace(model.config, text=text), seed=1) if deep else model
    return Qwen3VL(moe_config(Processor.from_pretrained(directory), num_experts=4), seed=1)


def spread(model: Qwen3VL, sizes: dict[str, Any], processes: int) -> tuple[Parallel, Optimizer]:
    options = ParallelSection.model_validate(sizes)
    parallel = Parallel.of(model, Mesh.of(options, processes, model.config).open("cpu"), options)
    return parallel, training.adamw(parallel, 1e-2, 0.1)


def step(model: Any, optimizer: Optimizer, number: int) -> None:
    for _, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.grad = parameter.detach() * 0.5 + 0.125 * number
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    optimizer.step()


def weights(model: Any) -> dict[str, Tensor]:
    return collected((name, p.detach()) for name, p in model.named_parameters())


def states(model: Any, optimizer: Optimizer) -> dict[str, Tensor]:
    names = {id(p): name for name, p in model.named_parameters()}
    return collected(
        (f"{key}.{names[id(p)]}", value) for p, state in optimizer.state.items() for key, value in state.items()
    )


def collected(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Whole tensors by name; what is there twice (tied words) must be the same both times."""
    found: dict[str, Tensor] = {}
    for name, value in named:
        value = whole(value).clone()
        assert torch.equal(found.setdefault(name, value), value), name
    return found


def point(done: int, **fields: Any) -> Checkpoint:
    return Checkpoint(done, "a training", [{"step": number} for number in range(1, done + 1)], {"seen": done}, **fields)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Names in which they differ by one bit or more, or that are not in both."""
    other = set(found) ^ set(expected)
    return sorted(other | {name for name in found if name in expected and not torch.equal(found[name], expected[name])})
