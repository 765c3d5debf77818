"""The training loop of SFT: packs, steps, checkpoints.

One step is `sft.accumulate` packs, and its loss is the mean over all their targets: they are one batch that is computed
in parts. The learning rate follows the share of the training's tokens that has been seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from open4ov import memory, schedules, training
from open4ov.averaging import Average, trained_weights
from open4ov.checkpoints import Checkpoint, load, put, save
from open4ov.errors import UserError
from open4ov.model import Batch, Trainable, lora
from open4ov.recipe import SftSection, SftStage
from open4ov.recipe_sft import PARTS
from open4ov.sample import Sample, content_id
from open4ov.sft import packing
from open4ov.sft.encoding import SampleEncoder, prefetch

Progress = Callable[[str, int, int], None]
B = TypeVar("B", bound=Batch)
V = TypeVar("V")


@dataclass
class Carry:
    """Where a training that takes several calls of `fit` stands. It goes from each to the next, and is not looked into.

    `chain` has what each call is a training of. After a restart it may be longer than `calls` says that there were:
    those in it are taken as done, but for the last, of which `begun` steps are.
    """

    optimizer: training.Optimizer
    average: Average | None = None
    live: dict[str, torch.Tensor] | None = None
    """The weights that training goes on with, where the model was left with others (their average)"""
    chain: list[str] = field(default_factory=list)
    calls: int = 0
    begun: int = 0
    steps: int = 0
    tokens: int = 0
    room: int = 0
    """Tokens that the packs so far had room for"""
    curve: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Fit:
    """What a training left besides the changed model: of several calls, all that they left so far."""

    curve: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    carry: Carry | None = None


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
    *,
    validation: Sequence[Sample] = (),
    total_tokens: int | None = None,
    carry: Carry | None = None,
) -> Fit:
    """Trains the model in place on the samples, in their order.

    Every `checkpoint_every` steps the state is written to `checkpoints` (None: never); a later call with the same
    samples and options goes on from there and ends with the same weights, bit for bit, as an uninterrupted one.
    `stop_after`: return after that step, as if killed there.

    A training whose samples are chosen bit by bit takes one call for each bit: each is given what is to be trained in
    all (`total_tokens`, which the schedule runs over) and the `carry` of the call before (None in the first). After a
    kill the calls are made again from the first, with the same samples: those that were done return at once.

    `validation`: samples that the loss is measured on (`sft.validation`).

    Raises training.Diverged when a loss or a gradient is not finite, and UserError when `section` asks for adapters
    that the model does not have, or a repeated call has other samples than those that the training went on from.
    """
    if section.lora_rank and not any(lora.is_adapter(name) for name, _ in model.named_parameters()):
        raise UserError("sft.lora_rank: the model has no adapters (lora.add puts them into a Qwen3-VL); set it to 0")
    if carry and not total_tokens:
        raise ValueError("a training of several calls needs its total_tokens in each of them")
    lengths = [encoder.length(sample) for sample in samples]
    order = packing.plan(lengths, section.pack_tokens)
    steps = [order.packs[i : i + section.accumulate] for i in range(0, len(order.packs), section.accumulate)]
    factors = _parts(model, section, options)
    if carry is None:
        build = training.muon if section.optimizer == "muon" else training.adamw
        carry = Carry(build(model, options.learning_rate, section.weight_decay, factors))
        carry.average = Average(model, section.ema) if section.ema else None
    identity = _identity(section, options, steps, samples, total_tokens)
    if checkpoints and not carry.chain:
        _resume(carry, checkpoints, model, identity)
    begun = _enter(carry, identity, len(steps), model)
    if begun < len(steps):
        if not any(parameter.requires_grad for parameter in model.vision_parameters()):
            with training.precision(section.precision, _device(model)):
                encoder.freeze(model, samples, progress)
        else:
            encoder.thaw()
        if section.compile and carry.calls == 0:
            for block in model.blocks():
                block.compile(dynamic=True)
    total = total_tokens or order.tokens

    def packs() -> Iterator[tuple[B, V | None]]:
        for step in steps[begun:]:
            for indices in step:
                yield encoder.pack([samples[i] for i in indices])

    model.train()
    last = carry.steps + len(steps) - begun
    with closing(prefetch(packs())) as stream:
        for step in steps[begun:]:
            began = time.monotonic()
            targets = [sum(encoder.targets(samples[i]) for i in indices) for indices in step]
            size = sum(lengths[i] for indices in step for i in indices)
            rate = options.learning_rate * schedules.factor(
                section.lr_schedule, carry.tokens + size, size, total, options.warmup, section.lr_decay
            )
            losses: list[torch.Tensor] = []
            for own in targets:
                pack, features = next(stream)
                with training.precision(section.precision, _device(model)):
                    loss = model.loss(pack, features) * (own / sum(targets))
                loss.backward()
                losses.append(loss.detach())
            loss = float(torch.stack(losses).sum())
            norm = _update(model, carry, rate, section.grad_clip, loss)
            carry.steps += 1
            carry.begun += 1
            carry.tokens += size
            carry.room += section.pack_tokens * len(step)
            if carry.steps % 10 == 0:
                memory.trim()
            seconds = time.monotonic() - began
            point = {
                "step": carry.steps,
                "loss": round(loss, 5),
                "grad_norm": round(norm, 4),
                "lr": rate,
                "tokens": size,
                "targets": sum(targets),
                **model.figures(),
            }
            carry.curve.append(point)
            if progress:
                progress(
                    f"training, loss {loss:.3f}", carry.tokens if total_tokens else carry.steps, total_tokens or last
                )
            if log:
                log({**point, "tokens_per_second": round(size / seconds)})
            if checkpoints and carry.steps % section.checkpoint_every == 0 and carry.steps < last:
                _save(carry, checkpoints, model)
            if carry.steps == stop_after:
                break
    if checkpoints and total_tokens and carry.begun == len(steps) > begun:
        _save(carry, checkpoints, model)
    carry.calls += 1
    if carry.average:
        carry.live = trained_weights(model)
        put(model, carry.average.weights)
    model.eval()
    fill = carry.tokens / carry.room if carry.room else 1.0
    summary = {"steps": carry.steps, "tokens": carry.tokens, "pack_fill": round(fill, 4)}
    return Fit(carry.curve, summary, carry)


def _parts(model: Trainable[Any, Any], section: SftSection, options: SftStage) -> dict[int, float]:
    """Freezes the parts of the model that the stage leaves alone; the others' shares of its learning rate."""
    if options.still_vision:  # together, where they cannot be told apart too
        training.freeze_vision(model)
    factors: dict[int, float] = {}
    for part in PARTS:
        if part in options.frozen and not (options.still_vision and part != "language"):
            for parameter in model.part_parameters(part):
                parameter.requires_grad_(False)
        rate = getattr(options.parts, part).learning_rate
        if rate is not None and part not in options.frozen:
            factors |= {id(p): rate / options.learning_rate for p in model.part_parameters(part)}
    return factors


