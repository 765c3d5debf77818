"""A model that each rank reads by its parts is the one that is read whole and then cut: bit for bit, on every mesh; and
no rank holds more on the way than its parts and a little."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import world
from safetensors.torch import load_file, save_file
from spread import same, tiny_model
from torch import Tensor
from torch.distributed.tensor import DTensor

from open4ov import training
from open4ov.model import Qwen3VL, lora
from open4ov.parallel import pretrained, recompute
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.model import Parallel
from open4ov.recipe_parallel import ParallelSection

pytestmark = pytest.mark.distributed
SEED = 5


@dataclass(frozen=True)
class Case:
    """kind: the directory; frozen: the tower is; rank: of adapters."""

    sizes: dict[str, Any]
    kind: str = "dense"
    frozen: bool = False
    rank: int = 0


TWO = [
    Case({}, "untied"),
    Case({}, "experts", rank=2),
    Case({"tp": 2}, "half", frozen=True),
    Case({"cp": 2, "ep": 2}, "experts", frozen=True),
    Case({"ep": 2}, "experts", rank=3),
    Case({"dp_replicate": 2}, "dense", rank=2),
    Case({"pp": 2}, "dense", frozen=True),
    Case({"pp": 2, "schedule": "zbv"}, "deep"),
]
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
    from open4ov.model.checkpoint import save

    save(sparse, root / "hub", shard_bytes=60_000)
    assert len(list((root / "hub").glob("*.safetensors"))) > 3
    # what lies beside the files of the index is nobody's business
    save_file({"lm_head.weight": torch.zeros(1)}, root / "hub" / "old.safetensors")
    sparse.save_pretrained(root / "experts")
    path = root / "experts" / "model.safetensors"
    turned = {name: t.transpose(1, 2).contiguous() if ".experts." in name else t for name, t in load_file(path).items()}
    save_file(turned, path)
    config = tiny_model(tiny_dir).config
    untied = Qwen3VL(config.__class__(**{**config.__dict__, "tie_word_embeddings": False}), seed=2)
    untied.save_pretrained(root / "untied")
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
        whole = right.full_state(everywhere=True)
        plain = prepared(Qwen3VL.from_pretrained(folder / case.kind), case)
        found += [f"{case}: whole {name}" for name in same(whole, dict(plain.state_dict()))]
    return found


@pytest.mark.parametrize(("processes", "cases"), [(2, TWO), pytest.param(4, FOUR, marks=pytest.mark.slow)])
def test_parts_are_those_of_the_whole(models: Path, processes: int, cases: list[Case]) -> None:
    for found in world.run(compared, processes, models, cases):
        assert not found
