"""One stage of curriculum SFT (paper §3.2.3): choose and grade the samples, pack them, train, save.

A stage leaves model/ (Hugging Face layout), samples.parquet (its own set with grades), curve.json and summary.json; one
that trains adapters also adapter.safetensors, which are merged in model/.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from open4ov import assets, memory, training
from open4ov.engine import Engine
from open4ov.errors import UserError
from open4ov.functions import function
from open4ov.model import Batch, Processor, Qwen3VL, Trainable, lora
from open4ov.parallel import recompute
from open4ov.recipe import SftSection, SftStage
from open4ov.sample import Sample, content_id
from open4ov.sft import curriculum, difficulty, packing, preference_data
from open4ov.sft.encoding import Encoder, SampleEncoder, prefetch
from open4ov.store import atomic, read_samples, write_json, write_samples

if TYPE_CHECKING:
    from open4ov.graph import StageRun

Stage = Literal["knowledge", "ability", "preference"]
STAGES: tuple[Stage, ...] = ("knowledge", "ability", "preference")
Progress = Callable[[str, int, int], None]
B = TypeVar("B", bound=Batch)
V = TypeVar("V")


def run_stage(run: StageRun, stage: Stage) -> None:
    """Trains the stage's model from the one before it (the base in the first stage). Resumes from `run.scratch`.

    Under `schedule: random_mix` the only stage is `knowledge`; it trains on all three sets, shuffled, with the tokens
    of all three stages: the ablation's baseline.
    """
    recipe, section = run.recipe, run.recipe.sft
    mixed = section.schedule == "random_mix"
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
        if section.difficulty_rollouts:
            material = _graded(run, material, stage, model, encoder)
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


@dataclass
class Fit:
    """What a training left besides the changed model."""

    curve: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


def fit(
    model: Trainable[B, V],
    encoder: SampleEncoder[B, V],
    samples: list[Sample],
    section: SftSection,
    options: SftStage,
    checkpoints: Path | None = None,
    progress: Progress | None = None,
    log: Callable[[dict[str, Any]], None] | None = None,
    stop_after: int | None = None,
) -> Fit:
    """Trains the model in place on the samples, in their order: one pack is one optimizer step.

    Every `checkpoint_every` steps the state is written to `checkpoints` (None: never); a later call with the same
    samples and options goes on from there and ends with the same weights, bit for bit, as an uninterrupted one.
    `stop_after`: return after that step, as if killed there. Raises FloatingPointError on a gradient that is not
    finite, and UserError when `section` asks for adapters that the model does not have.
    """
    if section.lora_rank and not any(lora.is_adapter(name) for name, _ in model.named_parameters()):
        raise UserError("sft.lora_rank: the model has no adapters (lora.add puts them into a Qwen3-VL); set it to 0")
    order = packing.plan([encoder.length(sample) for sample in samples], section.pack_tokens)
    steps = len(order.packs)
    if options.freeze_vision:
        training.freeze_vision(model)
    if not any(parameter.requires_grad for parameter in model.vision_parameters()):
        with training.precision(section.precision):
            encoder.freeze(model, samples, progress)
    else:
        encoder.thaw()
    build = training.muon if section.optimizer == "muon" else training.adamw
    optimizer = build(model, options.learning_rate, section.weight_decay)
    identity = content_id(
        "sft",
        options.model_dump(),
        section.precision,
        section.optimizer,
        order.packs,
        [s.id for s in samples],
        section.weight_decay,
        section.lora_rank,
    )
    result = Fit()
    done = 0
    if checkpoints:
        done, result.curve = training.load_checkpoint(checkpoints, model, optimizer, identity)
    if section.compile:
        for block in model.blocks():
            block.compile(dynamic=True)

    def packs() -> Iterator[tuple[B, V | None]]:
        for indices in order.packs[done:]:
            yield encoder.pack([samples[i] for i in indices])

    model.train()
    for pack, features in prefetch(packs()):
        began = time.monotonic()
        rate = options.learning_rate * training.warmup_cosine(done, steps, options.warmup)
        with training.precision(section.precision):
            loss = model.loss(pack, features)
        loss.backward()
        norm = training.step(model, optimizer, rate, section.grad_clip)
        done += 1
        if done % 10 == 0:
            memory.trim()
        seconds = time.monotonic() - began
        point = {
            "step": done,
            "loss": round(float(loss.detach()), 5),
            "grad_norm": round(norm, 4),
            "lr": rate,
            "tokens": len(pack.input_ids),
            **model.figures(),
        }
        result.curve.append(point)
        if progress:
            progress(f"training, loss {point['loss']:.3f}", done, steps)
        if log:
            log({**point, "tokens_per_second": round(len(pack.input_ids) / seconds)})
        if checkpoints and done % section.checkpoint_every == 0 and done < steps:
            training.save_checkpoint(checkpoints, model, optimizer, done, identity, result.curve)
        if done == stop_after:
            break
    model.eval()
    result.summary = {"steps": done, "tokens": order.tokens, "pack_fill": round(order.fill, 4)}
    return result


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
    return preference_data.build([*vertical, *general], count, run.seed)


def _graded(
    run: StageRun, material: curriculum.Material, stage: Stage, model: Qwen3VL, encoder: Encoder
) -> curriculum.Material:
    """The material with difficulty grades by the current model. In the preference stage the graded samples are the
    replayed ones, and those that the model fails altogether join the stage's own (high-difficulty supplement)."""
    section = run.recipe.sft
    cache = run.scratch / "graded.parquet"
    pool = material.replay if stage == "preference" else material.own
    if cache.exists():
        graded = read_samples(cache)
    else:
        graded = difficulty.grade(
            pool,
            Engine(model, encoder.processor),
            encoder.picture,
            function(section.verifier, "sft.verifier"),
            rollouts=section.difficulty_rollouts,
            limit=section.difficulty_samples,
            seed=run.seed,
            progress=run.progress,
        )
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


__all__ = ["STAGES", "Fit", "Stage", "fit", "run_stage"]
