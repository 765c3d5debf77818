"""Training steps in one process, or in this rank of several; part of `python -m bench.parallel`.

    [torchrun --nproc-per-node 2 -m | python -m] bench.parallel_worker SETTINGS

SETTINGS is JSON: model (nano, 60M), packs (of a step), documents (of a pack), threads (of a process), warmup, steps,
parallel (the recipe's section), out (a file that rank 0 writes: {"seconds", "losses"} of each timed step).
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from bench.steps import NANO, middle, work
from open4ov import training
from open4ov.model import Pack, Processor, Qwen3VL, pack
from open4ov.parallel.launch import joined, launched
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.model import Parallel
from open4ov.recipe_parallel import ParallelSection
from open4ov.training_pass import Pass, accumulate, shared_out, summed

LENGTH = 96
"""Tokens of a document, 9 of them a picture's"""


def model_of(name: str) -> Qwen3VL:
    shipped = Qwen3VL.from_pretrained(NANO)
    return shipped if name == "nano" else Qwen3VL(middle(shipped.config), seed=1)


def batch_of(packs: int, documents: int) -> list[Pack]:
    """The packs of a step: the same in each, and no two alike."""
    made = work(Processor.from_pretrained(NANO), [LENGTH] * (packs * documents)).documents
    return [pack(made[start : start + documents]) for start in range(0, len(made), documents)]


def main() -> None:
    told = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(told["threads"])
    torch.set_flush_denormal(True)
    options = ParallelSection(**told["parallel"])
    with joined(options, "cpu") if launched() else nullcontext() as world:
        model = model_of(told["model"])
        training.freeze_vision(model)
        if world is not None:
            mesh = Mesh.of(options, world.size, model.config).open(world.device)
            model = Parallel.of(model, mesh, options)
        found = steps(model, batch_of(told["packs"], told["documents"]), told["warmup"], told["steps"])
        if world is None or world.leads:
            Path(told["out"]).write_text(json.dumps(found))


def steps(model: Qwen3VL | Parallel, batch: list[Pack], warmup: int, count: int) -> dict[str, list[float]]:
    """As `sft.fit` makes them, with pictures encoded by the frozen tower in each."""
    optimizer = training.adamw(model, 1e-4)
    costs = [float(len(one.input_ids)) for one in batch]
    found: dict[str, list[float]] = {"seconds": [], "losses": []}
    for number in range(warmup + count):
        began = time.perf_counter()
        mine = shared_out(model, lambda: costs, len(batch))
        assert None not in mine, "as many packs for each rank"
        losses = accumulate(model, (Pass.of(batch[i], None, 1 / len(batch)) for i in mine if i is not None))
        (loss,) = summed(model, [sum(float(one) for one in losses)])
        training.step(model, optimizer, 1e-4, 1.0)
        if number >= warmup:
            found["seconds"].append(time.perf_counter() - began)
            found["losses"].append(loss)
    return found


if __name__ == "__main__":
    main()
