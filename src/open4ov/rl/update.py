"""The update of one step (paper §4.2.3, eq. 11-12): mini-batches of whole groups, each a step of the optimizer.

Of a group the prompt is computed once, for the old log-probabilities as for the update (`prefix.py`); its pictures are
not computed at all while the tower is frozen. What is more than `rl.max_update_tokens` is computed in parts
(`parts.py`), whose gradients are added up: their sum is that of one pass.

Dead groups are left out of the computation, but count in the mean of eq. 11, where they add zero; so do responses
without a token. Under AdamW that is a weight among neighbouring steps, not a size: it divides by what gradients have
been of late, so that a share of dead groups that stays the same changes no step at all, and one with fewer live groups
than the steps before is smaller, as far as they are remembered. Where fewer groups are alive than `rl.minibatches`,
the optimizer makes fewer steps. A batch with one live group in sixteen still makes one.

On many processes the groups of a mini-batch are shared out, whole ones, by what they cost. Weights and figures are
those of the whole step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor

from open4ov import training
from open4ov.engine import VisionCache
from open4ov.model import Processor
from open4ov.recipe import RlSection
from open4ov.rl import importance, losses
from open4ov.rl.parts import Encoding, Part, parts
from open4ov.rl.policy import Policy, cost
from open4ov.rl.prefix import scoring
from open4ov.rl.replay import Replay
from open4ov.rl.rollout import Group, encoded_prompts
from open4ov.training_pass import Pass, accumulate, gathered, in_step, most, score, shared_out, summed


@dataclass(frozen=True)
class Batch:
    """The live groups of a step, mini-batch by mini-batch: those that this process computes. `responses` and `tokens`
    are of all groups of the step, the dead ones too."""

    minibatches: list[list[Part]]
    responses: int
    tokens: int
    passes: list[int]
    """Of each mini-batch, as every process makes them"""
    names: list[list[str]]
    """Ids of the tasks of each"""
    lengths: list[int]
    """Response tokens of each"""

    def computed(self, first: int = 0) -> int:
        """Response tokens that are computed for the mini-batches from `first` on."""
        return sum(self.lengths[first:])


@dataclass(frozen=True)
class _Seen:
    """What one pass saw, plain numbers."""

    ratios: losses.RatioStatistics
    entropy: float
    """The sum over its tokens"""
    mismatch: importance.MismatchStatistics | None
    old: float
    """The sum of the old log-probabilities, where rollouts are held against them"""
    responses: int
    tokens: int


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
    """What is not finite, such as the loss of a mini-batch: the reason and the tasks."""

    def __init__(self, reason: training.Diverged, names: list[str]) -> None:
        super().__init__(str(reason))
        self.reason, self.names = reason, names


class Updater:
    """Trains the model on groups. `pictures`: features of a frozen tower. `weighed`: the rollouts are of another policy
    than the one that is trained, and each token is weighed for that (`importance.py`). `watched`: they are of copies
    of it, and how far these are from it is looked at; more than so many nats a token is an error."""

    def __init__(
        self,
        model: Policy,
        processor: Processor,
        pictures: VisionCache,
        section: RlSection,
        weighed: bool = False,
        watched: float | None = None,
    ) -> None:
        self.model, self.processor, self.pictures, self.section = model, processor, pictures, section
        self.weighed, self.watched = weighed, watched
        self._precision = partial(training.precision, section.precision, model.device)

    def prepare(self, groups: Sequence[Group]) -> Batch:
        """Lays the live groups out, whole ones in each mini-batch, and scores them: the log-probabilities under the
        policy as it is. The first mini-batch's come with its own pass."""
        responses = sum(len(group.responses) for group in groups)
        tokens = sum(len(response.token_ids) for group in groups for response in group.responses)
        alive = [group for group in groups if not group.dead and any(r.token_ids for r in group.responses)]
        steps = min(self.section.minibatches, len(alive))
        cuts = [round(i * len(alive) / steps) for i in range(steps + 1)] if steps else []
        minibatches = [alive[a:b] for a, b in pairwise(cuts)]
        own = [self._share(some) for some in minibatches]
        encoded = iter(self._encoded([group for some in own for group in some]))
        parts = [list(self._laid(some, [next(encoded) for _ in some])) for some in own]
        batch = Batch(
            parts,
            responses,
            tokens,
            most(self.model, [len(some) for some in parts]),
            [[group.task.sample.id for group in some] for some in minibatches],
            [sum(len(response.token_ids) for group in some for response in group.responses) for some in minibatches],
        )
        for some, count in [*zip(parts, batch.passes, strict=True)][1:]:
            for part in some:
                part.old_logp = self.score(part)[0]
            for idle in in_step(self.model, (), count - len(some)):
                score(self.model, idle, self._precision)
        return batch

    def apply(self, batch: Batch, optimizer: training.Optimizer, rate: float, replay: Replay | None = None) -> Update:
        """One step of the optimizer for each mini-batch. Raises Broken where a loss or gradient is not finite; that
        mini-batch has changed nothing then."""
        seen = Update()
        for number, names in enumerate(batch.names):
            try:
                self._accumulate(number, batch, seen, replay)
                seen.norms.append(training.step(self.model, optimizer, rate, self.section.grad_clip))
            except training.Diverged as error:
                raise Broken(error, names) from None
        return seen

    def _accumulate(self, number: int, batch: Batch, seen: Update, replay: Replay | None) -> None:
        """The gradients of one mini-batch, part by part, and of what is replayed with it."""
        section, steps, parts = self.section, len(batch.minibatches), batch.minibatches[number]
        whole = losses.mean_over(section.loss, batch.responses, batch.tokens)
        shares = [losses.mean_over(section.loss, part.responses, part.tokens) * steps / whole for part in parts]
        own: list[tuple[losses.RatioStatistics, Tensor, importance.MismatchStatistics | None, float, Part]] = []

        def objective(part: Part, logp: Tensor, entropy: Tensor) -> Tensor:
            old = logp.detach() if part.old_logp is None else part.old_logp
            mismatch, weights, total = self._mismatch(part, old)
            value, ratios = losses.loss(
                section.loss, logp, old, part.shared.response, part.advantages, section, weights
            )
            own.append((ratios, entropy.sum(), mismatch, total, part))
            return value

        passes = [self._pass(part, share, partial(objective, part)) for part, share in zip(parts, shares, strict=True)]
        again = replay.coming(self.model) if replay is not None else None
        made = [*in_step(self.model, passes, batch.passes[number]), *(() if again is None else [again])]
        values = accumulate(self.model, made, self._precision)
        replayed = float(values.pop()) if again is not None else 0.0
        (loss,) = summed(self.model, [sum(_numbers(values))])
        entropies = _numbers([entropy for _, entropy, *_ in own])
        found = gathered(
            self.model,
            [
                _Seen(ratios, entropy, mismatch, total, part.responses, part.tokens)
                for (ratios, _, mismatch, total, part), entropy in zip(own, entropies, strict=True)
            ],
        )
        self._checked(sum(one.old for one in found), "sum of the responses' log-probabilities")
        self._checked(loss, "loss")
        responses, tokens = [one.responses for one in found], [one.tokens for one in found]
        counts = responses if section.loss == "gspo" else tokens

        def mean(values: Sequence[float]) -> float:
            return sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)

        seen.losses.append(loss)
        seen.ratios.append(mean([one.ratios.ratio for one in found]))
        seen.least.append(min(one.ratios.ratio_min for one in found))
        seen.largest.append(max(one.ratios.ratio_max for one in found))
        seen.clipped_low.append(mean([one.ratios.clipped_low for one in found]))
        seen.clipped_high.append(mean([one.ratios.clipped_high for one in found]))
        seen.entropies.append(sum(one.entropy for one in found) / sum(tokens))
        mismatches = [one.mismatch for one in found if one.mismatch is not None]
        if mismatches:
            self._apart(importance.together(mismatches, responses, tokens), seen)
        if replay is not None and again is not None:
            seen.replay.append(self._checked(replay.took(self.model, replayed), "replayed samples' loss"))

    def _mismatch(self, part: Part, old: Tensor) -> tuple[importance.MismatchStatistics | None, Tensor | None, float]:
        """How far the rollouts are from the policy, where that is looked at; the weight of each token [R], where they
        are of another one; and the sum of `old`, which all processes are to see before one raises: where it is not
        finite there is neither."""
        if not self.weighed and self.watched is None:
            return None, None, 0.0
        total = float(old.sum())
        if not math.isfinite(total):
            return None, None, total
        cap = self.section.rollout.tis_cap
        found = importance.statistics(old, part.rollout_logp, part.shared.response, part.responses, cap)
        return found, importance.weights(old, part.rollout_logp, cap) if self.weighed else None, total

    def _apart(self, found: importance.MismatchStatistics, seen: Update) -> None:
        """Raises RuntimeError for copies of the policy that are none; nothing of the mini-batch has changed then."""
        if self.weighed:
            seen.importance.append(found.figures())
            return
        seen.importance.append({"rollout_gap": round(found.gap, 6)})
        if self.watched is not None and not found.gap <= self.watched:
            self.model.zero_grad(set_to_none=True)
            raise RuntimeError(
                f"the rollouts' log-probabilities are {found.gap:.3g} nats a token from those of the policy (more than "
                f"{self.watched:g}): the engines do not have its weights"
            )

    def _checked(self, value: float, what: str) -> float:
        if not math.isfinite(value):
            self.model.zero_grad(set_to_none=True)
            raise training.Diverged(f"the {what} is {value}: lower rl.learning_rate ({self.section.learning_rate:g})")
        return value

    def score(self, part: Part) -> tuple[Tensor, Tensor]:
        """log p of the part's response tokens [R] under the policy as it is, and the entropies [R], without gradient;
        on many processes all call it."""
        return score(self.model, self._pass(part), self._precision)

    def check(self, groups: Sequence[Group]) -> None:
        """Raises Broken where log-probabilities of these groups' responses, under the policy as it is, are no numbers.
        Dead groups tell, too. On many processes all call it with the same groups."""
        said = [group for group in groups if any(r.token_ids for r in group.responses)]
        own = self._share(said)
        passes = [self._pass(part) for part in self._laid(own, self._encoded(own))]
        (count,) = most(self.model, [len(passes)])
        scored = [score(self.model, one, self._precision)[0] for one in in_step(self.model, passes, count)]
        (total,) = summed(self.model, [sum(_numbers([logp.sum() for logp in scored]))])
        try:
            self._checked(total, "sum of the responses' log-probabilities after the update")
        except training.Diverged as error:
            raise Broken(error, [group.task.sample.id for group in said]) from None

    def _pass(
        self, part: Part, weight: float = 1.0, objective: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> Pass:
        return scoring(part.shared, self.model.config, self.section.temperature, weight, objective, part.pixels)

    def _share(self, groups: Sequence[Group]) -> list[Group]:
        """Those that this process computes."""

        def costs() -> list[float]:
            documents = [
                self.processor.encode(g.task.prompt, g.task.images, generate=True, pixels=False) for g in groups
            ]
            lengths = [[len(response.token_ids) for response in group.responses] for group in groups]
            frozen = self.section.freeze_vision
            return [
                cost(self.model.config, document, own, frozen) for document, own in zip(documents, lengths, strict=True)
            ]

        own = shared_out(self.model, costs, len(groups))
        return [groups[number] for number in sorted(number for number in own if number is not None)]

    def _encoded(self, groups: Sequence[Group]) -> list[Encoding]:
        tasks = [group.task for group in groups]
        if self.section.freeze_vision:
            with self._precision():  # which also names what is held
                return encoded_prompts(self.processor, tasks, self.pictures)
        return [(self.processor.encode(t.prompt, t.images, generate=True, pixels=False), None) for t in tasks]

    def _laid(self, groups: Sequence[Group], encoded: Sequence[Encoding]) -> Iterator[Part]:
        pixels = None if self.section.freeze_vision else self.processor.pixels
        return parts(groups, encoded, self.section.max_update_tokens or math.inf, self.model.device, pixels)


def _numbers(scalars: Sequence[Tensor]) -> list[float]:
    """With one wait for the device."""
    return torch.stack(list(scalars)).tolist() if scalars else []
