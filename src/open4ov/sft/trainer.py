"""One stage of curriculum SFT (paper §3.2.3): choose and grade the samples, pack them, train, save.

A stage leaves model/ (Hugging Face layout), samples.parquet (its own set with grades), curve.json and summary.json; one
that trains adapters also adapter.safetensors, which are merged in model/; stage 3 also preference.json, what its set is
made of.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from PIL import Image

from open4ov import assets
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, lora
from open4ov.parallel import recompute
from open4ov.recipe import SftStage
from open4ov.sample import Sample
from open4ov.sft import curriculum, preference_data
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

    Under `schedule: random_mix` the only stage is `knowledge`; it trains on all three sets, shuffled, with the tokens
    of all three stages: the ablation's baseline.
    """
    mixed = run.recipe.sft.schedule == "random_mix"
    sft = run.recipe.sft.of("knowledge" if mixed else stage)
    run = replace(run, recipe=run.recipe.model_copy(update={"sft": sft}))
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
    options = section.knowledge if mixed else getattr(section, stage)

    if mixed:
        material, plan = _random_mix(run, encoder)
    else:
        material = _material(run, stage)
        if grade:
            material = _graded(run, material, stage, model, encoder, grade)
        plan = _order(run, material, options, encoder)
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
    summary = {
        "stage": "random_mix" if mixed else stage,
        "samples": len(material.own),
        "replayed_from": len(material.replay),
        "conversations": len(plan.samples),
        "epochs": round(plan.epochs, 3),
        "too_long": plan.too_long,
        "mastery": dict(sorted(Counter(s.mastery or "ungraded" for s in material.own).items())),
        **result.summary,
    }
    write_json(run.out / "summary.json", summary)


def _order(run: StageRun, material: curriculum.Material, options: SftStage, encoder: Encoder) -> curriculum.Order:
    section = run.recipe.sft
    return curriculum.order(
        material,
        tokens=options.tokens,
        replay=options.replay,
        turns=options.turns,
        noise=section.difficulty_noise,
        length=encoder.length,
        longest=section.pack_tokens,
        seed=run.seed,
    )


def _material(run: StageRun, stage: Stage) -> curriculum.Material:
    """The samples of a stage, ungraded: its own set and what it replays."""
    vertical = _training_split(read_samples(run.inputs["data"] / "samples.parquet"))
    general = _training_split(read_samples(run.inputs["data"] / "general.parquet"))
    if stage == "knowledge":
        return curriculum.Material(vertical, general)
    if stage == "ability":
        return curriculum.Material(general, vertical)
    return curriculum.Material(_preference(run, vertical, general), [*vertical, *general])


def _random_mix(run: StageRun, encoder: Encoder) -> tuple[curriculum.Material, curriculum.Order]:
    """What the three stages would see, with their tokens and replay shares but without grades, shuffled together."""
    section = run.recipe.sft
    materials = [_material(run, stage) for stage in STAGES]
    plans = [
        _order(run, material, getattr(section, stage), encoder)
        for stage, material in zip(STAGES, materials, strict=True)
    ]
    samples = [sample for plan in plans for sample in plan.samples]
    random.Random(f"random mix {run.seed}").shuffle(samples)
    own = list({sample.id: sample for material in materials for sample in material.own}.values())
    too_long = sorted({name for plan in plans for name in plan.too_long})
    plan = curriculum.Order(samples, sum(p.tokens for p in plans), too_long, sum(p.epochs for p in plans))
    return curriculum.Material(own, []), plan


def _preference(run: StageRun, vertical: list[Sample], general: list[Sample]) -> list[Sample]:
    count = max(64, run.recipe.sft.preference.tokens // 200)
    made = preference_data.for_run(run, [*vertical, *general], count)
    write_json(run.out / "preference.json", made.report)
    return made.samples


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


def _training_split(samples: list[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.split == "train" and sample.messages]
