"""The training loop of offline RL (paper §4.2.3, stage 2): DPO on preference pairs, the vision tower frozen.

There is no second model. With `dpo.reference` the starting model's log-probabilities are computed once, before the
first step, and kept beside the checkpoints.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from open4ov import checkpoints, memory, schedules, training
from open4ov.averaging import trained_weights
from open4ov.journal import Journal, now
from open4ov.keeper import Keeper
from open4ov.model import Processor
from open4ov.recipe import DpoSection
from open4ov.recipe_dpo import TOLD
from open4ov.rl.policy import Policy
from open4ov.rl.preference import watch
from open4ov.rl.preference.loss import of_pairs
from open4ov.rl.preference.prompts import Prompts
from open4ov.rl.preference.scores import Scorer, parts
from open4ov.rl.preference.screen import Screened, screen
from open4ov.sample import Sample, content_id
from open4ov.store import atomic
from open4ov.training_pass import Spread, accumulate, gathered, in_step, most, told

Curve = list[dict[str, Any]]
WARMUP = 0.1


@dataclass
class Fit:
    """What a training left besides the changed model. `listed`: ids of pairs that were left out, by fault."""

    curve: Curve
    listed: dict[str, list[str]]
    held_out: list[Sample]
    watch: watch.Watch
    summary: dict[str, Any] = field(default_factory=dict[str, Any])


def train(
    model: Policy,
    processor: Processor,
    pairs: Sequence[Sample],
    image: Callable[[str], Image.Image],
    section: DpoSection,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
    log: Callable[[dict[str, Any]], None] | None = None,
    *,
    scratch: Path | None = None,
    note: Callable[[str], None] | None = None,
    folder: Path | None = None,
    name: str = "dpo",
    stop_after: int | None = None,
) -> Fit:
    """Trains the model in place on the pairs, but for those that are kept apart to validate with.

    Every `checkpoint_every` steps the state is written to `scratch` (None: never); a later call with the same pairs and
    options goes on from there and ends with the same weights, bit for bit. `folder`: of the journal (None: there is
    none), as of `name`. `stop_after`: return after that step, as if killed there. `note` is told what a user should
    look at.

    On many processes all make the same call, and only the first one brings `progress`, `log`, `note` and `folder`: the
    pairs of a batch are shared out.

    Raises training.Diverged, which names the pairs, when a loss or a gradient is not finite (nothing has been changed
    by that step), and ValueError for a sample that is no pair.
    """
    training.freeze_vision(model)
    model.eval()
    prompts = Prompts(processor, image)
    screened = screen(pairs, prompts, section.max_tokens)
    loop = _Loop(model, Scorer(model, prompts, section.precision), screened, section, seed)
    if note:
        for line in loop.short():
            note(line)
    keeper = Keeper(scratch, model, loop.optimizer)
    loop.begin(scratch, keeper)
    if not loop.curve and loop.held:
        loop.measure(0)
    total, told = len(loop.batches), False

    def tell() -> None:
        nonlocal told
        if note and not told and loop.watch.first_fall is not None:
            note(_told(loop.watch, section))
            told = True

    tell()  # of a fall before a kill: what was noted then is lost
    book = Journal(folder, section, len(loop.curve), name, loop.identity, "dpo") if folder and total else None
    with closing(keeper), closing(book) if book else nullcontext():
        for step in range(len(loop.curve), total):
            if loop.watch.stopped:
                break
            began = now(model.device)
            point = loop.step(step)
            seconds = now(model.device) - began
            last = step + 1 == total
            if loop.held and ((step + 1) % section.validation.every == 0 or last):
                point |= {f"val_{name}": value for name, value in loop.measure(step + 1).items()}
                tell()
            loop.curve.append(point)
            if progress:
                progress(f"DPO, accuracy {point['accuracy']:.2f}", step + 1, total)
            line = {**point, **loop.pace(step, seconds)}
            if log:
                log(line)
            if book:
                book.write(line)
            if step + 1 == stop_after:
                break
            if scratch and (step + 1) % section.checkpoint_every == 0 and not last:
                loop.save(keeper)
    if loop.watch.stopped:
        checkpoints.put(model, loop.watch.best_weights)
    held = [screened.pairs[number] for number in loop.held]
    return Fit(loop.curve, screened.listed, held, loop.watch, {"steps": len(loop.curve), **loop.watch.summary()})


class _Loop:
    """One training: its pairs, their order, and where it stands."""

    def __init__(self, model: Policy, scorer: Scorer, screened: Screened, section: DpoSection, seed: int) -> None:
        self.model, self.scorer, self.section = model, scorer, section
        self.pairs, self.tokens = screened.pairs, screened.tokens
        own, self.held = watch.apart(self.pairs, section.validation.pairs, seed)
        order: list[int] = []
        for epoch in range(section.epochs):
            once = list(own)
            random.Random(f"dpo {seed} {epoch}").shuffle(once)
            order += once
        self.batches = [order[first : first + section.batch] for first in range(0, len(order), section.batch)]
        self.optimizer = training.adamw(model, section.learning_rate)
        self.watch = watch.Watch(section)
        self.curve: Curve = []
        self.reference: Tensor | None = None

    def short(self) -> Iterator[str]:
        """What the pairs do not suffice for, in words."""
        section, own = self.section, len(self.pairs) - len(self.held)
        if not own and section.pairs:
            yield "there is no pair to train on: the model stays as it is"
        if 0 < own < section.batch:
            yield f"dpo.batch: a step takes {section.batch} pairs, and all to train on are {own}"
        if self.pairs and len(self.pairs) // 10 < section.validation.pairs:
            yield (
                f"dpo.validation.pairs: {len(self.held)} of {len(self.pairs)} pairs are kept apart, not the "
                f"{section.validation.pairs} asked for: of few pairs it is a tenth at most"
            )

    @property
    def identity(self) -> str:
        """What it is a training of."""
        said = [(p.id, p.messages[-1].text, [m.text for m in p.rejected or ()], p.images) for p in self.pairs]
        read = self.section.model_dump(exclude={*TOLD, "probe", "mix", "preferences", "device", "interpolation"})
        read["precision"] = training.kind(self.section.precision, self.model.device)
        return content_id("dpo", read, said, self.batches)

    def begin(self, scratch: Path | None, keeper: Keeper) -> None:
        """Computes what the starting model says of the pairs, if that is asked for, or takes it and the newest
        checkpoint from `scratch`."""
        identity = self.identity
        if self.batches:
            self.scorer.look(self.pairs)
        if self.section.reference:
            self.reference = self._reference(scratch, identity)
        found = keeper.load(identity)
        if found:
            self.curve = found.curve
            self.watch.restore(found.notes["watch"], found.tensors.get("best", {}))

    def save(self, keeper: Keeper) -> None:
        """Writes a checkpoint. Raises as `keeper` does."""
        tensors = {"best": self.watch.best_weights} if self.watch.best_weights else {}
        notes = {"watch": self.watch.notes()}
        keeper.save(checkpoints.Checkpoint(len(self.curve), self.identity, self.curve, notes, tensors))

    def step(self, step: int) -> dict[str, Any]:
        """One update from the batch of that number. Raises Diverged, and has changed nothing then."""
        section, batch = self.section, self.batches[step]
        totals: dict[str, float] = {}
        value = 0.0
        for share, own, figures in self._accumulated(batch):
            value += own * share
            for name, figure in figures.items():
                totals[name] = totals.get(name, 0.0) + figure * share
        rate = section.learning_rate * schedules.warmup_cosine(step, len(self.batches), WARMUP)
        try:
            if not math.isfinite(value):
                self.model.zero_grad(set_to_none=True)
                raise training.Diverged(f"the loss is {value}: lower the learning rate ({rate:g})")
            norm = training.step(self.model, self.optimizer, rate, section.grad_clip)
        except training.Diverged as error:
            raise training.Diverged(f"step {step + 1}: {error}, or look at {_named(self.pairs, batch)}") from None
        memory.trim()
        figures = {name: round(figure, 5) for name, figure in totals.items()}
        return {"step": step + 1, "loss": round(value, 5), **figures, "grad_norm": round(norm, 4), "lr": rate}

    def _accumulated(self, batch: Sequence[int]) -> list[tuple[float, float, dict[str, float]]]:
        """The gradients of a batch, part by part. Of each part on all processes: its share, its loss, its figures."""
        found: list[tuple[float, float, dict[str, float]]] = []

        def objective(part: list[int], sums: Tensor, lengths: Tensor) -> Tensor:
            before = None if self.reference is None else self.reference[part].to(sums.device)
            own, figures = of_pairs(sums, lengths, self.section, before)
            found.append((len(part) / len(batch), float(own.detach()), figures))
            return own

        own = list(parts(self.scorer.share(self.pairs, batch), self.tokens, self.section.part_tokens))
        passes = (
            self.scorer.passing([self.pairs[n] for n in part], len(part) / len(batch), partial(objective, part))
            for part in own
        )
        (count,) = most(self.model, [len(own)])
        accumulate(self.model, in_step(self.model, passes, count), self.scorer.precision)
        return gathered(self.model, found)

    def pace(self, step: int, seconds: float) -> dict[str, float]:
        """Of a step that took so long: its tokens are those of prompts, pictures and both responses."""
        tokens = sum(self.tokens[number] for number in self.batches[step])
        return {"tokens": tokens, "seconds": round(seconds, 4), "tokens_per_second": round(tokens / seconds, 1)}

    def measure(self, step: int) -> dict[str, float]:
        """Of the pairs that are kept apart; `watch` sees it."""
        pairs, tokens = [self.pairs[n] for n in self.held], [self.tokens[n] for n in self.held]
        scores = self.scorer.all(pairs, tokens, self.section.batch, self.section.part_tokens)
        before = None if self.reference is None else self.reference[self.held]
        found = watch.figures(scores, self.section, before)
        self.watch.see(step, found, lambda: trained_weights(self.model))
        return found

    def _reference(self, scratch: Path | None, identity: str) -> Tensor:
        """The starting model's log-probabilities of all pairs [N, 2]; the model is still as it began."""
        path = scratch / f"reference-{identity}.safetensors" if scratch else None
        if path and told(self.model, path.exists())[0]:
            return load_file(path)["logp"]
        sums, _ = self.scorer.all(self.pairs, self.tokens, self.section.batch, self.section.part_tokens)
        leads = not isinstance(self.model, Spread) or self.model.leads
        if path and leads:
            with atomic(path) as temporary:
                save_file({"logp": sums.contiguous()}, temporary)
        return sums


def _named(pairs: Sequence[Sample], batch: Sequence[int]) -> str:
    names = [pairs[number].id for number in batch]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"the pairs of this batch: {', '.join(names[:8])}{more}. The step has changed nothing"


def _told(watch: watch.Watch, section: DpoSection) -> str:
    what = (
        f"the training ends with the weights of step {watch.best_step}"
        if watch.stopped
        else "raise dpo.nll_weight, lower dpo.learning_rate or set dpo.on_fall: stop"
    )
    return (
        f"the chosen responses fell {watch.first_fall:.2f} nats a token below their start (dpo.watch: "
        f"{section.watch:g}): {what}"
    )
