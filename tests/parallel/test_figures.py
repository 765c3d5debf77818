"""What a model on several processes tells of itself: figures of the curve, and the whole model it gives back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import world
from packs import processor_of
from parity import passes_of
from tiny import moe_config

from open4ov import training
from open4ov.model import Qwen3VL
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.model import Parallel
from open4ov.recipe_parallel import ParallelSection
from open4ov.training_pass import Whole, accumulate, processes

pytestmark = pytest.mark.distributed
Told = tuple[int, dict[str, float], dict[str, float], set[str]]


def told(directory: Path, meshes: list[dict[str, int]]) -> list[Told]:
    """Of each mesh: processes, figures after real passes and after others that end with a filler, and what is trained
    of the whole model that comes back."""
    processor, found = processor_of(directory), list[Told]()
    for sizes in meshes:
        plain = Qwen3VL(moe_config(processor, num_experts=4, router_aux_loss_coef=0.05), seed=3)
        training.freeze_vision(plain)
        options = ParallelSection.model_validate(sizes)
        model = Parallel.of(plain, Mesh.of(options, dist.get_world_size(), plain.config).open("cpu"), options)
        real: list[Any] = passes_of(processor, None, "plain")[:1]
        accumulate(model, real)
        before = model.figures()
        accumulate(model, [*real, Whole(model.filler(), None, 0.0)])
        back = model.to_plain(everywhere=True)
        assert back is not None
        trained = {name for name, parameter in back.named_parameters() if parameter.requires_grad}
        found.append((processes(model), before, model.figures(), trained))
    return found


def test_two_processes(tiny_dir: Path) -> None:
    for rank in world.run(told, 2, tiny_dir, [{"dp_shard": 2, "ep": 2}, {"pp": 2}]):
        for count, before, after, trained in rank:
            assert count == 2
            assert before["router_balance"] > 0
            assert after == before
            assert "text.layers.0.mlp.gate_up" in trained
            assert not any(name.startswith("vision.") for name in trained)
        assert rank[0][1]["expert_imbalance"] >= 1


def test_one_process_is_one(tiny_dir: Path) -> None:
    assert processes(Qwen3VL.from_pretrained(tiny_dir)) == 1
