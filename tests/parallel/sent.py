"""A step in bf16 on a mesh, its layers sent in bf16 and in float32: loss, gradients, and the bytes gathered."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from packs import processor_of
from parity import Case, passes_of, prepared
from torch import Tensor

from open4ov.model import lora
from open4ov.parallel import recompute
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.model import Parallel, whole
from open4ov.recipe_parallel import ParallelSection
from open4ov.training_pass import accumulate, score, summed


@dataclass
class Sent:
    loss: float
    gradients: dict[str, Tensor]
    scores: Tensor
    gathered: int
    """Bytes that `all_gather_single` gave this rank"""


def on_meshes(directory: Path, cases: list[Case]) -> list[dict[str, Sent]]:
    return [{gather: on_mesh(directory, case, gather) for gather in ("auto", "fp32")} for case in cases]


def on_mesh(directory: Path, case: Case, gather: str) -> Sent:
    processor = processor_of(directory)
    plain = prepared(processor, case.kind, case.frozen)
    if case.adapters:
        lora.add(plain, case.adapters, seed=1)
    options = ParallelSection(**case.sizes, gather=gather)  # pyright: ignore[reportArgumentType]
    mesh = Mesh.of(options, dist.get_world_size(), plain.config).open("cpu")
    passes = passes_of(processor, plain, case.what)
    share = len(passes) // mesh.size("dp")
    own = passes[mesh.rank("dp") * share : (mesh.rank("dp") + 1) * share]
    recompute.apply(plain, case.recompute, "none" if case.frozen else case.recompute)
    model = Parallel.of(plain, mesh, options, half=True)
    gathered, plainly = 0, dist.all_gather_single

    def counted(output_tensor: Tensor, *arguments: Any, **named: Any) -> Any:
        nonlocal gathered
        gathered += output_tensor.nbytes
        return plainly(output_tensor, *arguments, **named)

    precision = partial(torch.autocast, "cpu", torch.bfloat16)
    dist.all_gather_single = counted
    try:
        values = [float(value) for value in accumulate(model, own, precision)]
    finally:
        dist.all_gather_single = plainly
    loss = summed(model, [sum(values)])[0]
    gradients = {name: whole(p.grad).clone() for name, p in model.named_parameters() if p.grad is not None}
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    return Sent(loss, gradients, torch.cat(score(model, passes[0], precision)), gathered)
