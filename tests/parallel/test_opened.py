"""A model that each rank reads by its parts is the one that is read whole and then cut: bit for bit, on every mesh; and
no rank holds more on the way than its parts and a little."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import world
from packs import processor_of
from parity import passes_of, trained
from safetensors.torch import load_file, save_file
from spread import same, tiny_model
from torch import Tensor
from torch.distributed.tensor import DTensor

from open4ov import training
from open4ov.model import Qwen3VL, checkpoint, lora
from open4ov.model.checkpoint import save
from open4ov.parallel import pretrained, recompute
from open4ov.parallel.launch import World
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.model import Parallel
from open4ov.recipe import Recipe, SftSection
from open4ov.recipe_parallel import ParallelSection
from open4ov.sft.spread import Task, Training
from open4ov.stages.spread import _parted

pytestmark = pytest.mark.distributed
SEED = 5


@dataclass(frozen=True)
class Case:
    """kind: the directory; frozen: the tower is; rank: of adapters."""

    sizes: dict[str, Any]
    kind: str = "dense"
    frozen: bool = False
    rank: int = 0
    steps: bool = False


TWO = [
    Case({}, "untied"),
    Case({}, "experts", rank=2),
    Case({"tp": 2}, "half", frozen=True, steps=True),
    Case({"cp": 2, "ep": 2}, "experts", frozen=True),
    Case({"ep": 2}, "experts", rank=3),
    Case({"dp_replicate": 2}, "dense", rank=2),
    Case({"pp": 2}, "dense", frozen=True, steps=True),
    Case({"pp": 2, "schedule": "zbv"}, "deep"),
]
UNEVEN = [Case({}, "untied", steps=True), Case({}, "experts", rank=2, steps=True)]
"""On three ranks FSDP pads its parts"""
FOUR = [
    Case({}, "experts"),
    Case({"ep": 2}, "experts", rank=2),
    Case({"ep": 4}, "hub", frozen=True),
    Case({"tp": 2, "ep": 2}, "experts"),
    Case({"tp": 2, "ep": 4}, "hub"),
    Case({"tp": 4}, "half"),
    Case({"cp": 2, "tp": 2}, "untied", frozen=True),
    Case({"dp_replicate": 2, "tp": 2}, "half"),
    Case({"dp_replicate": 2, "ep": 2}, "experts", rank=2),
    Case({"pp": 2, "tp": 2}, "dense"),
    Case({"pp": 2, "ep": 2}, "experts", frozen=True, rank=2),
    Case({"pp": 2, "schedule": "zbv"}, "deep", rank=2),
]


@pytest.fixture(scope="module")
def models(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories by kind: in one file and in several, float32 and bfloat16, experts as released and as transformers 5
    saves its own, head tied and not."""
    root = tmp_path_factory.mktemp("models")
    tiny_model(tiny_dir).save_pretrained(root / "dense")
    tiny_model(tiny_dir).save_pretrained(root / "half", torch.bfloat16)
    tiny_model(tiny_dir, deep=True).save_pretrained(root / "deep")
    sparse = tiny_model(tiny_dir, experts=True)
    save(sparse, root / "hub", torch.bfloat16, shard_bytes=60_000)
    assert len(list((root / "hub").glob("*.safetensors"))) > 3
    # what lies beside the files of the index is nobody's business
    save_file({"lm_head.weight": torch.zeros(1)}, root / "hub" / "old.safetensors")
    sparse.save_pretrained(root / "experts")
    path = root / "experts" / "model.safetensors"
    turned = {name: t.transpose(1, 2).contiguous() if ".experts." in name else t for name, t in load_file(path).items()}
    save_file(turned, path)
    config = tiny_model(tiny_dir).config
    Qwen3VL(replace(config, tie_word_embeddings=False), seed=2).save_pretrained(root / "untied", torch.bfloat16)
    for file in tiny_dir.glob("*"):
        if not (root / "dense" / file.name).exists():
            (root / "dense" / file.name).write_bytes(file.read_bytes())
    return root


def prepared(model: Qwen3VL, case: Case) -> Qwen3VL:
    recompute.apply(model, "full")
    if case.rank:
        lora.add(model, case.rank, seed=SEED)
    elif case.frozen:
        training.freeze_vision(model)
    return model


def mesh_of(model: Qwen3VL, case: Case) -> tuple[Mesh, ParallelSection]:
    options = ParallelSection.model_validate(case.sizes)
    return Mesh.of(options, dist.get_world_size(), model.config).open("cpu"), options


def read_whole(folder: Path, case: Case) -> Parallel:
    model = prepared(Qwen3VL.from_pretrained(folder / case.kind), case)
    return Parallel.of(model, *mesh_of(model, case))


def read_parts(folder: Path, case: Case) -> Parallel:
    model = prepared(pretrained.skeleton(folder / case.kind), case)
    assert all(p.is_meta for p in model.parameters())
    return pretrained.opened(model, folder / case.kind, *mesh_of(model, case), seed=SEED)


