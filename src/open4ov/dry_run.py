"""`open4ov run --dry-run`: what a recipe would do here, and what it would lack. Reads, and changes nothing.

Files, folders, keys and devices are looked for; endpoints are named, not asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from open4ov import pipeline
from open4ov.errors import UserError
from open4ov.graph import Graph, Stage
from open4ov.recipe import Recipe

Status = Literal["finished", "to make", "blocked"]


@dataclass(frozen=True)
class Step:
    """One stage: `finished` as the recipe has it; `to make`; `blocked` by something that is missing or wrong."""

    stage: str
    status: Status
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class DryRun:
    """The stages in order; what is missing or wrong, in the words of the run; what else is needed, not looked for."""

    steps: tuple[Step, ...]
    needs: tuple[str, ...]
    missing: tuple[str, ...] = field(default=())

    @property
    def making(self) -> tuple[str, ...]:
        return tuple(step.stage for step in self.steps if step.status != "finished")

    def data(self) -> dict[str, Any]:
        """For a program."""
        steps = [{"stage": s.stage, "status": s.status, "missing": list(s.missing)} for s in self.steps]
        return {"stages": steps, "missing": list(self.missing), "needs": list(self.needs)}

    def text(self) -> str:
        """For a person."""
        width = max(len(step.stage) for step in self.steps)
        number = {fault: str(place) for place, fault in enumerate(self.missing, 1)}
        lines = [
            f"{step.stage.ljust(width)}  {step.status}"
            + (f" by {', '.join(number[fault] for fault in step.missing)}" if step.missing else "")
            for step in self.steps
        ]
        done = sum(step.status == "finished" for step in self.steps)
        lines.append(f"{len(self.steps)} stages, {done} of them finished. Nothing was changed.")
        if self.missing:
            lines += ["", "Missing or wrong here:"]
            for one in self.missing:
                first, *rest = one.splitlines()
                lines += [f"  {number[one]}. {first}", *(f"     {line}" for line in rest)]
        if self.needs:
            lines += ["", "Needed, and not looked for:", *(f"  {line}" for line in self.needs)]
        return "\n".join(lines)


def look(recipe: Recipe, root: Path, until: str | None = None, graph: Graph | None = None) -> DryRun:
    """What `open4ov run` would do with the recipe in the folder `root`, as far as the stage `until`. `graph`: other
    stages than a run's. Raises UserError for a stage that is none."""
    graph = graph or pipeline.graph(recipe)
    stages = graph.needed(until)
    faults = {stage.name: _faults(stage, recipe) for stage in stages}
    finished = graph.finished([s for s in stages if not faults[s.name]], recipe, root)
    making = set(faults) - finished
    for name, own in _mesh(recipe, making).items():
        faults[name] = list(dict.fromkeys([*faults[name], *own]))
    steps: list[Step] = []
    for stage in stages:
        own = faults[stage.name]
        if stage.name in finished:
            steps.append(Step(stage.name, "finished"))
        else:
            steps.append(Step(stage.name, "blocked" if own else "to make", tuple(own)))
    missing = dict.fromkeys(fault for step in steps for fault in step.missing)
    missing |= dict.fromkeys([*_keys(recipe, making), *_devices(recipe, making)])
    return DryRun(tuple(steps), tuple(_needs(recipe, making)), tuple(missing))


def asks(recipe: Recipe) -> bool:
    """Whether data construction sends anything to an endpoint."""
    data = recipe.data
    return any(one.kind == "openai" for one in data.providers.values()) or data.embedder.endpoint is not None


def _faults(stage: Stage, recipe: Recipe) -> list[str]:
    """What the stage's options name and is not there, or cannot be."""
    checks = [stage.config, *([stage.check] if stage.check and stage.name != "data" else [])]
    return list(dict.fromkeys(fault for check in checks for fault in _refused(check, recipe)))


def _refused(check: Callable[..., object], *arguments: object) -> list[str]:
    """What a check says of what it is given; nothing where all is well."""
    try:
        check(*arguments)
    except UserError as error:
        return [str(error)]
    return []


def _keys(recipe: Recipe, making: set[str]) -> list[str]:
    """Environment variables that endpoints want and that are not set."""
    if "data" not in making:
        return []
    wanted = {
        one.api_key_env: f"data.providers.{name}.api_key_env"
        for name, one in recipe.data.providers.items()
        if one.kind == "openai"
    }
    return [
        f"{where}: the environment variable {name} is not set"
        for name, where in wanted.items()
        if not os.environ.get(name)
    ]


def _devices(recipe: Recipe, making: set[str]) -> list[str]:
    """GPUs that the mesh wants and that this machine has not."""
    world = processes(recipe)
    if world <= 1 or not making & {*pipeline.MODELS}:
        return []
    import torch

    here = torch.cuda.device_count()
    if here >= world:
        return []
    return [f"parallel: {world} processes, one for each GPU, and this machine has {here}; other nodes may have more"]


def _mesh(recipe: Recipe, making: set[str]) -> dict[str, list[str]]:
    """Training that is still to be made -> why it cannot be on the mesh."""
    from open4ov.parallel.suits import mesh_of, recomputes

    world = processes(recipe)
    if recipe.parallel.dp_shard == -1:  # as many as are started: at least those that share the experts
        world *= recipe.parallel.ep
    cut = _refused(mesh_of, recipe, world) if world > 1 and making & {*pipeline.MODELS} else []
    again = _refused(recomputes, recipe) if making & {*pipeline.SFT} else []
    return {name: [*cut, *(again if name in pipeline.SFT else [])] for name in pipeline.MODELS if name in making}


def processes(recipe: Recipe) -> int:
    """Of the mesh, as far as the recipe says."""
    from open4ov.recipe_parallel import AXES

    world = 1
    for axis in AXES:
        world *= max(getattr(recipe.parallel, axis), 1)
    return world


def _needs(recipe: Recipe, making: set[str]) -> list[str]:
    found: list[str] = []
    if "data" in making:
        for name, one in recipe.data.providers.items():
            if one.kind == "openai":
                place = one.base_url or "its default address"
                found.append(f"data.providers.{name}: an endpoint at {place} ({one.model})")
        if recipe.data.embedder.endpoint is not None:
            found.append("data.embedder: an embeddings endpoint")
    rollout = recipe.rl.rollout
    if "rl" in making and recipe.rl.steps and rollout.backend != "own":
        who = "vLLM" if rollout.backend == "vllm" else "servers of open4ov rollout"
        where = f"at {', '.join(rollout.urls)}" if rollout.urls else "in an environment of its own here"
        found.append(f"rl.rollout: {who}, {where}")
    if (world := processes(recipe)) > 1 and making & {*pipeline.MODELS}:
        found.append(f"parallel: torchrun with {world} processes (open4ov cluster writes the files)")
    return found
