"""What `open4ov plan` is asked, as jobs: by options, or by a recipe, each of whose trainings is planned on its mesh."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open4ov.errors import UserError
from open4ov.model.config import Config
from open4ov.recipe_parallel import AXES, ParallelSection

from . import plan_hardware, plan_search
from .plan_job import Job, StageKind, Work, model_of
from .plan_rollout import Rollouts, rollouts
from .plan_search import Found, Plan

if TYPE_CHECKING:
    from open4ov.recipe import Recipe
    from open4ov.recipe_rl_rollout import RolloutSection

    from .plan_check import Checked

TEXT = 128
"""Tokens of an RL prompt beside its picture, where nothing else is known of it"""


@dataclass(frozen=True)
class Asked:
    """The command's options; None: the recipe's, or the default."""

    model: str | None = None
    gpus: int | None = None
    hardware: str = "h100"
    hardware_file: Path | None = None
    stage: StageKind = "sft"
    tokens: int | None = None
    packs: int | None = None
    document: int = 2048
    visual: float = 0.5
    picture: str = "1024x768"
    predicted: float = 0.25
    freeze_vision: bool = False
    imbalance: float = 1.2
    fixed: dict[str, int] = field(default_factory=dict)
    keep: int = 5

    def device(self) -> plan_hardware.Hardware:
        return plan_hardware.find(self.hardware, self.hardware_file)

    def side(self, config: Config) -> tuple[int, int]:
        """Rows and columns of a picture's patches. Raises UserError for what is no size, or no whole token."""
        width, _, height = self.picture.partition("x")
        merged = config.vision.patch_size * config.vision.spatial_merge_size
        if not (width.isdigit() and height.isdigit()) or min(int(width), int(height)) < merged:
            raise UserError(f"--picture {self.picture}: expected width x height in pixels, such as 1024x768")
        unit = config.vision.spatial_merge_size
        return round(int(height) / merged) * unit, round(int(width) / merged) * unit


@dataclass(frozen=True)
class RecipePlans:
    """The trainings of a recipe by name, and what was assumed."""

    plans: dict[str, Plan]
    notes: tuple[str, ...]
    rollouts: Rollouts | None = None
    """Of one step of RL, where its engines are on the GPUs that train"""
    updates: int = 0
    """of one step of RL"""


def searched(asked: Asked) -> tuple[Found, list[str]]:
    """The best meshes for what was asked. Raises UserError for what is missing or cannot be."""
    if asked.model is None or asked.gpus is None:
        raise UserError("give --model and --gpus (or a recipe): open4ov plan --model qwen3-vl-8b --gpus 8")
    name, config, note = model_of(asked.model)
    tokens = asked.tokens or 8192
    work = Work.usual(config, tokens, asked.document, asked.visual, asked.side(config), asked.predicted)
    frozen = asked.freeze_vision or asked.stage != "sft"
    job = Job(
        name,
        config,
        work,
        packs=asked.packs or 2 * asked.gpus,
        kind=asked.stage,
        frozen_vision=frozen,
        held_vision=asked.stage != "sft",
        half=True,
        imbalance=asked.imbalance,
    )
    found = plan_search.search(job, asked.gpus, asked.device(), asked.keep, asked.fixed)
    return found, [note] if note else []


def of_recipe(path: Path, overrides: Sequence[str], asked: Asked) -> RecipePlans:
    """Every training of a recipe on the mesh of its section `parallel`. Raises UserError as `recipe.load`, and for
    what the mesh or the planner cannot do."""
    from open4ov.recipe import load

    recipe = load(path, overrides)
    name, config, note = model_of(asked.model or recipe.model)
    world = asked.gpus or world_of(recipe.parallel, str(path))
    jobs, notes = jobs_of(recipe, name, config, asked)
    plans: dict[str, Plan] = {}
    for key, job in jobs.items():
        try:
            plans[key] = plan_search.of(job, recipe.parallel, world, asked.device())
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
    generated = None
    if "rl" in jobs and recipe.rl.rollout.url is None:
        rl, work = recipe.rl, jobs["rl"].work
        prompt, length = work.documents[:2]
        own = rl.rollout.backend == "own"
        rows = rl.rollout.batch if own else rl.rollout.concurrency * rl.group
        responses = rl.prompts * rl.group
        half = jobs["rl"].engine_half and world > 1
        generated = rollouts(config, responses, prompt, length, world, asked.device(), rows, own, half, rl.max_tokens)
    return RecipePlans(plans, (*([note] if note else []), *notes), generated, recipe.rl.minibatches)


def world_of(options: ParallelSection, where: str) -> int:
    """How many processes a mesh has that says so itself."""
    if options.dp_shard == -1:
        raise UserError(f"{where}: parallel.dp_shard is -1, what is left of the processes: say with --gpus how many")
    world = 1
    for axis in AXES:
        world *= getattr(options, axis)
    return world


