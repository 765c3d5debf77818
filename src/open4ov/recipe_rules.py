"""What a recipe may not say although each key alone is right: contradictions, and options nothing would read.

A rule yields (place, message). `load` reports those whose place the user wrote; an option left at its default is never
reported as idle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from open4ov import (
    recipe_admission,
    recipe_blend,
    recipe_dpo,
    recipe_embedder,
    recipe_executor,
    recipe_hygiene,
    recipe_images,
    recipe_parallel,
    recipe_preference,
    recipe_providers,
    recipe_rl,
    recipe_rl_encoder,
    recipe_rl_loop,
    recipe_rl_loss,
    recipe_rl_pool,
    recipe_rl_rollout,
    recipe_sft,
)
from open4ov.errors import nearest
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from pydantic import BaseModel

    from open4ov.recipe import DataSection, Recipe

DENSITY_DIMENSIONS = ("subjects", "space", "ocr", "knowledge")


def contradictions(recipe: Recipe) -> Iterator[tuple[Loc, str]]:
    """Values that cannot hold together, wherever they come from."""
    yield from _data(recipe.data)
    yield from recipe_images.contradictions(recipe.images)
    rl = recipe.rl
    yield from recipe_sft.contradictions(recipe.sft)
    yield from recipe_admission.contradictions(recipe)
    yield from recipe_blend.contradictions(recipe)
    yield from recipe_dpo.contradictions(recipe)
    yield from recipe_parallel.contradictions(recipe)
    if rl.steps == 0:
        return
    yield from recipe_rl.contradictions(rl.filter)
    yield from recipe_rl_loop.contradictions(rl, rl)
    yield from recipe_rl_pool.contradictions(recipe)
    yield from recipe_rl_encoder.contradictions(rl)
    if rl.pass_k > rl.group:  # the curve's pass_at_k is of k in every phase
        yield ("rl", "pass_k"), f"{rl.pass_k} responses cannot be drawn from a group of {rl.group} (rl.group)"
    if rl.minibatches > rl.prompts:
        message = f"{rl.minibatches} minibatches need as many groups; there are {rl.prompts} (rl.prompts)"
        yield ("rl", "minibatches"), message
    yield from recipe_rl_loss.contradictions(rl)
    yield from recipe_rl_rollout.contradictions(rl)
    if rl.length_weight > 0:
        if rl.length_soft >= rl.length_max:
            yield ("rl", "length_soft"), f"{rl.length_soft} must be below rl.length_max = {rl.length_max}"
        if rl.length_max > rl.max_tokens:
            message = f"{rl.length_max} can never be reached: responses end at rl.max_tokens = {rl.max_tokens}"
            yield ("rl", "length_max"), message


def idle(recipe: Recipe) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that were written but that nothing reads in this run: (place, reason, the option that makes it so)."""
    yield from recipe_images.idle(recipe.images)
    yield from _idle_own(recipe)
    yield from recipe_providers.idle(recipe.data)
    yield from recipe_embedder.idle(recipe.data)
    yield from _idle_data(recipe.data)
    yield from _idle_match(recipe)
    yield from recipe_sft.idle(recipe.sft)
    yield from recipe_blend.idle(recipe)
    yield from recipe_preference.idle(recipe)
    yield from recipe_admission.idle(recipe)
    yield from _idle_rl(recipe)
    yield from recipe_dpo.idle(recipe)
    yield from recipe_parallel.idle(recipe)


def _data(data: DataSection) -> Iterator[tuple[Loc, str]]:
    yield from recipe_hygiene.contradictions(data.hygiene)
    yield from recipe_executor.contradictions(data)
    if data.min_pairs > data.max_pairs:
        yield ("data", "min_pairs"), f"{data.min_pairs} is more than data.max_pairs = {data.max_pairs}"
    if data.quorum > 3:
        yield ("data", "quorum"), f"{data.quorum} votes of three judges cannot be had; use 1, 2 or 3"
    yield from _weights(data.density_weights, ("data", "density_weights"))
    for scenario, weights in data.density_scenarios.items():
        yield from _weights(weights, ("data", "density_scenarios", scenario))
    yield from recipe_providers.contradictions(data)
    yield from recipe_embedder.contradictions(data)


def _weights(weights: dict[str, float], loc: Loc) -> Iterator[tuple[Loc, str]]:
    for dimension, weight in weights.items():
        if dimension not in DENSITY_DIMENSIONS:
            yield (*loc, dimension), f"unknown dimension '{dimension}'{nearest(dimension, DENSITY_DIMENSIONS)}"
        elif weight < 0:
            yield (*loc, dimension), f"{weight} is negative"
    if not sum(weights.values()) > 0:
        yield loc, "the weights sum to zero; at least one must be above"


def _written(section: BaseModel, loc: Loc, switch: str, reason: str) -> Iterator[tuple[Loc, str, Loc]]:
    """Every option of a section that was written, but for the one that switches the section off."""
    for field in sorted(section.model_fields_set - {switch}):
        yield (*loc, field), reason, (*loc, switch)


def _idle_own(recipe: Recipe) -> Iterator[tuple[Loc, str, Loc]]:
    if "min_items" not in recipe.evaluate.model_fields_set:
        return
    if not recipe.images.own:
        yield (
            ("evaluate", "min_items"),
            "images.vertical is a corpus, which draws its own",
            ("images", "vertical"),
        )
    elif not recipe.data.hygiene.test:
        yield ("evaluate", "min_items"), "data.hygiene.test is 0, so nothing is held out", ("data", "hygiene", "test")


def _idle_data(data: DataSection) -> Iterator[tuple[Loc, str, Loc]]:
    yield from recipe_hygiene.idle(data.hygiene)
    yield from recipe_executor.idle(data)
    if data.language_per_image and len(data.languages) == 1:
        yield ("data", "language_per_image"), "data.languages names one language", ("data", "languages")


def _idle_match(recipe: Recipe) -> Iterator[tuple[Loc, str, Loc]]:
    if recipe.data.match_general and recipe.images.general.startswith("corpus:"):
        reason = "images.general is a corpus, whose samples are labelled by what it draws"
        yield ("data", "match_general"), reason, ("images", "general")
    elif recipe.data.match_general and recipe.images.general_count == 0:
        yield ("data", "match_general"), "images.general_count is 0", ("images", "general_count")


def _idle_rl(recipe: Recipe) -> Iterator[tuple[Loc, str, Loc]]:
    rl = recipe.rl
    if rl.steps == 0:
        yield from _written(rl, ("rl",), "steps", "rl.steps is 0")
        if recipe_rl_pool.ROLE in recipe.data.roles:
            yield ("data", "roles", recipe_rl_pool.ROLE), "rl.steps is 0", ("rl", "steps")
        return
    yield from recipe_rl.idle(rl.filter)
    yield from recipe_rl_loop.idle(rl, rl)
    yield from recipe_rl_pool.idle(recipe)
    yield from recipe_rl_rollout.idle(rl)
    yield from recipe_rl_encoder.idle(rl)
    if rl.length_weight == 0:
        for field in sorted({"length_max", "length_soft"} & rl.model_fields_set):
            yield ("rl", field), "rl.length_weight is 0", ("rl", "length_weight")
