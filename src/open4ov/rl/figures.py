"""What a step of online RL computed, for the curve: the same for the same seed. Times are the journal's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import comb
from statistics import fmean

import torch

from open4ov.answers import boxed, normalise
from open4ov.engine.degeneration import REASONS
from open4ov.recipe import RlSection
from open4ov.rl import importance, losses
from open4ov.rl.rollout import Group


def of_groups(groups: Sequence[Group], section: RlSection) -> dict[str, float]:
    """Of all groups that a step rolled out, trained on or not.

    `pass_rate` is pass@1, `pass_at_k` pass@k for k = `rl.pass_k` (its unbiased estimate by the N responses), `solved`
    pass@N; `distinct` different answers a group; `length` tokens; `truncated`, `degenerate` and `empty` shares of
    responses, `dead` of groups.
    """
    correct = torch.stack([group.correct for group in groups])
    lengths = torch.stack([group.lengths for group in groups])
    length_rewards = torch.stack([group.length_rewards for group in groups])
    responses = [response for group in groups for response in group.responses]
    return {
        "reward": round(float((correct + section.length_weight * length_rewards).mean()), 4),
        "pass_rate": round(float(correct.mean()), 4),
        "pass_at_k": round(fmean(pass_at_k(group, section.pass_k) for group in groups), 4),
        "solved": round(float((correct.max(-1).values > 0).double().mean()), 4),
        "distinct": round(fmean(distinct(group) for group in groups), 4),
        "length": round(float(lengths.mean()), 2),
        "truncated": round(fmean(r.finish_reason == "length" for r in responses), 4),
        "degenerate": round(fmean(r.finish_reason in REASONS for r in responses), 4),
        "empty": round(fmean(not r.text.strip() for r in responses), 4),
        "dead": round(fmean(group.dead for group in groups), 4),
    }


def pass_at_k(group: Group, k: int) -> float:
    """The chance that of k of the group's responses one is right: 1 - C(wrong, k) / C(N, k), for k from 1 to N."""
    total = len(group.correct)
    wrong = total - int((group.correct > 0).sum())
    return 1 - comb(wrong, k) / comb(total, k)


def distinct(group: Group) -> int:
    """How many different answers a group has: what stands in the last box, else the whole response."""
    return len({normalise(boxed(response.text) or response.text) for response in group.responses})


@dataclass(frozen=True)
class Seen:
    """What one pass of an update saw, plain numbers."""

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

    def saw(self, loss: float, passes: Sequence[Seen], kind: str) -> None:
        """One mini-batch: its `loss`, of a `kind` (`rl.loss`), and what its passes saw, those of all processes."""
        tokens = [one.tokens for one in passes]
        counts = [one.responses for one in passes] if kind == "gspo" else tokens  # what has a ratio of its own

        def mean(values: Iterable[float]) -> float:
            return sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)

        self.losses.append(loss)
        self.ratios.append(mean(one.ratios.ratio for one in passes))
        self.least.append(min(one.ratios.ratio_min for one in passes))
        self.largest.append(max(one.ratios.ratio_max for one in passes))
        self.clipped_low.append(mean(one.ratios.clipped_low for one in passes))
        self.clipped_high.append(mean(one.ratios.clipped_high for one in passes))
        self.entropies.append(sum(one.entropy for one in passes) / sum(tokens))

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