def jobs_of(recipe: Recipe, name: str, config: Config, asked: Asked) -> tuple[dict[str, Job], list[str]]:
    """The trainings of a recipe; those of SFT that are alike are one. Raises UserError for adapters."""
    sft, rl, dpo = recipe.sft, recipe.rl, recipe.dpo
    if sft.lora_rank:
        raise UserError("sft.lora_rank: adapters are not planned; with 0 the weights are trained")
    side = asked.side(config)
    base = Job(name, config, Work((64,)), packs=1, imbalance=asked.imbalance, half=sft.precision != "fp32")
    jobs: dict[str, Job] = {}
    notes: list[str] = []
    groups: dict[tuple[int, bool], list[str]] = {}
    stages = ("knowledge", "ability", "preference") if sft.schedule == "curriculum" else ("knowledge",)
    for stage in stages:
        frozen = getattr(sft, stage).still_vision
        groups.setdefault((asked.tokens or sft.pack_of(stage), frozen), []).append(stage)
    for (tokens, frozen), names in groups.items():
        jobs["sft_" + "+".join(names)] = replace(
            base,
            work=Work.usual(config, tokens, asked.document, asked.visual, side, asked.predicted),
            packs=asked.packs or sft.accumulate,
            frozen_vision=frozen,
            held_vision=frozen,
            recompute=sft.recompute,
            recompute_vision=sft.recompute_vision,
        )
    each = side[0] * side[1] // config.vision.spatial_merge_size**2
    if rl.steps:
        prompt, response = each + TEXT, max(rl.max_tokens // 2, 1)
        limit = rl.max_update_tokens or prompt + rl.group * response
        fitting = max(1, min(rl.group, (limit - prompt) // response))
        share = rl.prompts * rl.group / rl.minibatches / fitting
        work = Work((prompt, *[response] * fitting), ((1, *side),), fitting * response, prompt * fitting * response)
        jobs["rl"] = replace(
            base, kind="rl", work=work, packs=asked.packs or max(1, round(share)), frozen_vision=rl.freeze_vision,
            held_vision=rl.freeze_vision, half=rl.precision != "fp32", whole=bool(rl.filter.rollouts),
            **_engine(rl.rollout, rl.precision != "fp32"),
        )  # fmt: skip
        notes.append(
            f"rl: responses are taken to be half of rl.max_tokens in the mean ({response} tokens), the longest of a "
            f"step all of them, prompts {prompt}, no group dead"
        )
    if dpo.pairs:
        pair = max(64, min(dpo.max_tokens, each + TEXT + 512))
        fitting = max(1, (dpo.part_tokens or 2 * pair * dpo.batch) // pair)
        work = Work((pair,) * fitting, ((1, *side),) * fitting, fitting * 256)
        share = max(1, round(2 * dpo.batch / fitting))
        jobs["dpo"] = replace(
            base, kind="dpo", work=work, packs=asked.packs or share, frozen_vision=True, held_vision=True,
            half=dpo.precision != "fp32",
        )  # fmt: skip
        notes.append(f"dpo: a prompt with a response is taken to be {pair} tokens")
    return jobs, notes


def _engine(rollout: RolloutSection, half: bool) -> dict[str, Any]:
    """What the plan must know of who generates. half: products are in bf16."""
    if rollout.backend != "own":
        return {"engine": "other", "offload": rollout.offload}
    copies = int(rollout.ahead or rollout.weights != "same")
    kept = rollout.kv_tokens if rollout.ahead or not rollout.offload else 0
    half = half and rollout.weights == "same"
    return {"copies": copies, "cached": kept, "engine_half": half, "offload": rollout.offload}


def checked(plans: Mapping[str, Plan]) -> dict[str, list[Checked]]:
    """Holds each plan against what is built; those on the same mesh, with the same parts frozen, once, by their names
    together: `rl, dpo`."""
    from . import plan_check

    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, plan in plans.items():
        key = (plan.setup.mesh, plan.setup.job.frozen_vision, tuple(plan.setup.stages))
        groups.setdefault(key, []).append(name)
    return {", ".join(names): plan_check.check(plans[names[0]].setup) for names in groups.values()}


def all_exact(found: Mapping[str, Iterable[Checked]]) -> bool:
    return all(one.exact for group in found.values() for one in group)


def check_data(found: Mapping[str, Iterable[Checked]]) -> list[dict[str, Any]]:
    """For a program."""
    return [
        {
            "trainings": names.split(", "),
            "rank": one.rank,
            "exact": one.exact,
            "parameters": one.parameters,
            "planned": vars(one.planned),
            "built": vars(one.built),
            "differences": one.differences,
        }
        for names, group in found.items()
        for one in group
    ]
