"""The claims file: what the paper claims, and by which runs each claim is checked.

    recipe: in-car-nano.yaml         beside this file; what every arm begins with
    set: {threads: 1}                overrides of all arms
    arms:
      curriculum: {model: sft_preference}
      random_mix: {model: sft_knowledge, set: {sft.schedule: random_mix}}
    claims:
      curriculum:
        claim: Three stages keep more of the general ability than one random mix
        section: §3.2.3
        arm: curriculum
        control: random_mix
        better: [general]            rows of an evaluation, or figures of a training, that must be better
        kept: {vertical: 2}          rows that may not be worse by so much
        equal: [tokens]              budgets that both must have alike

A claim that cannot be checked by runs stays in the file, with the reason in `not_run`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field

from open4ov import typed_yaml, yaml_file
from open4ov.ablate.figures import FIGURES, RENAMED
from open4ov.errors import UserError, nearest
from open4ov.evaluate.scores import GROUPS, ROWS
from open4ov.pipeline import MODELS
from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc, dotted

KNOWN = (*ROWS, *GROUPS, *FIGURES)
"""What can decide a claim"""


class ArmSection(Section):
    """A run: the recipe with overrides, as far as the evaluation of one model."""

    model: str = Field(description="which model is evaluated: base, " + ", ".join(MODELS))
    like: str | None = Field(default=None, description="an arm whose overrides come before this one's own")
    set: dict[str, Any] = Field(default_factory=dict[str, Any], description="key.sub -> value, as --set has them")


class ClaimSection(Section):
    """What is claimed, and what decides it."""

    claim: str = Field(min_length=1, description="what is claimed, in one sentence")
    section: str = Field(min_length=1, description="where in the paper")
    arm: str | list[str] = Field(
        default="", description="the arm with the part that is claimed to help; several with `sooner`"
    )
    control: str | list[str] = Field(default="", description="the arm without it; as many as there are arms")
    better: list[str] = Field(
        default_factory=list[str], description="rows and figures in which the arm must be better than the control"
    )
    kept: dict[str, float] = Field(
        default_factory=dict[str, float],
        description="row -> by how much the arm may be worse: points of a share, else in the row's own unit",
    )
    sooner: str | None = Field(
        default=None,
        description="a group of which the arms, from small to large budgets, reach what the last control has with "
        "fewer tokens",
    )
    margin: float = Field(
        default=1.0, ge=0, description="what would be too small to matter, in the unit of `kept`; said, not decided by"
    )
    equal: list[Literal["tokens", "responses", "rl_steps", "dpo_pairs"]] = Field(
        default_factory=list[Literal["tokens", "responses", "rl_steps", "dpo_pairs"]],
        description="budgets in which arm and control may not differ",
    )
    unequal: str | None = Field(
        default=None, min_length=1, description="why the budgets are not alike, if they are not"
    )
    not_run: str | None = Field(default=None, min_length=1, description="why the claim is not checked by runs")
    measured_by: str | None = Field(default=None, min_length=1, description="what measures it instead")

    @property
    def arms(self) -> list[str]:
        return _names(self.arm)

    @property
    def controls(self) -> list[str]:
        return _names(self.control)


class ClaimsFile(Section):
    """All of it."""

    name: str = Field(min_length=1, description="what the check is called: its folder is out/NAME")
    recipe: str = Field(min_length=1, description="the recipe of all arms; its place is from this file's folder on")
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2], min_length=1, description="seeds of the trainings")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="level of the intervals")
    set: dict[str, Any] = Field(default_factory=dict[str, Any], description="overrides of all arms")
    prepare: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="name -> package.module:function (folder) that makes a set; `{name}` in an override is its folder",
    )
    arms: dict[str, ArmSection] = Field(min_length=1)
    claims: dict[str, ClaimSection] = Field(min_length=1)


@dataclass(frozen=True)
class Claims:
    """A claims file that has been checked, and where it and its keys stand."""

    path: Path
    told: ClaimsFile
    lines: dict[Loc, int]

    @property
    def recipe(self) -> Path:
        return self.path.parent / self.told.recipe

    def where(self, loc: Loc) -> str:
        """File, line and key of a place; the nearest one above it that is written down."""
        for depth in range(len(loc), 0, -1):
            if loc[:depth] in self.lines:
                return f"{self.path}, line {self.lines[loc[:depth]]}: {dotted(loc)}"
        return f"{self.path}: {dotted(loc)}" if loc else str(self.path)

    def lineage(self, arm: str) -> list[str]:
        """The arms whose overrides make up an arm's, the first one first and itself last."""
        found = [arm]
        while (like := self.told.arms[found[0]].like) is not None:
            found.insert(0, like)
        return found

    def chosen(self, only: Sequence[str]) -> dict[str, ClaimSection]:
        """The claims of these names, all for none. Raises UserError for a name that is none."""
        for name in only:
            if name not in self.told.claims:
                raise UserError(f"--only {name}: no claim is called so{nearest(name, self.told.claims)}")
        return {name: claim for name, claim in self.told.claims.items() if not only or name in only}


