"""Online RL (paper §4.2.3, stage 1): roll out, reward, update by GSPO; the vision tower is frozen, there is no KL.

A stage leaves model/, curve.json, summary.json and failed.parquet: the tasks none of whose responses was right. With
`rl.filter` the tasks are those that the model answers now rightly, now wrongly (`selection.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from open4ov import answers_symbolic, memory, schedules, training
from open4ov.engine import Engine
from open4ov.functions import function
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import RlSection
from open4ov.rl import encoders, gspo, selection
from open4ov.rl.failed import Failures
from open4ov.rl.prefix import SharedPrefix, log_probs
from open4ov.rl.rollout import Group, encoded_prompts, in_pass_k, sample_groups
from open4ov.rl.tasks import Task, from_corpora
from open4ov.rollout_book import FOLDER, Book
from open4ov.store import write_json, write_samples

if TYPE_CHECKING:
    from open4ov.graph import StageRun

Curve = list[dict[str, Any]]
THRESHOLDS = "encoder_thresholds"
"""The folder of a run that keeps the thresholds which the labelled pairs have set"""


def run(run: StageRun) -> None:
    """The stage `rl`: trains the last SFT model on prompts drawn from the corpora."""
    section = run.recipe.rl
    torch.set_flush_denormal(True)
    start = next(folder for name, folder in run.inputs.items() if name.startswith("sft_")) / "model"
    model, processor = Qwen3VL.from_pretrained(start), Processor.from_pretrained(start)
    tasks = from_corpora(selection.candidates(section), section.text_share, run.seed) if section.steps else []
    failures = Failures()
    filtered: dict[str, Any] = {}
    if section.steps and section.filter.rollouts:
        selected = _selected(run, tasks, Engine(model, processor))
        tasks, filtered = selected.tasks, {"filter": selected.figures}
        failures.never(selected.never, section.filter.rollouts)
    kept, unverified = run.images.root.parent / THRESHOLDS, answers_symbolic.counts.no_verdict
    curve = fit(model, processor, tasks, section, run.seed, run.progress, run.log, failures.see, kept)
    failed = failures.samples(run.images)
    if unverified := answers_symbolic.counts.no_verdict - unverified:
        told = answers_symbolic.counts.reason
        run.note(f"{unverified} symbolic answers got no verdict and counted as wrong (the last: {told})")
    write_samples(run.out / "failed.parquet", failed)
    model.save_pretrained(run.out / "model")
    processor.save_pretrained(run.out / "model")
    tail = curve[-max(1, len(curve) // 5) :]
    summary = {
        "steps": len(curve),
        "responses": len(tasks) * section.group,
        "failed": len(failed),
        "no_verdict": unverified,
        **filtered,
        **{f"last_{key}": round(fmean(p[key] for p in tail), 4) for key in ("pass_rate", "length", "entropy") if tail},
    }
    write_json(run.out / "curve.json", curve)
    write_json(run.out / "summary.json", summary)


def _selected(run: StageRun, tasks: Sequence[Task], engine: Engine) -> selection.Selected:
    section = run.recipe.rl
    with closing(Book(run.images.root.parent / FOLDER)) as book:
        reward = function(section.reward, "rl.reward")
        found = selection.select(tasks, engine, section, reward, run.images, book, run.seed, run.progress)
    told, wanted = found.figures, section.steps * section.prompts
    run.log({"filter": {**told, "cost": found.cost.figures()}})
    if told["used"] < wanted:
        run.note(
            f"rl.filter left {told['used']} of {told['candidates']} candidates for {wanted} prompts: they are gone "
            "through several times; raise rl.filter.candidates"
        )
    return found


def fit(
    model: Qwen3VL,
    processor: Processor,
    tasks: Sequence[Task],
    section: RlSection,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
    log: Callable[[dict[str, Any]], None] | None = None,
    see: Callable[[Sequence[Group]], None] | None = None,
    thresholds: Path | None = None,
) -> Curve:
    """Trains the model in place: `section.prompts` tasks a step, in order, each answered `section.group` times.
    `see` is shown the groups of every step; `thresholds`: the folder that keeps what `diversity_threshold: auto` sets.

    Gives the curve. Raises UserError for a reward that cannot be used and FloatingPointError on a gradient that is
    not finite.
    """
    training.freeze_vision(model)
    optimizer = training.adamw(model, section.learning_rate)
    engine = Engine(model, processor)
    reward = function(section.reward, "rl.reward")
    embedder = encoders.build(section.embedder)
    threshold, told = encoders.threshold(section.embedder, section.diversity_threshold, embedder, thresholds)
    if log and section.diversity_threshold == "auto":
        log({"diversity": told})
    curve: Curve = []
    for step in range(section.steps):
        began = time.monotonic()
        batch = tasks[step * section.prompts : (step + 1) * section.prompts]
        groups = sample_groups(engine, batch, section, reward, embedder, step, seed, threshold)
        sampled = time.monotonic()
        if see:
            see(groups)
        rate = section.learning_rate * schedules.warmup_cosine(step, section.steps, 0.05, floor=0.1)
        update = _update(engine, optimizer, groups, section, rate)
        engine.update_weights()
        memory.trim()
        point = {
            "step": step + 1,
            "phase": "pass_at_k" if in_pass_k(section, step) else "diversity",
            **_figures(groups, section),
            **update.figures(),
            "weight_version": engine.weight_version,
        }
        curve.append(point)
        if progress:
            progress(f"RL, pass rate {point['pass_rate']:.2f}, {point['length']:.0f} tokens", step + 1, section.steps)
        if log:
            ended = time.monotonic()
            log({**point, "rollout_seconds": round(sampled - began, 2), "update_seconds": round(ended - sampled, 2)})
    return curve


@dataclass
class _Update:
    """What the optimizer steps of one rollout batch saw."""

    statistics: list[gspo.Statistics] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        if not self.norms:
            return {"updates": 0, "entropy": 0.0, "ratio": 1.0, "clip_low": 0.0, "clip_high": 0.0, "grad_norm": 0.0}
        return {
            "updates": len(self.norms),
            "entropy": round(fmean(self.entropies), 4),
            "ratio": round(fmean(s.ratio for s in self.statistics), 6),
            "clip_low": round(fmean(s.clipped_low for s in self.statistics), 4),
            "clip_high": round(fmean(s.clipped_high for s in self.statistics), 4),
            "grad_norm": round(fmean(self.norms), 4),
        }


def _update(
    engine: Engine,
    optimizer: training.Optimizer,
    groups: Sequence[Group],
    section: RlSection,
    rate: float,
) -> _Update:
    """The mini-batches of one rollout batch. Groups stay whole; dead ones are left out of the computation, but count
    in the mean of eq. 11, where they add zero."""
    model = engine.model
    alive = [group for group in groups if not group.dead]
    update = _Update()
    if not alive:
        return update
    prompts = encoded_prompts(engine.processor, [group.task for group in alive], engine.vision_cache)
    steps = min(section.minibatches, len(alive))
    cuts = [round(i * len(alive) / steps) for i in range(steps + 1)]
    minibatches: list[tuple[SharedPrefix, Tensor]] = []
    for first, last in pairwise(cuts):
        part = alive[first:last]
        shared = SharedPrefix.build(prompts[first:last], [[r.token_ids for r in g.responses] for g in part])
        minibatches.append((shared, torch.cat([group.advantages for group in part])))
    with torch.no_grad():  # the sampling policy's log-probabilities; of the first mini-batch they are the policy's own
        old = [None, *(log_probs(model, shared, section.temperature)[0] for shared, _ in minibatches[1:])]
    for (shared, advantages), before in zip(minibatches, old, strict=True):
        logp, entropy = log_probs(model, shared, section.temperature)
        reference = logp.detach() if before is None else before
        loss, statistics = gspo.loss(logp, reference, shared.response, advantages, section.clip_low, section.clip_high)
        share = len(advantages) * steps / (section.group * len(groups))
        (loss * share).backward()
        update.norms.append(training.step(model, optimizer, rate, grad_clip=1.0))
        update.statistics.append(statistics)
        update.entropies.append(float(entropy.mean()))
    return update


def _figures(groups: Sequence[Group], section: RlSection) -> dict[str, float]:
    correct = torch.stack([group.correct for group in groups])
    lengths = torch.stack([group.lengths for group in groups])
    length_rewards = torch.stack([group.length_rewards for group in groups])
    cut = [r.finish_reason == "length" for group in groups for r in group.responses]
    return {
        "reward": round(float((correct + section.length_weight * length_rewards).mean()), 4),
        "pass_rate": round(float(correct.mean()), 4),
        "solved": round(float((correct.max(-1).values > 0).double().mean()), 4),
        "length": round(float(lengths.mean()), 2),
        "truncated": round(fmean(cut), 4),
        "dead": round(fmean(group.dead for group in groups), 4),
    }
