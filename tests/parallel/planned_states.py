"""What a rank really holds after a step, for `test_plan_check.py`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch.distributed as dist
from packs import processor_of
from parity import passes_of
from spread import spread, tiny_model
from torch import Tensor

from open4ov.parallel.plan_check import own


def held(directory: Path, sizes: dict[str, Any], experts: bool) -> tuple[int, int, int, dict[str, tuple[int, ...]]]:
    """Bytes of this rank's weights, gradients and optimizer, and shapes of its parts, once it has trained a step."""
    model, optimizer = spread(tiny_model(directory, experts), sizes, dist.get_world_size())
    model.accumulate(passes_of(processor_of(directory), None, "plain"), nullcontext)
    found = list(model.named_parameters())
    gradients = sum(own(_there(p.grad)).nbytes for _, p in found)
    optimizer.step()
    kept = sum(own(value).nbytes for state in optimizer.state.values() for value in state.values())
    return sum(own(p).nbytes for _, p in found), gradients, kept, {name: tuple(own(p).shape) for name, p in found}


def _there(gradient: Tensor | None) -> Tensor:
    assert gradient is not None, "every parameter has a gradient"
    return gradient