def read(path: Path) -> Claims:
    """A claims file. Raises UserError with one line for each fault, naming file, line and key."""
    data, lines = yaml_file.read(path)
    bare = Claims(path, ClaimsFile.model_construct(), lines)
    found = typed_yaml.look(data, ClaimsFile, bare.where)
    told = found.model or _sound(found)
    faults = list(found.faults)
    if told is not None:
        claims = Claims(path, told, lines)
        faults += [f"{claims.where(loc)}: {message}" for loc, message in _faults(told, _arms(found.data))]
        if ("recipe",) not in found.broken and not claims.recipe.is_file():
            faults.append(f"{claims.where(('recipe',))}: no such file: {claims.recipe}")
        if not faults:
            return claims
    raise UserError("\n".join(dict.fromkeys(faults)))


def _arms(data: Mapping[str, Any]) -> set[str]:
    """Names of all arms, whatever stands in them."""
    found: object = data.get("arms")
    return set(cast("dict[str, object]", found)) if isinstance(found, dict) else set()


def _sound(found: typed_yaml.Read[ClaimsFile]) -> ClaimsFile | None:
    """The file without what is of a wrong type, so that the rest can be looked at; None where nothing is left."""
    data: dict[str, Any] = {"name": "unnamed", "recipe": "unnamed", **found.data}
    for first, *rest in found.broken:
        if rest and first in ("arms", "claims"):
            data[first] = {name: one for name, one in data[first].items() if name != rest[0]}
        elif first in ("name", "recipe"):
            data[first] = "unnamed"
        else:
            data.pop(str(first), None)
    return typed_yaml.look(data, ClaimsFile, str).model


def _names(arm: str | list[str]) -> list[str]:
    return [arm] if isinstance(arm, str) and arm else list(arm)


def _meant(row: str) -> str:
    return f" any more; it is '{RENAMED[row]}' now" if row in RENAMED else nearest(row, KNOWN)


def _is_folder(name: str) -> bool:
    return name.replace("_", "").replace("-", "").isalnum()


def _faults(told: ClaimsFile, arms: Collection[str]) -> Iterator[tuple[Loc, str]]:
    if not _is_folder(told.name):
        yield ("name",), "is a folder's name, too: letters, digits, - and _ only"
    for name in told.prepare:
        if not _is_folder(name):
            yield ("prepare", name), "a set's name is a folder's: letters, digits, - and _ only"
    if len(set(told.seeds)) < len(told.seeds):
        yield ("seeds",), "a seed is there twice"
    for place, seed in enumerate(told.seeds):
        if seed < 0:
            yield ("seeds", place), f"{seed} is negative"
    if "seed" in told.set:
        yield ("set", "seed"), "the seeds are those of `seeds`; remove it"
    for name, arm in told.arms.items():
        yield from _arm_faults(told, arms, name, arm)
    for name, claim in told.claims.items():
        yield from _claim_faults(told, arms, ("claims", name), claim)


