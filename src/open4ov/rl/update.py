"""The update of one step (paper §4.2.3, eq. 11-12): mini-batches of whole groups, each a step of the optimizer.

Of a group the prompt is computed once, for the old log-probabilities as for the update (`prefix.py`); its pictures are
not computed at all while the tower is frozen. What is more than `rl.max_update_tokens` is computed in parts whose
gradients are added up: their sum is that of one pass.

Dead groups are left out of the computation, but count in the mean of eq. 11, where they add zero; so do responses
without a token. Under AdamW that is a weight among neighbouring steps, not a size: it divides by what gradients have
been of late, so that a share of dead groups that stays the same changes no step at all, and one with fewer live groups
than the steps before is smaller, as far as they are remembered. Where fewer groups are alive than `rl.minibatches`,
the optimizer makes fewer steps. A batch with one live group in sixteen still makes one.

Shapes: B responses and R response tokens of one part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor

from open4ov import training
from open4ov.engine import VisionCache
from open4ov.model import Encoded, Processor, Qwen3VL, VisionFeatures
from open4ov.model.processing import visuals
from open4ov.recipe import RlSection
from open4ov.rl import importance, losses
from open4ov.rl.prefix import SharedPrefix, log_probs
from open4ov.rl.replay import Replay
from open4ov.rl.rollout import Group, encoded_prompts


@dataclass
class Part:
    """What one pass computes: groups, or responses of a group that is too large for one pass. On the model's device."""

    shared: SharedPrefix
    advantages: Tensor
    """[B] float64"""
    rollout_logp: Tensor
    """[R] log p as the rollout had it"""
    pixels: Tensor | None
    """Patches of the pictures, where the tower is trained"""
    names: list[str]
    """Ids of the tasks"""
    old_logp: Tensor | None = None
    """[R] log p under the policy that sampled them; None: that of the pass itself, which comes before any step"""

    @property
    def responses(self) -> int:
        return len(self.advantages)

    @property
    def tokens(self) -> int:
        return len(self.shared.response)


@dataclass(frozen=True)
class Batch:
    """The live groups of a step, mini-batch by mini-batch. `responses` and `tokens` are of all its groups, the dead
    ones too."""

    minibatches: list[list[Part]]
    responses: int
    tokens: int

    def computed(self, first: int = 0) -> int:
        """Response tokens that are computed for the mini-batches from `first` on."""
        return sum(part.tokens for parts in self.minibatches[first:] for part in parts)


@dataclass
class Update:
    """What the optimizer steps of one batch saw: a list of one entry a mini-batch each."""

    losses: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    least: list[float] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    clipped_low: list[float] = field(default_factory=list)
    clipped_high: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    replay: list[float] = field(default_factory=list)
    importance: list[dict[str, float]] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """For the curve; nothing was updated where no group was alive."""
        if not self.norms:
            none = {"updates": 0, "loss": 0.0, "entropy": 0.0, "ratio": 1.0, "clip_low": 0.0, "clip_high": 0.0}
            return {**none, "grad_norm": 0.0}
        found = {
            "updates": len(self.norms),
            "loss": round(fmean(self.losses), 6),
            "entropy": round(fmean(self.entropies), 4),
            "ratio": round(fmean(self.ratios), 6),
            "ratio_min": round(min(self.least), 6),
            "ratio_max": round(max(self.largest), 6),
            "clip_low": round(fmean(self.clipped_low), 4),
            "clip_high": round(fmean(self.clipped_high), 4),
            "grad_norm": round(fmean(self.norms), 4),
        }
        for name in self.importance[0] if self.importance else ():
            found[name] = round(fmean(each[name] for each in self.importance), 6)
        return {**found, "replay_loss": round(fmean(self.replay), 4)} if self.replay else found


class Broken(Exception):
    """A mini-batch whose loss or gradient is not finite: the reason and the tasks."""

    def __init__(self, reason: training.Diverged, names: list[str]) -> None:
        super().__init__(str(reason))
        self.reason, self.names = reason, names


