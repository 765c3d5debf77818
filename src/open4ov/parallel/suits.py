"""Whether a recipe's mesh suits its model: asked before anything is made, by what starts a run, plans it, or writes the
files that start it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .mesh import Mesh
from .orders import goes_with
from .plan_job import UnknownModelError, model_of

if TYPE_CHECKING:
    from open4ov.model.config import Config
    from open4ov.recipe import Recipe


def config_of(recipe: Recipe) -> Config | None:
    """Of the model that the recipe begins with, by its folder or its name; None where neither says it. Raises
    UserError for a configuration that is not read."""
    try:
        return model_of(recipe.model)[1]
    except UnknownModelError:
        return None


def mesh_of(recipe: Recipe, world: int) -> Mesh:
    """The mesh of `world` processes. Raises UserError as `Mesh.of`, or as `Mesh.sized` where the model is not known
    yet."""
    config = config_of(recipe)
    return Mesh.sized(recipe.parallel, world) if config is None else Mesh.of(recipe.parallel, world, config)


def recomputes(recipe: Recipe) -> None:
    """Raises UserError where SFT, which alone recomputes, cannot do so under the pipeline's schedule."""
    if recipe.parallel.pp > 1:
        goes_with(recipe.parallel.schedule, recipe.sft.recompute)
