"""The training loop of SFT: packs, steps, checkpoints.

One step is `sft.accumulate` packs, and its loss is the mean over all their targets: they are one batch that is computed
in parts. The learning rate follows the share of the training's tokens that has been seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch

from open4ov import memory, schedules, training
from open4ov.errors import UserError
from open4ov.journal import Journal
from open4ov.model import Batch, Trainable, lora
from open4ov.recipe import SftSection, SftStage
from open4ov.sample import Sample, content_id
from open4ov.sft import packing, preparation
from open4ov.sft import validation as held_out
from open4ov.sft.carry import Carry
from open4ov.sft.encoding import Encoder, SampleEncoder, prefetch
from open4ov.sft.screen import listed, origins, screen
from open4ov.sft.throughput import Operations, peak_tflops
from open4ov.training_pass import Spread, Whole, accumulate, processes, shared_out, summed

Progress = Callable[[str, int, int], None]
Steps = list[list[list[int]]]
"""For each step its packs, for each pack the numbers of its samples"""
Pace = dict[str, float]
"""seconds, tokens_per_second, and mfu where the device's peak is known"""
B = TypeVar("B", bound=Batch)
V = TypeVar("V")


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
    journal: Path | None = None,
    name: str = "sft",
) -> Fit:
    """Trains the model in place on the samples, in their order.

    Every `checkpoint_every` steps the state is written to `checkpoints` (None: never); a later call with the same
    samples and options goes on from there and ends with the same weights, bit for bit, as an uninterrupted one.
    `stop_after`: return after that step, as if killed there. `validation`: where `sft.validation` takes its samples
    from. `journal`: folder of the files that tell of each step (`journal.py`; None: there are none), as of `name`.

    A training whose samples are chosen bit by bit takes one call for each bit: each is given what is to be trained in
    all (`total_tokens`, which the schedule runs over) and the `carry` of the call before (None in the first). After a
    kill the calls are made again from the first, with the same samples: those that were done return at once.

    Raises training.Diverged when a loss or a gradient is not finite (nothing has been changed by that step), and
    UserError when `section` asks for adapters that the model does not have, for samples that the recipe refuses, when
    there is nothing to train on, and when a repeated call has other samples than those that the training went on from.
    """
    if section.lora_rank and not any(lora.is_adapter(key) for key, _ in model.named_parameters()):
        raise UserError("sft.lora_rank: the model has no adapters (lora.add puts them into a Qwen3-VL); set it to 0")
    if carry and not total_tokens:
        raise ValueError("a training of several calls needs its total_tokens in each of them")
    screened = screen(samples, encoder.length, section.pack_tokens, section.too_long, section.empty_answers)
    samples = screened.samples
    lengths, names = [encoder.length(sample) for sample in samples], [sample.id for sample in samples]
    alike = [encoder.beginning(sample) for sample in samples]
    order = packing.plan(lengths, section.pack_tokens, alike=alike, names=names)
    steps: Steps = [order.packs[i : i + section.accumulate] for i in range(0, len(order.packs), section.accumulate)]
    watching, unwatched = list[Sample](), 0
    if section.validation.every:
        most, longest = section.validation.samples, section.pack_tokens
        watching, unwatched = held_out.chosen(validation, most, encoder.length, longest)
    factors = preparation.parts(model, section, options)
    if carry is None:
        carry = preparation.fresh(model, section, options, factors)
    if carry.watch:
        carry.watch.too_long = unwatched
    kind = training.kind(section.precision, preparation.device(model))
    identity = _identity(section, options, steps, [*samples, *watching], total_tokens, kind)
    if checkpoints and not carry.chain:
        carry.resume(checkpoints, model, identity)
    begun = carry.enter(identity, len(steps), model)
    for word in ("too_long", "split", "empty"):
        carry.listed[word] = sorted({*carry.listed.get(word, ()), *getattr(screened, word)})
    if begun < len(steps):
        preparation.hold(
            model, encoder, section, [*samples, *watching], progress, compile=section.compile and not carry.calls
        )
    total = total_tokens or order.tokens
    precision = partial(training.precision, kind, preparation.device(model))
    loop = _Loop(model, encoder, samples, section, options, carry, total, precision)
    measure = partial(held_out.measure, model, encoder, watching, section.pack_tokens, precision)
    last = carry.steps + len(steps) - begun
    book = Journal(journal, section, carry.steps, name, carry.chain[0]) if journal and begun < len(steps) else None

    def tell(figures: dict[str, Any]) -> None:
        if progress:
            done = carry.tokens if total_tokens else carry.steps
            progress(f"training, loss {figures['loss']:.3f}", done, total_tokens or last)
        if log:
            log(figures)
        if book:
            book.write(figures)

    model.train()
    with closing(prefetch(loop.packs(steps[begun:]))) as stream, closing(book) if book else nullcontext():
        for step in steps[begun:]:
            try:
                point, pace = loop.step(step, stream)
            except _Broken as broken:
                raise _named(broken, carry, checkpoints) from None
            ends = carry.tokens >= total if total_tokens else carry.steps == last
            if carry.watch and (carry.steps % section.validation.every == 0 or ends):
                point["val_loss"] = held_out.watched(carry.watch, carry.steps, model, carry.average, measure)
            carry.curve.append(point)
            tell({**point, **pace})
            if carry.stopped or carry.steps == stop_after:
                break
            if checkpoints and carry.steps % section.checkpoint_every == 0 and carry.steps < last:
                carry.save(checkpoints, model)
    if checkpoints and total_tokens and carry.begun == len(steps) > begun and not carry.stopped:
        carry.save(checkpoints, model)
    carry.leave(model)
    model.eval()
    return Fit(carry.curve, _summary(carry), carry)


