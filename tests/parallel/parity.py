"""What a training on a mesh must give: loss, every gradient and the weights after two steps of one process.

`expected` computes them in the test's own process, `on_mesh` in one of many; both from the same seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import world
from packs import grouped_pack, model_of, plain_pack, processor_of, shared_pack, told
from torch import Tensor

from open4ov import training
from open4ov.model import Pack, Processor, Qwen3VL, pack
from open4ov.parallel import recompute
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.model import Parallel, whole
from open4ov.recipe_parallel import ParallelSection
from open4ov.training_pass import Pass, accumulate, score, summed

RATE = 3e-4
"""AdamW steps by up to the rate however small a gradient is. Some components are near its eps of 1e-6, where rounding
decides on percents of the step: at 1e-3 one or two tensors then had a weight 1.0e-5 to 2.2e-5 off."""


@dataclass
class Outcome:
    losses: list[float]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]
    norms: list[float]
    scores: Tensor


def packs_of(processor: Processor, what: str) -> list[Pack]:
    """Four: the last one is of words only, so that some rank has no picture."""
    documents = told(processor)
    first = shared_pack(processor) if what == "shared" else plain_pack(processor)
    return [first, pack(documents[2:4]), pack(documents[1:3]), pack(documents[4:])]


def passes_of(processor: Processor, model: Qwen3VL | None, what: str) -> list[Pass]:
    """The passes of a step: on many ranks of `dp` each takes its share of them."""
    if what == "grouped":
        assert model is not None
        shared = grouped_pack(processor, model)
        ids = shared.pack.input_ids[shared.prompt_tokens :]
        slope = torch.linspace(-1, 1, len(ids))

        def objective(log_probs: Tensor, entropies: Tensor) -> Tensor:
            return (log_probs.exp() * slope).sum() - 0.1 * (log_probs * slope.flip(0)).sum() + entropies.sum() * 0

        one = Pass(shared.pack, shared.vision, shared, shared.read[shared.before], ids, 0.5, 0.7, objective)
        return [one, one]
    packs = packs_of(processor, what)
    total = sum(len(one.predicted) for one in packs)
    return [Pass.of(one, None, len(one.predicted) / total) for one in packs]


def prepared(processor: Processor, kind: str, frozen: bool) -> Qwen3VL:
    model = model_of(processor, kind)
    with torch.no_grad():  # biases of zero would be no larger than the optimizer's steps, and their error no smaller
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    if frozen:
        training.freeze_vision(model)
    return model


def trained(
    model: Qwen3VL | Parallel,
    passes: list[Pass],
    kept: Callable[[Tensor], Tensor],
    calls: int = 1,
) -> Outcome:
    """calls: of `accumulate` before each step of the optimizer, with a share of the passes each."""
    parts = [passes[number::calls] for number in range(calls)]
    optimizer = training.adamw(model, RATE, 0.01)
    for part in optimizer.parts:
        for group in part.param_groups:
            group["eps"] = 1e-6
    losses, norms, found = [], [], {}
    for step in range(2):
        values = [float(value) for part in parts for value in accumulate(model, part)]
        losses.append(summed(model, [sum(values)])[0])
        if step == 0:
            found = {n: kept(p.grad).clone() for n, p in model.named_parameters() if p.grad is not None}
        norms.append(training.step(model, optimizer, RATE, 1.0))
    weights = {name: kept(p.detach()).clone() for name, p in model.named_parameters()}
    return Outcome(losses, found, weights, norms, torch.cat(score(model, passes[0])))


def expected(directory: Path, kind: str, what: str, frozen: bool = False) -> Outcome:
    processor = processor_of(directory)
    model = prepared(processor, kind, frozen)
    return trained(model, passes_of(processor, model, what), lambda x: x)


@dataclass(frozen=True)
class Case:
    """kind: of the model (`packs.config_of`); what: passes over plain packs, such with a shared beginning, or RL's
    groups; frozen: the vision tower is; recompute: on the mesh, of both parts."""

    sizes: dict[str, int]
    kind: str = "dense"
    what: str = "plain"
    frozen: bool = False
    recompute: recompute.Mode = "none"
    adapters: int = 0
    """Their rank; read by `sent.py` alone"""

    def __str__(self) -> str:
        return f"{self.sizes} {self.kind} {self.what}{' frozen' * self.frozen}, recompute {self.recompute}"


def on_meshes(directory: Path, cases: list[Case]) -> list[Outcome]:
    """One after another: starting processes takes longer than a case."""
    return [on_mesh(directory, case) for case in cases]


def compare(directory: Path, processes: int, cases: list[Case]) -> None:
    """Every case on so many processes against one."""
    results = world.run(on_meshes, processes, directory, cases, timeout=900)
    wanted: dict[tuple[str, str, bool], Outcome] = {}
    faults = []
    for number, case in enumerate(cases):
        key = case.kind, case.what, case.frozen
        wanted[key] = wanted.get(key) or expected(directory, *key)
        for rank, outcomes in enumerate(results):
            try:
                assert_same(outcomes[number], wanted[key])
            except AssertionError as error:
                faults.append(f"{case}, rank {rank}: {error}")
    assert not faults, "\n".join(faults)


def on_mesh(directory: Path, case: Case) -> Outcome:
    sizes, kind, what, frozen = case.sizes, case.kind, case.what, case.frozen
    processor = processor_of(directory)
    plain = prepared(processor, kind, frozen)
    options = ParallelSection(**sizes)  # pyright: ignore[reportArgumentType]
    mesh = Mesh.of(options, dist.get_world_size(), plain.config).open("cpu")
    passes = passes_of(processor, plain, what)
    share = len(passes) // mesh.size("dp")
    own = passes[mesh.rank("dp") * share : (mesh.rank("dp") + 1) * share]
    recompute.apply(plain, case.recompute, "none" if frozen else case.recompute)
    model = Parallel.of(plain, mesh, options)
    result = trained(model, own, whole)
    if mesh.rank("dp"):  # the passes scored differ
        result.scores = torch.zeros(0)
    return result


def assert_same(found: Outcome, wanted: Outcome) -> None:
    for a, b in zip(found.losses, wanted.losses, strict=True):
        assert abs(a - b) <= 1e-6 * max(1, abs(b)), (found.losses, wanted.losses)
    for what, own, other in (
        ("gradient", found.gradients, wanted.gradients),
        ("weight", found.weights, wanted.weights),
    ):
        assert own.keys() == other.keys(), own.keys() ^ other.keys()
        far = {n: float((own[n] - other[n]).abs().max() / other[n].abs().max().clamp(min=1e-12)) for n in own}
        worst = max(far, key=lambda n: far[n])
        assert far[worst] <= 1e-5, f"{what} {worst}: {far[worst]:.2e}; of {sum(x > 1e-5 for x in far.values())}"
    torch.testing.assert_close(torch.tensor(found.norms), torch.tensor(wanted.norms), rtol=1e-5, atol=0)
    if len(found.scores):
        torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-4, atol=1e-4)