def own(parameter: Tensor) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def compared(folder: Path, cases: list[Case]) -> list[str]:
    """In what the two differ on this rank."""
    found: list[str] = []
    for case in cases:
        left, right = list(read_whole(folder, case).named_parameters()), read_parts(folder, case)
        for (name, a), (other, b) in zip(left, right.named_parameters(), strict=True):
            alike = name == other and type(a) is type(b) and a.requires_grad == b.requires_grad
            if isinstance(a, DTensor) and isinstance(b, DTensor):
                alike = alike and a.placements == b.placements and a.shape == b.shape and a.stride() == b.stride()
            here, there = own(a.detach()), own(b.detach())
            alike = alike and here.dtype == there.dtype and here.stride() == there.stride() and torch.equal(here, there)
            if not alike:
                found.append(f"{case}: {name}")
        if case.steps:
            ours, theirs = (stepped(folder, read(folder, case)) for read in (read_parts, read_whole))
            found += [f"{case}: after two steps {name}" for name in same(ours, theirs)]
        whole = right.full_state(everywhere=True)
        plain = prepared(Qwen3VL.from_pretrained(folder / case.kind), case)
        found += [f"{case}: whole {name}" for name in same(whole, dict(plain.state_dict()))]
    return found


def stepped(folder: Path, model: Parallel) -> dict[str, Tensor]:
    """The weights after two steps of the optimizer on real passes, and the losses."""
    outcome = trained(model, passes_of(processor_of(folder / "dense"), None, "plain"), lambda value: own(value))
    return {**outcome.weights, "losses": torch.tensor(outcome.losses)}


@pytest.mark.parametrize(
    ("processes", "cases"),
    [(2, TWO), pytest.param(3, UNEVEN, marks=pytest.mark.slow), pytest.param(4, FOUR, marks=pytest.mark.slow)],
)
def test_parts_are_those_of_the_whole(models: Path, processes: int, cases: list[Case]) -> None:
    for found in world.run(compared, processes, models, cases):
        assert not found


def most(folder: Path, case: Case, read: Callable[[Path, Case], Parallel]) -> tuple[int, int, int]:
    """Bytes of this rank's parts, of the largest of them, and the most that was allocated at once while it read. A file
    is mapped, not read, though PyTorch counts it."""
    files = {path.stat().st_size for path in (folder / case.kind).glob("*.safetensors")}
    gc.collect()  # models of before go before: what is freed on the way would be taken off
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = read(folder, case)
    events: Any = profiler.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    sizes = [one.nbytes() for one in sorted(events, key=lambda one: one.start_ns()) if one.name() == "[memory]"]
    parts = [own(p).nbytes for p in model.parameters()]
    return sum(parts), max(parts), max(accumulate(size for size in sizes if abs(size) not in files))


def measured(folder: Path, cases: list[Case]) -> list[tuple[Case, tuple[int, int, int], tuple[int, int, int]]]:
    return [(case, most(folder, case, read_parts), most(folder, case, read_whole)) for case in cases]


def test_no_rank_allocates_more_than_its_parts_and_one_more(models: Path) -> None:
    """Read whole it is more, by the same measure."""
    cases = [Case({}, "half"), Case({"ep": 2}, "hub"), Case({"pp": 2}, "half", frozen=True)]
    for rank in world.run(measured, 2, models, cases):
        for case, (parts, largest, peak), (_, _, whole_peak) in rank:
            assert parts <= peak <= parts + largest < whole_peak, case


def joined(folder: Path, store: Path) -> list[list[tuple[str, bool, bool]]]:
    """What the stages' own code makes of models for SFT with adapters, without, for RL and for DPO, where nobody may
    read a whole model: of each parameter its name, whether it is trained, and whether it is that of the whole."""
    given = {kind: dict(prepared_for(folder / kind, rank)) for kind, rank in (("experts", 2), ("dense", 0))}

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the whole model was read")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qwen3VL, "from_pretrained", refuse)
        patch.setattr(checkpoint, "load", refuse)
        at, rendezvous = dist.get_rank(), dist.distributed_c10d._get_default_store()
        here = World(at, dist.get_world_size(), at, torch.device("cpu"), rendezvous)
        recipe = Recipe.model_validate({"name": "x", "parallel": {"dp_shard": 2}, "sft": {"lora_rank": 2}})
        task = Task("knowledge", str(folder / "experts"), str(store), str(store), SEED)
        sft = Training(here, recipe, task, encoder=None)  # pyright: ignore[reportArgumentType]
        plain = recipe.model_copy(update={"sft": SftSection()})
        still = Training(here, plain, replace(task, start=str(folder / "dense")), encoder=None)  # pyright: ignore[reportArgumentType]
        others = [_parted(here, recipe, folder / "dense", frozen, "fp32", SEED) for frozen in (True, False)]
    found = [(sft.model, given["experts"]), *((model, given["dense"]) for model in (still.model, *others))]
    return [
        [(name, trained, torch.equal(value, whole[name])) for name, value, trained in model.wholes()]
        for model, whole in found
    ]


def prepared_for(folder: Path, rank: int) -> Iterator[tuple[str, Tensor]]:
    model = Qwen3VL.from_pretrained(folder)
    if rank:
        lora.add(model, rank, seed=SEED)
    return iter(model.state_dict().items())


def test_stages_read_parts_only(models: Path, tmp_path: Path) -> None:
    for sft, still, online, preferences in world.run(joined, 2, models, tmp_path):
        for told in (sft, still, online, preferences):
            assert all(alike for _, _, alike in told)
        assert {name for name, trained, _ in sft if trained} == {name for name, _, _ in sft if lora.is_adapter(name)}
        assert all(trained for _, trained, _ in preferences)
        assert {trained for name, trained, _ in online if name.startswith("vision.")} == {False}