class _Broken(Exception):
    """A step whose loss or gradient is not finite: the packs, their losses, and what is wrong."""

    def __init__(self, reason: training.Diverged, packs: list[list[Sample]], losses: list[float]) -> None:
        super().__init__(str(reason))
        self.reason, self.packs, self.losses = reason, packs, losses


class _Loop(Generic[B, V]):
    """The steps of one call. `total`: tokens that the learning rate's schedule runs over."""

    def __init__(
        self,
        model: Trainable[B, V],
        encoder: SampleEncoder[B, V],
        samples: list[Sample],
        section: SftSection,
        options: SftStage,
        carry: Carry,
        total: int,
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.model, self.encoder, self.samples = model, encoder, samples
        self.section, self.options, self.carry = section, options, carry
        self.total, self.precision = total, precision
        self.operations = Operations(model)
        peak = section.peak_tflops or peak_tflops(preparation.device(model)) or 0.0
        self.peak = peak * processes(model)  # of all devices together, as the operations are

    def packs(self, steps: Steps) -> Iterator[tuple[B, V | None]]:
        """Those of this process, in the order of its passes."""
        for step in steps:
            for number in self.own(step):
                if number is None:
                    assert isinstance(self.model, Spread)
                    yield cast(B, self.model.filler()), None
                else:
                    yield self.encoder.pack([self.samples[i] for i in step[number]])

    def own(self, packs: list[list[int]]) -> list[int | None]:
        """Which of a step's packs this process computes; None: a pass that only keeps in step with other processes."""
        return shared_out(self.model, lambda: [self.cost(indices) for indices in packs], len(packs))

    def cost(self, indices: list[int]) -> float:
        """Operations of a pass over a pack of these samples, more or less."""
        encoder = cast(Encoder, self.encoder)  # the one of the models that lie on many processes
        documents = [encoder.document(self.samples[i]) for i in indices]
        return self.operations.before(documents, encoder.features.in_memory > 0)

    def step(self, packs: list[list[int]], stream: Iterator[tuple[B, V | None]]) -> tuple[dict[str, Any], Pace]:
        """One update from the next packs of the stream: what it computed, and how fast. Raises _Broken, and has changed
        nothing then."""
        began, carry, section = time.monotonic(), self.carry, self.section
        targets = [sum(self.encoder.targets(self.samples[i]) for i in indices) for indices in packs]
        size = sum(self.encoder.length(self.samples[i]) for indices in packs for i in indices)
        after = carry.tokens + size
        rate = self.options.learning_rate * schedules.factor(
            section.lr_schedule, after, size, self.total, self.options.warmup, section.lr_decay
        )
        own = self.own(packs)
        work = [0.0, 0.0]  # tokens and operations computed

        def passes() -> Iterator[Whole]:
            for number in own:
                pack, features = next(stream)
                if number is not None:
                    work[0] += len(pack.input_ids)
                    work[1] += self.operations.of(pack, features)
                yield Whole(pack, features, 0.0 if number is None else targets[number] / sum(targets))

        losses = torch.stack(accumulate(self.model, passes(), self.precision)).tolist()
        of_packs = [0.0] * len(packs)
        for number, value in zip(own, losses, strict=True):
            if number is not None:
                of_packs[number] = value
        *values, computed, flops = summed(self.model, [*of_packs, *work])
        try:
            norm = _update(self.model, carry, rate, section.grad_clip, sum(values))
        except training.Diverged as error:
            raise _Broken(error, [[self.samples[i] for i in pack] for pack in packs], values) from None
        carry.count(size, section.pack_tokens * len(packs), int(computed), flops)
        if carry.steps % 10 == 0:
            memory.trim()
        seconds = time.monotonic() - began
        pace: Pace = {"seconds": round(seconds, 4), "tokens_per_second": round(size / seconds)}
        if self.peak and flops:
            pace["mfu"] = round(flops / seconds / self.peak / 1e12, 4)
        found = {"loss": round(sum(values), 5), "grad_norm": round(norm, 4), "lr": rate}
        seen = {"tokens": size, "targets": sum(targets)}
        return {"step": carry.steps, **found, **seen, **self.model.figures()}, pace


def _update(model: Trainable[Any, Any], carry: Carry, rate: float, grad_clip: float, loss: float) -> float:
    """One step of the optimizer; the gradient's norm. Raises Diverged, and changes nothing, where that or the loss is
    not finite."""
    if not math.isfinite(loss):
        model.zero_grad(set_to_none=True)
        raise training.Diverged(f"the loss is {loss}: lower the learning rate ({rate:g})")
    norm = training.step(model, carry.optimizer, rate, grad_clip)
    if carry.average:
        carry.average.update(model)
    return norm


def _named(broken: _Broken, carry: Carry, checkpoints: Path | None) -> training.Diverged:
    """The error with its step and batch: of several packs, those whose loss is not finite."""
    packs = [pack for pack, loss in zip(broken.packs, broken.losses, strict=True) if not math.isfinite(loss)]
    names = [name for pack in packs or broken.packs for sample in pack for name in origins(sample)]
    kept = sorted(int(path.name[5:]) for path in checkpoints.glob("step-*")) if checkpoints else []
    rest = f"; the checkpoint of step {kept[-1]} is kept" if kept else ""
    return training.Diverged(
        f"step {carry.steps + 1}: {broken.reason}, or look at the samples of this batch: {listed(names)}. The step has "
        f"changed nothing{rest}"
    )


_READ = {
    "accumulate",
    "ema",
    "embedding_eps",
    "grad_clip",
    "lora_rank",
    "lr_decay",
    "lr_schedule",
    "optimizer",
    "share_prefix",
    "validation",
    "weight_decay",
}
"""Options of the section that decide what becomes of the weights, besides those that the packs show."""


def _identity(
    section: SftSection, options: SftStage, steps: Steps, samples: Sequence[Sample], total: int | None, kind: str
) -> str:
    """What a call is a training of."""
    ids = [sample.id for sample in samples]
    return content_id("sft", options.model_dump(), section.model_dump(include=_READ), steps, ids, total, kind)


def _summary(carry: Carry) -> dict[str, Any]:
    return {
        "steps": carry.steps,
        "tokens": carry.tokens,
        "pack_fill": round(carry.tokens / carry.room, 4) if carry.room else 1.0,
        "shared": round(1 - carry.computed / carry.tokens, 4) if carry.tokens else 0.0,
        "model_flops": carry.flops,
        **carry.listed,
        **(carry.watch.summary() if carry.watch else {}),
    }
