"""What a step of online RL computed, for the curve: the same for the same seed. Times are the journal's."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from statistics import fmean

import torch

from open4ov.answers import boxed, normalise
from open4ov.engine.degeneration import REASONS
from open4ov.recipe import RlSection
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
