"""What a node of a cluster needs of its own memory, for the files that ask a scheduler for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import plan_hardware, plan_memory
from .mesh import Mesh
from .plan_ask import Asked, jobs_of
from .plan_spread import Setup

if TYPE_CHECKING:
    from open4ov.model.config import Config
    from open4ov.recipe import Recipe

PROCESS = 8e9
"""Bytes of a process: libraries, samples, pictures on their way: assumed"""


def needed(recipe: Recipe, config: Config, mesh: Mesh, per_node: int) -> int:
    """Bytes of the node that needs most, in the training that needs most: by plan the copies that checkpoints are
    written from, the moments that RL puts aside, the whole model on the first process; besides these the features that
    SFT holds of a frozen tower, and `PROCESS` each. Adapters are counted as if all weights were trained."""
    if recipe.sft.lora_rank:
        sft = recipe.sft.model_copy(update={"lora_rank": 0})
        recipe = recipe.model_copy(update={"sft": sft})
    here = min(mesh.world, per_node)
    jobs, _ = jobs_of(recipe, recipe.model, config, Asked())
    most = 0.0
    for job in jobs.values():
        setup = Setup(job, recipe.parallel, mesh, plan_hardware.find("h100"))
        host = plan_memory.host(setup)
        each = PROCESS + host.checkpoint + host.moments
        if job.kind == "sft" and job.held_vision:
            each += recipe.sft.vision_cache_gib * 2**30
        most = max(most, here * each + host.whole)
    return round(most)