def _update(model: Trainable[Any, Any], carry: Carry, rate: float, grad_clip: float, loss: float) -> float:
    """One step of the optimizer; the gradient's norm."""
    if not math.isfinite(loss):
        model.zero_grad(set_to_none=True)
        raise training.Diverged(f"the loss is {loss}: lower the learning rate ({rate:g})")
    norm = training.step(model, carry.optimizer, rate, grad_clip)
    if carry.average:
        carry.average.update(model)
    return norm


_READ = {
    "accumulate",
    "ema",
    "grad_clip",
    "lora_rank",
    "lr_decay",
    "lr_schedule",
    "optimizer",
    "precision",
    "weight_decay",
}
"""Options of the section that decide what becomes of the weights, besides those that the packs show."""


def _identity(
    section: SftSection, options: SftStage, steps: list[list[list[int]]], samples: Sequence[Sample], total: int | None
) -> str:
    ids = [sample.id for sample in samples]
    return content_id("sft", options.model_dump(), section.model_dump(include=_READ), steps, ids, total)


def _enter(carry: Carry, identity: str, steps: int, model: Trainable[Any, Any]) -> int:
    """How many of the call's `steps` are done already."""
    if carry.live is not None:
        put(model, carry.live)
        carry.live = None
    if len(carry.chain) == carry.calls:
        carry.chain.append(identity)
        carry.begun = 0
    elif carry.chain[carry.calls] != identity:
        raise UserError(
            "the training was interrupted after it had gone on with other samples than those that are now chosen for "
            f"its part {carry.calls + 1}; delete the stage's folder in .work and give the same command again"
        )
    return steps if len(carry.chain) > carry.calls + 1 else carry.begun


def _save(carry: Carry, folder: Path, model: Trainable[Any, Any]) -> None:
    notes = {"begun": carry.begun, "tokens": carry.tokens, "room": carry.room}
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    if carry.average:
        notes["averaged"] = carry.average.steps
        tensors["average"] = carry.average.weights
    identity = " ".join(carry.chain)
    save(folder, model, carry.optimizer, Checkpoint(carry.steps, identity, carry.curve, notes, tensors))


def _resume(carry: Carry, folder: Path, model: Trainable[Any, Any], identity: str) -> None:
    """Takes up the newest checkpoint of a training that begins with the call of that identity."""
    found = load(folder, model, carry.optimizer, lambda other: other.split()[0] == identity)
    if not found:
        return
    carry.chain, carry.steps, carry.curve = found.identity.split(), found.done, found.curve
    carry.begun, carry.tokens, carry.room = (found.notes[key] for key in ("begun", "tokens", "room"))
    if carry.average:
        carry.average.restore(found.notes["averaged"], found.tensors["average"])


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device
