"""A run on several processes, which torchrun has started: rank 0 goes through its stages, and the others do with it
what is done together.

Data, grading and evaluation are one process's work. Where a stage trains on all of them, rank 0 calls the others to it
(`StageRun.crew`): by the name of a function, with arguments that JSON can hold. Samples travel as files of the run
directory, which all ranks see.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open4ov.errors import UserError
from open4ov.keys import SFT
from open4ov.parallel import launch
from open4ov.parallel.agree import agree, facts
from open4ov.parallel.crew import follow, leading
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.suits import mesh_of, recomputes
from open4ov.recipe import Recipe
from open4ov.recipe_parallel import for_one

if TYPE_CHECKING:
    from open4ov.parallel.crew import Crew
    from open4ov.progress import Reporter

Held = dict[str, Any]
"""What a rank keeps from one call to the next"""


def run(
    recipe: Recipe,
    root: Path,
    reporter: Reporter,
    until: str | None = None,
    retry: bool = False,
    work: Callable[[Crew | None], None] | None = None,
) -> bool:
    """`pipeline.run`, on as many processes as there are -> whether this is the one that speaks. `work`: what the
    leading process does with the others in place of that one run.

    Raises as that does, and UserError where the recipe's sizes are not those of the processes, or ranks do not have the
    same recipe and code.
    """
    from open4ov import pipeline

    if not launch.launched():
        _fits_one(recipe, root, until)
        if work is None:
            pipeline.run(recipe, root, reporter, until, retry=retry)
        else:
            work(None)
        return True
    places = _places(recipe, root, until)
    with launch.joined(recipe.parallel, next(iter(places.values()))) as world:
        if len({*places.values()}) > 1:
            told = ", ".join(f"{key}.device: {place}" for key, place in places.items())
            raise UserError(
                f"{told}: several processes are joined for devices of one kind; set them alike, or make one training "
                "after the other (open4ov sft, rl, dpo)"
            )
        _suits(recipe, world.size, root, until, again=work is not None)
        if world.size > 1:
            refused = [f"{'.'.join(map(str, place))}: {why}" for place, why in for_one(recipe.sft)]
            if refused:
                raise UserError("\n".join(refused))
        agree(world, facts(recipe))
        if world.leads:
            with leading(world) as crew:
                if work is None:
                    pipeline.run(recipe, root, reporter, until, retry=retry, crew=crew)
                else:
                    work(crew)
            return True
        held: Held = {}

        def do(work: dict[str, Any]) -> None:
            module, _, name = work["function"].partition(":")
            own = Recipe.model_validate(work["recipe"])
            getattr(import_module(module), name)(world, own, held, **work["arguments"])

        follow(world, do)
    return False


def _fits_one(recipe: Recipe, root: Path, until: str | None) -> None:
    """Raises UserError where one process is to train what the recipe spreads over several. Without a training, as of
    the data alone, or where all are finished, any mesh will do: nothing asks for it."""
    from open4ov import pipeline

    try:
        Mesh.sized(recipe.parallel, 1)
    except UserError:
        if _making(recipe, root, until) & {*pipeline.MODELS}:
            raise


def _suits(recipe: Recipe, world: int, root: Path, until: str | None, again: bool) -> None:
    """Raises UserError, before anything is made, for a mesh that the model cannot be cut into, and for a schedule that
    SFT cannot recompute under where it is still to be made. again: in rounds, each of which makes it."""
    mesh_of(recipe, world)
    try:
        recomputes(recipe)
    except UserError:
        if again or _making(recipe, root, until) & {*SFT}:
            raise


def _places(recipe: Recipe, root: Path, until: str | None) -> dict[str, str]:
    """Section -> the kind of its device (`cuda`, `cpu`), of the trainings that are needed; where they differ, of those
    that are not finished."""
    from open4ov import pipeline, training

    needed = {stage.name for stage in pipeline.graph(recipe).needed(until)}
    trains = {"rl": recipe.rl.steps > 0, "dpo": recipe.dpo.pairs > 0}

    def kinds(stages: set[str]) -> dict[str, str]:
        keys = ["sft"] if stages & {*SFT} else []
        keys += [name for name, does in trains.items() if does and name in stages]
        return {key: training.device(getattr(recipe, key).device, f"{key}.device").type for key in keys}

    found = kinds(needed)
    if len({*found.values()}) > 1:
        found = kinds(_making(recipe, root, until)) or found
    return found or {"sft": training.device(recipe.sft.device, "sft.device").type}


def _making(recipe: Recipe, root: Path, until: str | None) -> set[str]:
    """The stages that are not finished."""
    from open4ov import pipeline

    graph = pipeline.graph(recipe)
    stages = graph.needed(until)
    return {stage.name for stage in stages} - graph.finished(stages, recipe, root)
