"""What a stage is trained on, out of the recipe, the sets and what was measured (paper §3.2.3); the baselines too."""

from __future__ import annotations

import random
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from open4ov.errors import UserError
from open4ov.recipe import SftSection, SftStage
from open4ov.run_dir import read_json
from open4ov.sample import Sample
from open4ov.sft import curriculum, sets
from open4ov.sft.curriculum import Blend, Material, Order
from open4ov.sft.encoding import Encoder
from open4ov.sft.ordering import by_picture

if TYPE_CHECKING:
    from open4ov.graph import StageRun

Stage = Literal["knowledge", "ability", "preference"]
STAGES: tuple[Stage, ...] = ("knowledge", "ability", "preference")


def material_of(run: StageRun, stage: Stage) -> Material:
    """The samples of a stage, ungraded: its own set and what it replays."""
    knowledge, ability = (sets.training(run.inputs["sets"] / name) for name in sets.FILES)
    if stage == "knowledge":
        return Material(knowledge, ability)
    if stage == "ability":
        return Material(ability, knowledge)
    return Material(sets.training(run.inputs["preference_set"] / "preference"), [*knowledge, *ability])


def validation_of(run: StageRun, stage: Stage) -> list[Sample]:
    """What of a stage's own set is kept apart; under random_mix, of all three."""
    folders = {name: run.inputs["sets"] / name for name in sets.FILES}
    if "preference_set" in run.inputs:
        folders["preference"] = run.inputs["preference_set"] / "preference"
    wanted = list(folders) if run.recipe.sft.schedule == "random_mix" else [stage]
    return [sample for name in wanted for sample in sets.validation(folders[name])]


def check(run: StageRun, stage: Stage, material: Material) -> None:
    """Raises UserError for a stage without data: its own set, or the one that it is to replay, is empty. Before stage
    1, also for a blend that stage 2 could not have: sets that are made already are not looked at again."""
    sft = run.recipe.sft
    if stage == "knowledge" and sft.schedule == "curriculum" and isinstance(sft.ability.blend, dict):
        curriculum.by_hand(sft.ability.blend, material.replay)
    given = run.inputs["preference_set" if stage == "preference" else "sets"]
    sets.check(given, stage, material.own, f"sft.{stage}")
    if (share := replay_of(run, stage)) > 0 and not material.replay:
        replayed = "ability" if stage == "knowledge" else "knowledge"
        sets.check(run.inputs["sets"], replayed, material.replay, f"sft.{stage}.replay is {share:g}")


def replay_of(run: StageRun, stage: Stage) -> float:
    """The share of the tokens that a stage replays: the recipe's, or for stage 1 what rationing has found.

    Raises UserError where that is all of them: stage 1 would learn nothing of the vertical.
    """
    if stage == "knowledge" and "ration" in run.inputs:
        found = read_json(run.inputs["ration"] / "ratio.json")
        assert found is not None, "the stage `ration` ends with ratio.json"
        if not found["ratio"] > 0:
            raise UserError(
                "admission.ration: the best ratio is 0, none of the vertical's data: no candidate taught more than it "
                "cost. Look at ration/ration.html; raise admission.ration.tokens, or leave 0 out of the candidates "
                "(admission.ration.lowest, or ratios)"
            )
        return 1.0 - float(found["ratio"])
    return getattr(run.recipe.sft, stage).replay


def order(
    run: StageRun,
    stage: Stage,
    material: Material,
    encoder: Encoder,
    tokens: int,
    iteration: int = 0,
    before: Counter[str] | None = None,
    whole: Material | None = None,
) -> Order:
    """What a stage is trained on in one of its iterations, in order; `before`: how often each sample was already;
    `whole`: all of the stage's material, where `material` is what of it this iteration draws."""
    section = run.recipe.sft
    options: SftStage = getattr(section, stage)
    blend = blend_of(run, material) if stage == "ability" and section.schedule == "curriculum" else None
    if blend and before:
        blend = blend.after((whole or material).own, material.own, before)
    return curriculum.order(
        material,
        tokens=tokens,
        replay=replay_of(run, stage),
        turns=options.turns,
        noise=section.difficulty_noise,
        length=encoder.length,
        longest=longest_of(section),
        seed=f"{run.seed}/{iteration}" if iteration else run.seed,
        blend=blend,
        before=before,
        gather=section.gathers,
    )


def longest_of(section: SftSection) -> int:
    """Tokens of the longest conversation that is ordered: longer ones fall out here where they are skipped or cut, and
    are otherwise split or refused by the training loop (`screen.py`)."""
    return section.pack_tokens if section.too_long in ("skip", "cut") else sys.maxsize


def random_mix(run: StageRun, encoder: Encoder) -> tuple[Material, Order]:
    """What the three stages would see, with their tokens and replay shares but without grades, shuffled together."""
    materials: list[Material] = []
    plans: list[Order] = []
    for stage in STAGES:
        material = material_of(run, stage)
        check(run, stage, material)
        materials.append(material)
        plans.append(order(run, stage, material, encoder, getattr(run.recipe.sft, stage).tokens))
    samples = [sample for plan in plans for sample in plan.samples]
    samples = _shuffled(samples, f"random mix {run.seed}", run.recipe.sft)
    own = list({sample.id: sample for material in materials for sample in material.own}.values())
    too_long = sorted({name for plan in plans for name in plan.too_long})
    plan = Order(samples, sum(p.tokens for p in plans), too_long, sum(p.epochs for p in plans))
    return Material(own, []), plan


def single_stage(run: StageRun, encoder: Encoder) -> tuple[Material, Order]:
    """The knowledge set and its replay alone, shuffled, on the tokens of all three stages."""
    section, material = run.recipe.sft, material_of(run, "knowledge")
    check(run, "knowledge", material)
    plan = curriculum.order(
        material,
        tokens=sum(getattr(section, stage).tokens for stage in STAGES),
        replay=replay_of(run, "knowledge"),
        turns=section.knowledge.turns,
        noise=1.0,
        length=encoder.length,
        longest=longest_of(section),
        seed=run.seed,
    )
    return material, replace(plan, samples=_shuffled(plan.samples, f"single stage {run.seed}", section))


def _shuffled(samples: list[Sample], seed: str, section: SftSection) -> list[Sample]:
    """In random order; with `sft.gather_pictures` those about one picture together."""
    if section.gathers:
        return by_picture(samples, seed)
    samples = list(samples)
    random.Random(seed).shuffle(samples)
    return samples


def blend_of(run: StageRun, material: Material) -> Blend | None:
    """The blend of stage 2: measured, set by hand, or None for one that is fixed."""
    ability = run.recipe.sft.ability
    if ability.blend == "fixed":
        return None
    if ability.blend == "deficit":
        measured = read_json(run.inputs["deficit"] / "blend.json")
        assert measured is not None, "the stage `deficit` ends with blend.json"
        shares = {name: about["share"] for name, about in measured["abilities"].items()}
    else:
        shares = curriculum.by_hand(ability.blend, material.own)
    return Blend(shares, ability.blend_epochs)
