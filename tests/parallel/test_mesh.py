"""The mesh: sizes checked before anything starts, and groups that hold the ranks which the order of the axes says."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import world

from open4ov.errors import UserError
from open4ov.model.sizes import SIZES
from open4ov.parallel.mesh import JOINED, VIEWS, Mesh
from open4ov.recipe_parallel import ParallelSection

DENSE, SPARSE = SIZES["8B"], SIZES["30B-A3B"]


def section(**sizes: Any) -> ParallelSection:
    return ParallelSection.model_validate(sizes)


def test_what_is_left_goes_to_fsdp() -> None:
    mesh = Mesh.of(section(pp=2, dp_replicate=2, tp=4, ep=8), 64, SPARSE)
    assert (mesh.dp_shard, mesh.efsdp, mesh.world) == (4, 2, 64)
    assert [mesh.size(axis) for axis in ("dp", "fsdp", "seq", "loss", "efsdp", "ep")] == [8, 4, 4, 8, 2, 8]
    assert str(mesh) == "pp 2 x dp_replicate 2 x dp_shard 4 x tp 4, ep 8"
    assert Mesh.of(section(), 1, DENSE) == Mesh()


@pytest.mark.parametrize(
    ("sizes", "processes", "said"),
    [
        ({"tp": 4}, 6, "tp 4 = 4 does not divide 6, the processes that were started; start a multiple of 4"),
        (
            {"pp": 2, "dp_shard": 2},
            8,
            "start 4 (torchrun --nproc-per-node), or change parallel.pp or parallel.dp_shard",
        ),
        ({"pp": 2, "dp_shard": 2}, 8, "parallel.dp_shard of 4 or -1 fits"),
        ({"ep": 3}, 4, "parallel.ep: 3 must divide dp_shard x cp x tp = 4 x 1 x 1 = 4"),
        ({"tp": 3}, 3, "parallel.tp: the model's 32 attention heads cannot be shared out to 3; use a divisor of 32"),
        ({"tp": 64}, 64, "parallel.tp: the model's 32 attention heads"),
        (
            {"cp": 8, "tp": 8},
            64,
            "parallel.cp or parallel.tp: the model's 32 attention heads cannot be shared out to cp",
        ),
        ({"ep": 2}, 2, "parallel.ep: 2, but this model has no experts; set it to 1"),
        ({"pp": 37}, 37, "parallel.pp: 37 stages of the pipeline, but the model has 36 layers; lower parallel.pp"),
        ({"pp": 16, "schedule": "interleaved", "chunks": 3}, 16, "16 x 3 pieces of the pipeline, but the model has 36"),
        ({"pp": 2, "borders": [36]}, 2, "the last piece would begin at layer 36, but the model has 36, counted from 0"),
    ],
)
def test_sizes_that_do_not_fit_name_the_number_to_change(sizes: dict[str, Any], processes: int, said: str) -> None:
    with pytest.raises(UserError) as error:
        Mesh.of(section(**sizes), processes, DENSE)
    assert said in str(error.value)


def test_the_last_border_may_be_the_last_layer() -> None:
    assert Mesh.of(section(pp=2, borders=[35]), 2, DENSE).pp == 2


def test_what_fits_passes() -> None:
    for sizes in ({"tp": 16}, {"cp": 4, "tp": 8}, {"pp": 18, "schedule": "zbv"}):
        with_experts = {"chunks": 2} if "schedule" in sizes else {}
        Mesh.of(section(**sizes, **with_experts), 4 * 18 * 16, DENSE)


def test_key_value_heads_may_be_the_same_on_several_ranks_but_not_broken() -> None:
    odd = replace(DENSE, text=replace(DENSE.text, num_attention_heads=24, num_key_value_heads=6))
    Mesh.of(section(tp=3), 3, odd)
    Mesh.of(section(tp=12), 12, odd)
    with pytest.raises(UserError, match=r"parallel\.tp: the model's 6 key-value heads"):
        Mesh.of(section(tp=4), 4, odd)
    with pytest.raises(UserError, match=r"parallel\.cp or parallel\.tp: the model's 6 key-value heads"):
        Mesh.of(section(tp=2, cp=2), 4, odd)


def test_experts_are_shared_out_evenly() -> None:
    Mesh.of(section(ep=64), 128, SPARSE)
    with pytest.raises(UserError, match=r"parallel\.ep: 256 ranks cannot share 128 experts evenly"):
        Mesh.of(section(ep=256), 256, SPARSE)


def test_a_width_that_no_layer_has_is_not_checked() -> None:
    """All layers of the 30B have experts; the width of its dense layers is unused."""
    odd = replace(SPARSE, text=replace(SPARSE.text, intermediate_size=6143))
    Mesh.of(section(tp=2), 2, odd)
    with pytest.raises(UserError, match="feed-forward's width of 6143"):
        Mesh.of(section(tp=2), 2, replace(odd, text=replace(odd.text, mlp_only_layers=(3,))))


SIZES_OF_8 = (
    {"pp": 2, "dp_shard": 2, "tp": 2, "ep": 4},
    {"dp_replicate": 2, "cp": 2, "tp": 2, "ep": 2},
    {"dp_replicate": 2, "dp_shard": 4, "ep": 4},
    {},
)


def members(axes: tuple[str, ...], mesh: Mesh, fixed: Any) -> list[int]:
    """Ranks that share the coordinates of `fixed` in all axes of the order but those."""
    order = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
    places = list(itertools.product(*(range(mesh.size(axis)) for axis in order)))
    mine = places[fixed]
    free = [order.index(axis) for axis in axes]
    return [
        rank
        for rank, place in enumerate(places)
        if all(place[i] == mine[i] for i in range(len(order)) if i not in free)
    ]


def groups() -> list[dict[str, tuple[int, int, list[int] | None]]]:
    found = []
    for sizes in SIZES_OF_8:
        mesh = Mesh.sized(section(**sizes), 8).open("cpu")
        own: dict[str, tuple[int, int, list[int] | None]] = {}
        for axis in dict.fromkeys(itertools.chain(*VIEWS)):
            group = mesh.group(axis)
            if group is None:
                own[axis] = (mesh.rank(axis), 0, None)
            else:
                own[axis] = (mesh.rank(axis), dist.get_rank(group), dist.get_process_group_ranks(group))
        timeouts = {group._get_backend(torch.device("cpu")).options._timeout for a in own if (group := mesh.group(a))}
        assert timeouts <= {dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout}
        assert mesh.dense["dp_replicate", "fsdp", "tp"].ndim == 3
        timeouts = {group._get_backend(torch.device("cpu")).options._timeout for a in own if (group := mesh.group(a))}
        assert timeouts <= {dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout}
        assert mesh.dense["dp_replicate", "fsdp"].size() == mesh.dp_replicate * mesh.size("fsdp")
        assert mesh.sparse["dp_replicate", "efsdp"].size() == mesh.dp_replicate * mesh.efsdp
        found.append(own)
    return found


@pytest.mark.slow
@pytest.mark.distributed
def test_groups_hold_the_ranks_that_the_order_says() -> None:
    for rank, found in enumerate(world.run(groups, 8)):
        for sizes, own in zip(SIZES_OF_8, found, strict=True):
            mesh = Mesh.sized(section(**sizes), 8)
            assert set(own) == {*JOINED, "pp", "dp_replicate", "dp_shard", "cp", "tp", "efsdp", "ep"}
            for axis, (place, by_torch, ranks) in own.items():
                assert place == mesh.rank(axis, rank)
                if ranks is None:
                    assert (mesh.size(axis), place) == (1, 0)
                    continue
                assert (place, len(ranks)) == (by_torch, mesh.size(axis))
                if axis not in ("ep", "efsdp"):
                    assert ranks == members(JOINED.get(axis, (axis,)), mesh, rank)
            if own["ep"][2]:  # neighbours: tp is folded first
                assert own["ep"][2] == list(range(rank // mesh.ep * mesh.ep, (rank // mesh.ep + 1) * mesh.ep))


def test_a_mesh_that_is_not_open_has_no_groups() -> None:
    assert Mesh().group("tp") is None
    with pytest.raises(ValueError, match="open it"):
        Mesh(tp=2).group("tp")