class Updater:
    """Trains the model on groups. `pictures`: features of a frozen tower. `weighed`: the rollouts are of another policy
    than the one that is trained, and each token is weighed for that (`importance.py`)."""

    def __init__(
        self, model: Qwen3VL, processor: Processor, pictures: VisionCache, section: RlSection, weighed: bool = False
    ) -> None:
        self.model, self.processor, self.pictures, self.section = model, processor, pictures, section
        self.weighed = weighed

    def prepare(self, groups: Sequence[Group]) -> Batch:
        """Lays the live groups out, whole ones in each mini-batch, and scores them: the log-probabilities under the
        policy as it is. The first mini-batch's come with its own pass."""
        responses = sum(len(group.responses) for group in groups)
        tokens = sum(len(response.token_ids) for group in groups for response in group.responses)
        alive = [group for group in groups if not group.dead and any(r.token_ids for r in group.responses)]
        steps = min(self.section.minibatches, len(alive))
        cuts = [round(i * len(alive) / steps) for i in range(steps + 1)] if steps else []
        encoded = self._encoded(alive)
        batch = Batch(
            [list(self._parts(alive[a:b], encoded[a:b])) for a, b in pairwise(cuts)],
            responses,
            tokens,
        )
        with torch.no_grad():
            for part in (part for parts in batch.minibatches[1:] for part in parts):
                part.old_logp = self.score(part)[0]
        return batch

    def apply(self, batch: Batch, optimizer: training.Optimizer, rate: float, replay: Replay | None = None) -> Update:
        """One step of the optimizer for each mini-batch. Raises Broken where a loss or gradient is not finite; that
        mini-batch has changed nothing then."""
        seen = Update()
        for parts in batch.minibatches:
            names = [name for part in parts for name in part.names]
            try:
                self._accumulate(parts, batch, seen)
                if replay is not None and (value := replay.add_gradients(self.model)) is not None:
                    seen.replay.append(self._checked(value, "replayed samples' loss"))
                seen.norms.append(training.step(self.model, optimizer, rate, self.section.grad_clip))
            except training.Diverged as error:
                raise Broken(error, names) from None
        return seen

    def _accumulate(self, parts: Sequence[Part], batch: Batch, seen: Update) -> None:
        """The gradients of one mini-batch, part by part."""
        section, steps = self.section, len(batch.minibatches)
        units = [losses.mean_over(section.loss, part.responses, part.tokens) for part in parts]
        whole = losses.mean_over(section.loss, batch.responses, batch.tokens)
        scaled: list[Tensor] = []
        entropies: list[Tensor] = []
        statistics: list[losses.Statistics] = []
        mismatch: list[importance.Statistics] = []
        for part, own in zip(parts, units, strict=True):
            logp, entropy = self.score(part)
            old = logp.detach() if part.old_logp is None else part.old_logp
            weights = self._weights(part, old, mismatch)
            value, found = losses.loss(section.loss, logp, old, part.shared.response, part.advantages, section, weights)
            value = value * (own * steps / whole)
            value.backward()
            scaled.append(value.detach())
            entropies.append(entropy.sum())
            statistics.append(found)
        loss = self._checked(sum(_numbers(scaled)), "loss")
        ratios = [part.responses if section.loss == "gspo" else part.tokens for part in parts]
        responses, tokens = [part.responses for part in parts], [part.tokens for part in parts]

        def mean(values: Sequence[float]) -> float:
            return sum(value * count for value, count in zip(values, ratios, strict=True)) / sum(ratios)

        seen.losses.append(loss)
        seen.ratios.append(mean([one.ratio for one in statistics]))
        seen.least.append(min(one.ratio_min for one in statistics))
        seen.largest.append(max(one.ratio_max for one in statistics))
        seen.clipped_low.append(mean([one.clipped_low for one in statistics]))
        seen.clipped_high.append(mean([one.clipped_high for one in statistics]))
        seen.entropies.append(sum(_numbers(entropies)) / sum(tokens))
        if mismatch:
            seen.importance.append(importance.together(mismatch, responses, tokens).figures())

    def _weights(self, part: Part, old: Tensor, seen: list[importance.Statistics]) -> Tensor | None:
        """Of each token [R], where the rollouts are of another policy; `seen` gets what was seen of them."""
        if not self.weighed:
            return None
        cap = self.section.rollout.tis_cap
        seen.append(importance.statistics(old, part.rollout_logp, part.shared.response, part.responses, cap))
        return importance.weights(old, part.rollout_logp, cap)

    def _checked(self, value: float, what: str) -> float:
        if not math.isfinite(value):
            self.model.zero_grad(set_to_none=True)
            raise training.Diverged(f"the {what} is {value}: lower rl.learning_rate ({self.section.learning_rate:g})")
        return value

    def score(self, part: Part) -> tuple[Tensor, Tensor]:
        """log p of the part's response tokens [R] under the policy as it is, and the entropies [R]."""
        shared = part.shared
        with self._precision():
            if part.pixels is not None:
                shared = replace(shared, vision=self.model.encode_images(part.pixels, shared.pack.grids))
            return log_probs(self.model, shared, self.section.temperature)

    def _precision(self) -> AbstractContextManager[object]:
        return training.precision(self.section.precision, self.model.device)

    def _encoded(self, groups: Sequence[Group]) -> list[tuple[Encoded, VisionFeatures | None]]:
        tasks = [group.task for group in groups]
        if self.section.freeze_vision:
            with self._precision():  # which also names what is held
                return encoded_prompts(self.processor, tasks, self.pictures)
        return [(self.processor.encode(t.prompt, t.images, generate=True, pixels=False), None) for t in tasks]

    def _parts(
        self, groups: Sequence[Group], encoded: Sequence[tuple[Encoded, VisionFeatures | None]]
    ) -> Iterator[Part]:
        """One mini-batch as passes of at most `rl.max_update_tokens` tokens: whole groups as far as they fit, one that
        does not by some of its responses at a time. A single response with its prompt is never cut."""
        limit = self.section.max_update_tokens or math.inf
        pieces = [
            (place, rows)
            for place, group in enumerate(groups)
            for rows in _within(len(encoded[place][0]), [len(r.token_ids) for r in group.responses], limit)
        ]
        chosen: list[tuple[int, list[int]]] = []
        filled = 0
        for place, rows in pieces:
            size = len(encoded[place][0]) + sum(len(groups[place].responses[row].token_ids) for row in rows)
            if chosen and filled + size > limit:
                yield self._part(groups, encoded, chosen)
                chosen, filled = [], 0
            chosen.append((place, rows))
            filled += size
        if chosen:
            yield self._part(groups, encoded, chosen)

    def _part(
        self,
        groups: Sequence[Group],
        encoded: Sequence[tuple[Encoded, VisionFeatures | None]],
        chosen: Sequence[tuple[int, list[int]]],
    ) -> Part:
        responses = [[groups[place].responses[row] for row in rows] for place, rows in chosen]
        shared = SharedPrefix.build(
            [encoded[place] for place, _ in chosen], [[r.token_ids for r in own] for own in responses]
        )
        device = self.model.device
        tasks = [groups[place].task for place, _ in chosen]
        seen = [] if self.section.freeze_vision else [one for t in tasks for one in visuals(t.prompt, t.images)]
        return Part(
            shared.to(device),
            torch.cat([groups[place].advantages[rows] for place, rows in chosen]).to(device),
            torch.tensor([value for own in responses for r in own for value in r.log_probs]).to(device),
            self.processor.pixels(seen, device) if seen else None,
            [task.sample.id for task in tasks],
        )


def _numbers(scalars: Sequence[Tensor]) -> list[float]:
    """With one wait for the device."""
    return torch.stack(list(scalars)).tolist()


def _within(prompt: int, lengths: Sequence[int], limit: float) -> list[list[int]]:
    """The responses of a group that have tokens, by number, in runs that fit into one pass with the prompt."""
    runs: list[list[int]] = []
    filled = 0
    for row, length in enumerate(lengths):
        if not length:
            continue
        if not runs or prompt + filled + length > limit:
            runs.append([])
            filled = 0
        runs[-1].append(row)
        filled += length
    return runs
