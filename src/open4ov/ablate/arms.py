"""An arm as a recipe: the base, then what all arms have, then its own overrides, scale, seed, and the command's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from open4ov import yaml_file
from open4ov.ablate.claims import Claims
from open4ov.errors import UserError
from open4ov.recipe import Recipe, load

SCALED = (
    *(f"sft.{stage}.tokens" for stage in ("knowledge", "ability", "preference")),
    *("admission.assess.tokens", "admission.ration.tokens", "rl.steps", "dpo.pairs", "dpo.most"),
)
"""Budgets of the trainings, which `scale` multiplies"""


@dataclass(frozen=True)
class Arm:
    """One run of one seed: what it is told beside the recipe's file, and the recipe that this makes."""

    name: str
    seed: int
    model: str
    overrides: tuple[str, ...]
    recipe: Recipe

    @property
    def until(self) -> str:
        return f"evaluate_{self.model}"


@dataclass(frozen=True)
class Options:
    """What a command says of all arms."""

    scale: float = 1.0
    extra: tuple[str, ...] = ()
    folders: Mapping[str, Path] | None = None
    """Of what `prepare` makes"""


def arm(claims: Claims, name: str, seed: int, options: Options | None = None) -> Arm:
    """Raises UserError for overrides that make no recipe, naming the claims file's line of the arm."""
    options, told = options or Options(), dict[str, Any](claims.told.set)
    for each in claims.lineage(name):
        for key, value in claims.told.arms[each].set.items():
            _put(told, key, value)
    told["seed"] = seed
    written = [f"{key}={json.dumps(_filled(value, options), ensure_ascii=False)}" for key, value in told.items()]
    try:
        scaled = _scaled(load(claims.recipe, written), options.scale, options.extra)
        overrides = _last(written, scaled, options.extra)
        recipe = load(claims.recipe, overrides)
    except UserError as error:
        raise UserError(f"{claims.where(('arms', name))}: makes no recipe of {claims.recipe}:\n{error}") from None
    if recipe.seed != seed:
        raise UserError(f"--set seed={recipe.seed}: the seeds are those of --seeds")
    return Arm(name, seed, claims.told.arms[name].model, tuple(overrides), recipe)


def _put(told: dict[str, Any], key: str, value: object) -> None:
    """A later override stands last, and takes the place of those below it."""
    for other in [one for one in told if one == key or one.startswith(f"{key}.")]:
        del told[other]
    told[key] = value


def _filled(value: object, options: Options) -> object:
    """With the folders of `prepare` in place of their names in braces, at any depth."""
    if isinstance(value, str):
        for name, folder in (options.folders or {}).items():
            value = value.replace(f"{{{name}}}", str(folder))
        return value
    if isinstance(value, list):
        return [_filled(one, options) for one in cast("list[object]", value)]
    if isinstance(value, dict):
        return {key: _filled(one, options) for key, one in cast("dict[str, object]", value).items()}
    return value


def _scaled(recipe: Recipe, scale: float, extra: Sequence[str]) -> list[str]:
    if scale == 1:
        return []
    given = {text.partition("=")[0].strip() for text in extra}
    found: list[str] = []
    for key in SCALED:
        value: Any = recipe
        for part in key.split("."):
            value = getattr(value, part)
        if not value or (key == "admission.ration.tokens" and not recipe.admission.ration.on):
            continue  # what is switched off stays off
        if key == "dpo.most" and "dpo.pairs" in given:
            continue  # it is of these
        least = recipe.sft.pack_of("knowledge") if key.startswith("admission.") else 1
        found.append(f"{key}={max(least, round(value * scale))}")
    return found


def _last(*parts: Sequence[str]) -> list[str]:
    """The overrides of all parts; of two for one key the later one."""
    found: dict[str, str] = {}
    for text in (one for part in parts for one in part):
        key = text.partition("=")[0].strip()
        found.pop(key, None)
        found[key] = text
    return list(found.values())


def check_extra(extra: Sequence[str]) -> None:
    """Raises UserError for a --set that is no `key=value`."""
    for text in extra:
        key, equals, value = text.partition("=")
        try:
            yaml_file.parse_value(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not key.strip():
            raise UserError(f"--set {text}: expected key.sub=value, such as --set evaluate.items=100")
