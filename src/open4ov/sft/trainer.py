"""One stage of curriculum SFT (paper §3.2.3): choose and grade the samples, pack them, train, save.

A stage leaves model/ (Hugging Face layout), samples.parquet (its own set with grades), curve.json, blend.json (which
ability had how many tokens) and summary.json; one that trains adapters also adapter.safetensors, which are merged in
model/.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image

from open4ov import assets
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, lora
from open4ov.parallel import recompute
from open4ov.recipe import SftStage
from open4ov.recipe_blend import ONE_STAGE
from open4ov.run_dir import read_json
from open4ov.sample import Sample
from open4ov.sft import curriculum, deficit, sets
from open4ov.sft.encoding import Encoder
from open4ov.sft.fit import fit
from open4ov.store import atomic, read_samples, write_json, write_samples

if TYPE_CHECKING:
    from open4ov.graph import StageRun

Stage = Literal["knowledge", "ability", "preference"]
STAGES: tuple[Stage, ...] = ("knowledge", "ability", "preference")
Grade = Callable[[Sequence[Sample], Qwen3VL, Processor, Callable[[str], Image.Image]], list[Sample]]
"""Samples, the current model, its processor, and a picture by its digest -> the samples with their mastery"""


def run_stage(run: StageRun, stage: Stage, grade: Grade | None) -> None:
    """Trains the stage's model from the one before it (the base in the first stage). Resumes from `run.scratch`.
    `grade` gives the difficulty order; None: there is none.

    Under `schedule: random_mix` and `single_stage` the only stage is `knowledge`, with the tokens of all three stages:
    the baselines of the ablation.
    """
    recipe, section = run.recipe, run.recipe.sft
    torch.manual_seed(run.seed)
    torch.set_flush_denormal(True)
    previous = next((run.inputs[name] for name in run.inputs if name.startswith("sft_")), None)
    start = previous / "model" if previous else assets.base_dir(recipe.model)
    model, processor = Qwen3VL.from_pretrained(start), Processor.from_pretrained(start)
    processor.check(model.config)
    encoder = Encoder(
        processor,
        run.images,
        model.device,
        limit=section.pack_tokens if section.too_long == "cut" else None,
        held_bytes=round(section.vision_cache_gib * 2**30),
    )
    if section.compile and section.precision == "fp32" and model.config.text.num_experts:
        raise UserError("sft.compile: compiled experts need sft.precision bf16; change one of the two")
    baseline = section.schedule in ONE_STAGE
    options: SftStage = section.knowledge if baseline else getattr(section, stage)

    if section.schedule == "random_mix":
        material, plan = _random_mix(run, encoder)
    else:
        material = _material(run, stage)
        _check(run, stage, material)
        if grade and not baseline:
            material = _graded(run, material, stage, model, encoder, grade)
        plan = _single_stage(run, material, encoder) if baseline else _order(run, stage, material, encoder)
    recompute.apply(model, section.recompute, section.recompute_vision)
    if section.lora_rank:
        lora.add(model, section.lora_rank, seed=run.seed)
    result = fit(
        model, encoder, plan.samples, section, options, run.scratch / "checkpoints", progress=run.progress, log=run.log
    )
    if section.lora_rank:
        lora.save(model, run.out / "adapter.safetensors")
        lora.merge(model)
    model.save_pretrained(run.out / "model")
    processor.save_pretrained(run.out / "model")
    write_samples(run.out / "samples.parquet", material.own)
    write_json(run.out / "curve.json", result.curve)
    blend = _blend_record(run, stage, material, plan, encoder)
    write_json(run.out / "blend.json", blend)
    summary = {
        "stage": section.schedule if baseline else stage,
        "samples": len(material.own),
        "replayed_from": len(material.replay),
        "conversations": len(plan.samples),
        "epochs": round(plan.epochs, 3),
        "too_long": plan.too_long,
        "mastery": dict(sorted(Counter(s.mastery or "ungraded" for s in material.own).items())),
        "blend": {name: about["tokens"] for name, about in blend["abilities"].items()},
        **result.summary,
    }
    write_json(run.out / "summary.json", summary)


def _order(run: StageRun, stage: Stage, material: curriculum.Material, encoder: Encoder) -> curriculum.Order:
    section = run.recipe.sft
    options: SftStage = getattr(section, stage)
    return curriculum.order(
        material,
        tokens=options.tokens,
        replay=_replay(run, stage),
        turns=options.turns,
        noise=section.difficulty_noise,
        length=encoder.length,
        longest=section.pack_tokens,
        seed=run.seed,
        blend=_blend(run, material) if stage == "ability" and section.schedule == "curriculum" else None,
    )


def _replay(run: StageRun, stage: Stage) -> float:
    """The share of the tokens that a stage replays: the recipe's, or for stage 1 what rationing has found."""
    if stage == "knowledge" and "ration" in run.inputs:
        found = read_json(run.inputs["ration"] / "ratio.json")
        assert found is not None, "the stage `ration` ends with ratio.json"
        return 1.0 - float(found["ratio"])
    return getattr(run.recipe.sft, stage).replay


