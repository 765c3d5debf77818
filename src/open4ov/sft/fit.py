"""The training loop of SFT: packs, steps, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from open4ov import memory, training
from open4ov.errors import UserError
from open4ov.model import Batch, Trainable, lora
from open4ov.recipe import SftSection, SftStage
from open4ov.sample import Sample, content_id
from open4ov.sft import packing
from open4ov.sft.encoding import SampleEncoder, prefetch

Progress = Callable[[str, int, int], None]
B = TypeVar("B", bound=Batch)
V = TypeVar("V")


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
