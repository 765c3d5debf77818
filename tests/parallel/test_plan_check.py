"""Shapes and bytes as planned, and as the training's own code has them on fake meshes of the full size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import world
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_states import held
from spread import tiny_model
from tiny import moe_config, tiny_config, tiny_tokenizer

from open4ov.model import Config, make_tokenizer_files
from open4ov.model.sizes import SIZES
from open4ov.parallel import plan_check, plan_hardware, plan_shapes
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.plan_job import Job, Work
from open4ov.parallel.plan_memory import States, states
from open4ov.parallel.plan_spread import Setup
from open4ov.recipe_parallel import ParallelSection


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Config]:
    processor = make_tokenizer_files(tmp_path_factory.mktemp("tiny"), tiny_tokenizer())
    return {"dense": tiny_config(processor, tie=False), "experts": moe_config(processor, num_experts=8)}


def setup(config: Config, world: int, frozen: bool = False, **sizes: Any) -> Setup:
    options = ParallelSection(**sizes)
    job = Job("model", config, Work((64,), predicted=16), packs=world, frozen_vision=frozen)
    return Setup(job, options, Mesh.of(options, world, config), plan_hardware.find("h100"))


@pytest.mark.parametrize(
    ("kind", "world", "sizes", "frozen"),
    [
        ("dense", 1, {}, False),
        ("dense", 8, {"tp": 2, "dp_replicate": 2}, False),
        ("dense", 8, {"tp": 4}, False),  # more ranks than key-value heads
        ("dense", 12, {"cp": 2}, True),  # sizes that do not divide the shapes
        ("experts", 8, {"ep": 4}, False),
        ("experts", 16, {"ep": 8, "tp": 2, "dp_replicate": 2}, False),
        ("experts", 16, {}, True),  # more ranks than experts: each is cut
        ("dense", 6, {"pp": 3}, False),
        ("experts", 8, {"pp": 2, "ep": 2, "tp": 2}, True),
        ("dense", 2, {"pp": 2, "borders": (1,)}, False),
    ],
)
def test_as_planned(configs: dict[str, Config], kind: str, world: int, sizes: dict[str, Any], frozen: bool) -> None:
    for one in plan_check.check(setup(configs[kind], world, frozen, **sizes)):
        assert one.exact, (one.rank, one.planned, one.built, one.differences[:5])


@pytest.mark.distributed
@pytest.mark.parametrize(("experts", "sizes"), [(False, {"tp": 2}), (True, {"ep": 2})])
def test_as_ranks_hold_it_after_a_step(tiny_dir: Path, experts: bool, sizes: dict[str, int]) -> None:
    """Two processes that train: their gradients and AdamW's states, beside those of the fake group."""
    one = setup(tiny_model(tiny_dir, experts).config, 2, **sizes)
    for rank, (weights, gradients, optimizer, shapes) in enumerate(world.run(held, 2, tiny_dir, sizes, experts)):
        planned = one.held(rank)
        assert states(planned, False) == States(weights, gradients, optimizer)
        assert {part.name: part.local for part in planned} == shapes


def test_a_wrong_plan_is_told(configs: dict[str, Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_shapes, "ROW", 0)
    (one,) = plan_check.check(setup(configs["dense"], 4, tp=2), [1])
    assert not one.exact
    assert any("text.layers.0.attention.o.weight: planned part [12, 64], built [24, 32]" in x for x in one.differences)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "world", "sizes"),
    [
        ("8B", 64, {"tp": 2}),
        ("8B", 512, {"tp": 4, "dp_replicate": 2}),
        ("30B-A3B", 64, {"ep": 8}),
        ("30B-A3B", 512, {"ep": 16, "tp": 2, "dp_replicate": 4}),
        ("30B-A3B", 512, {"pp": 4, "ep": 8, "schedule": "interleaved"}),
    ],
)
def test_released_sizes_on_large_meshes(name: str, world: int, sizes: dict[str, int]) -> None:
    for one in plan_check.check(setup(SIZES[name], world, **sizes)):
        assert one.exact, (one.rank, one.planned, one.built, one.differences[:5])


@settings(max_examples=50)
@given(length=st.integers(0, 500), parts=st.integers(1, 40))
def test_parts_make_the_whole(length: int, parts: int) -> None:
    sizes = [plan_shapes.cut(length, parts, at) for at in range(parts)]
    assert sum(sizes) == length
    assert sizes == sorted(sizes, reverse=True)


def test_parameters_are_those_of_the_sizes() -> None:
    """Totals as the models' makers publish them."""
    for name, total in (("8B", 8_767_123_696), ("30B-A3B", 31_070_754_032), ("2B", 2_127_532_032)):
        config = SIZES[name]
        found = plan_shapes.held(config, Mesh(), plan_shapes.whole(config))
        assert sum(one.full for one in found) == total
        assert sum(one.count for one in found) == total


def test_all_ranks_hold_the_whole(configs: dict[str, Config]) -> None:
    """Every number of a parameter lies on as many ranks as there are copies of it."""
    mesh, config = Mesh(dp_replicate=2, dp_shard=3, tp=2, ep=2), configs["experts"]
    whole = plan_shapes.whole(config)
    dims = {name: dim for name, _, dim in plan_shapes.parameters(config, whole)}
    by_rank = [plan_shapes.held(config, mesh, whole, at) for at in range(mesh.world)]
    for parts in zip(*by_rank, strict=True):
        one = parts[0]
        cut = one.expert or (dims[one.name] is not None and not one.name.startswith("vision."))
        assert sum(part.count for part in parts) == one.full * (2 if cut else 4), one.name