def _check(run: StageRun, stage: Stage, material: curriculum.Material) -> None:
    """Raises UserError for a stage without data: its own set, or the one that it is to replay, is empty."""
    given = run.inputs["preference_set" if stage == "preference" else "sets"]
    sets.check(given, stage, material.own, f"sft.{stage}")
    if (share := _replay(run, stage)) > 0 and not material.replay:
        replayed = "ability" if stage == "knowledge" else "knowledge"
        sets.check(run.inputs["sets"], replayed, material.replay, f"sft.{stage}.replay is {share:g}")


def _material(run: StageRun, stage: Stage) -> curriculum.Material:
    """The samples of a stage, ungraded: its own set and what it replays."""
    knowledge, ability = (sets.training(run.inputs["sets"] / name) for name in sets.FILES)
    if stage == "knowledge":
        return curriculum.Material(knowledge, ability)
    if stage == "ability":
        return curriculum.Material(ability, knowledge)
    return curriculum.Material(sets.training(run.inputs["preference_set"] / "preference"), [*knowledge, *ability])


def _random_mix(run: StageRun, encoder: Encoder) -> tuple[curriculum.Material, curriculum.Order]:
    """What the three stages would see, with their tokens and replay shares but without grades, shuffled together."""
    materials: list[curriculum.Material] = []
    plans: list[curriculum.Order] = []
    for stage in STAGES:
        material = _material(run, stage)
        _check(run, stage, material)
        materials.append(material)
        plans.append(_order(run, stage, material, encoder))
    samples = [sample for plan in plans for sample in plan.samples]
    random.Random(f"random mix {run.seed}").shuffle(samples)
    own = list({sample.id: sample for material in materials for sample in material.own}.values())
    too_long = sorted({name for plan in plans for name in plan.too_long})
    plan = curriculum.Order(samples, sum(p.tokens for p in plans), too_long, sum(p.epochs for p in plans))
    return curriculum.Material(own, []), plan


def _single_stage(run: StageRun, material: curriculum.Material, encoder: Encoder) -> curriculum.Order:
    """The knowledge set and its replay alone, shuffled, on the tokens of all three stages."""
    section = run.recipe.sft
    plan = curriculum.order(
        material,
        tokens=sum(getattr(section, stage).tokens for stage in STAGES),
        replay=_replay(run, "knowledge"),
        turns=section.knowledge.turns,
        noise=1.0,
        length=encoder.length,
        longest=section.pack_tokens,
        seed=run.seed,
    )
    random.Random(f"single stage {run.seed}").shuffle(plan.samples)
    return plan


def _blend(run: StageRun, material: curriculum.Material) -> curriculum.Blend | None:
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
    return curriculum.Blend(shares, ability.blend_epochs)


def _blend_record(
    run: StageRun, stage: Stage, material: curriculum.Material, plan: curriculum.Order, encoder: Encoder
) -> dict[str, Any]:
    """blend.json: of each ability of the stage's own set the tokens that it had, and in stage 2 what they were to be
    and why."""
    kind, asked = "fixed", {}
    if stage == "ability" and run.recipe.sft.ability.blend != "fixed":
        kind = "deficit" if run.recipe.sft.ability.blend == "deficit" else "by hand"
        known = read_json(run.inputs["deficit"] / "blend.json") if kind == "deficit" else None
        blend = _blend(run, material)
        assert blend is not None
        asked = {name: {"share": share} for name, share in blend.shares.items()} | (known or {}).get("abilities", {})
    conversations = [(curriculum.members(one), encoder.length(one)) for one in plan.samples]
    tokens = deficit.tokens_of(conversations, material.own)
    whole = max(sum(tokens.values()), 1)
    abilities: dict[str, dict[str, Any]] = {}
    for name in sorted(tokens.keys() | asked.keys()):
        got = tokens.get(name, 0)
        abilities[name] = {**asked.get(name, {}), "tokens": got, "drawn": round(got / whole, 6)}
        if name in plan.abilities:
            _, epochs, ran_out = plan.abilities[name]
            abilities[name] |= {"epochs": round(epochs, 3), "ran_out": ran_out}
    scarce = [name for name, about in abilities.items() if about.get("ran_out")]
    if scarce:
        most = run.recipe.sft.ability.blend_epochs
        run.note(f"{', '.join(scarce)}: gone through {most:g} times and short of its share; the rest went to others")
    return {"blend": kind, "abilities": abilities}


def _graded(
    run: StageRun, material: curriculum.Material, stage: Stage, model: Qwen3VL, encoder: Encoder, grade: Grade
) -> curriculum.Material:
    """The material with difficulty grades by the current model. In the preference stage the graded samples are the
    replayed ones, and those that the model fails altogether join the stage's own (high-difficulty supplement)."""
    cache = run.scratch / "graded.parquet"
    pool = material.replay if stage == "preference" else material.own
    if cache.exists():
        graded = read_samples(cache)
    else:
        graded = grade(pool, model, encoder.processor, encoder.picture)
        with atomic(cache) as temporary:
            write_samples(temporary, graded)
    if stage != "preference":
        return curriculum.Material(graded, material.replay)
    failed = [
        s.model_copy(update={"extra": {**s.extra, "preference": "high_difficulty"}})
        for s in graded
        if s.mastery == "unmastered" and s.extra.get("graded_by") == "rollouts"
    ]
    return curriculum.Material([*material.own, *failed], graded)
