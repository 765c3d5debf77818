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
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from open4ov import training
from open4ov.engine import VisionCache
from open4ov.model import Processor
from open4ov.recipe import RlSection
from open4ov.rl import importance, losses
from open4ov.rl.figures import Seen, Update
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
        own: list[Seen] = []
        passes = self._passes(number, batch, own)
        again = replay.coming(self.model) if replay is not None else None
        made = [*in_step(self.model, passes, batch.passes[number]), *(() if again is None else [again])]
        values = accumulate(self.model, made, self._precision)
        replayed = float(values.pop()) if again is not None else 0.0
        (loss,) = summed(self.model, [sum(_numbers(values))])
        found = gathered(self.model, own)
        self._checked(sum(one.old for one in found), "sum of the responses' log-probabilities")
        seen.saw(self._checked(loss, "loss"), found, self.section.loss)
        self._apart(found, seen)
        if replay is not None and again is not None:
            seen.replay.append(self._checked(replay.took(self.model, replayed), "replayed samples' loss"))

    def _passes(self, number: int, batch: Batch, own: list[Seen]) -> list[Pass]:
        """Those of this process for one mini-batch, each by its share of what the loss is a mean over. What they see
        goes to `own`."""
        kind, parts = self.section.loss, batch.minibatches[number]
        whole = losses.mean_over(kind, batch.responses, batch.tokens)
        shares = [
            losses.mean_over(kind, part.responses, part.tokens) * len(batch.minibatches) / whole for part in parts
        ]
        return [
            self._pass(part, share, partial(self._objective, part, own))
            for part, share in zip(parts, shares, strict=True)
        ]

    def _objective(self, part: Part, own: list[Seen], logp: Tensor, entropy: Tensor) -> Tensor:
        """The loss of one part."""
        old = logp.detach() if part.old_logp is None else part.old_logp
        mismatch, weights, total = self._mismatch(part, old)
        section, response = self.section, part.shared.response
        value, ratios = losses.loss(section.loss, logp, old, response, part.advantages, section, weights)
        own.append(Seen(ratios, float(entropy.sum()), mismatch, total, part.responses, part.tokens))
        return value

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

    def _apart(self, passes: Sequence[Seen], seen: Update) -> None:
        """Notes how far rollouts and policy are apart, where that was looked at. Raises RuntimeError for copies of the
        policy that are none; nothing of the mini-batch has changed then."""
        mismatches = [one.mismatch for one in passes if one.mismatch is not None]
        if not mismatches:
            return
        found = importance.together(mismatches, [one.responses for one in passes], [one.tokens for one in passes])
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