def _arm_faults(told: ClaimsFile, arms: Collection[str], name: str, arm: ArmSection) -> Iterator[tuple[Loc, str]]:
    loc: Loc = ("arms", name)
    if not _is_folder(name):
        yield loc, "an arm's name is a folder's: letters, digits, - and _ only"
    if arm.model not in ("base", *MODELS):
        yield (*loc, "model"), f"there is no model '{arm.model}'{nearest(arm.model, ('base', *MODELS))}"
    if "seed" in arm.set:
        yield (*loc, "set", "seed"), "the seeds are those of `seeds`; remove it"
    passed, here = {name}, arm
    while here.like is not None:
        if here.like not in told.arms:
            if here is arm and here.like not in arms:
                yield (*loc, "like"), f"no arm is called '{here.like}'{nearest(here.like, arms)}"
            return
        if here.like in passed:
            yield (*loc, "like"), "the arms are like one another in a circle"
            return
        passed.add(here.like)
        here = told.arms[here.like]


def _claim_faults(told: ClaimsFile, arms: Collection[str], loc: Loc, claim: ClaimSection) -> Iterator[tuple[Loc, str]]:
    if claim.not_run is not None:
        for field in sorted(claim.model_fields_set - {"claim", "section", "not_run", "measured_by"}):
            yield (*loc, field), "has no effect: the claim is not run (not_run); remove one of them"
        return
    if claim.measured_by is not None:
        yield (*loc, "measured_by"), "has no effect without not_run; remove it"
    for field, names in (("arm", claim.arms), ("control", claim.controls)):
        if not names:
            yield loc, f"`{field}` is missing: name an arm, or say why there is none (not_run)"
        for name in names:
            if name not in arms:
                yield (*loc, field), f"no arm is called '{name}'{nearest(name, arms)}"
    if claim.arms == claim.controls and claim.arms:
        yield (*loc, "control"), "is the arm itself"
    if not (claim.better or claim.kept or claim.sooner):
        yield loc, "says nothing that could be measured; give `better`, `kept` or `sooner`"
    for field, rows in (("better", claim.better), ("kept", list(claim.kept))):
        for row in rows:
            if row not in KNOWN:
                yield (*loc, field), f"no row or figure is called '{row}'{_meant(row)}"
    for row in claim.kept:
        if row in claim.better:
            yield (*loc, "kept", row), f"`better` asks more of '{row}' already; remove one of them"
        if not claim.kept[row] > 0:
            yield (*loc, "kept", row), "by how much may it be worse? Give a number above 0, or put it under `better`"
    if bool(claim.equal) == bool(claim.unequal):
        yield (
            loc,
            "say which budgets are alike (`equal`: of tokens, responses, rl_steps, dpo_pairs), or why they are not "
            "(`unequal`)",
        )
    several = len(claim.arms) > 1 or len(claim.controls) > 1
    if claim.sooner is None:
        if several:
            yield (*loc, "arm"), "several arms are for `sooner`; else a claim has one arm and one control"
        return
    if claim.sooner not in GROUPS:
        yield (*loc, "sooner"), f"no group is called '{claim.sooner}'{nearest(claim.sooner, GROUPS)}"
    if len(claim.arms) != len(claim.controls) or len(claim.arms) < 2:
        yield loc, "`sooner` compares two or more arms with as many controls, from small to large budgets"
    elif len({told.arms[name].model for name in (*claim.arms, *claim.controls) if name in told.arms}) > 1:
        yield (*loc, "arm"), "the arms and controls of `sooner` must be of one model"
    if claim.better or claim.kept:
        yield (*loc, "sooner"), "a claim is about `sooner`, or about `better` and `kept`; make two of it"
