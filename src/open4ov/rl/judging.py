"""What the responses of a step earned (paper §4.2.2): the reward's verdicts, the channels beside them, and the
advantages that come of them in a phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from open4ov.engine import Completion
from open4ov.functions import function
from open4ov.recipe import RlSection
from open4ov.rl import degenerate, encoders, rewards
from open4ov.rl.rollout import Group
from open4ov.rl.schedule import Phase
from open4ov.rl.tasks import Task


class Judge:
    """Rewards responses as the section says. `thresholds`: the folder that keeps what `diversity_threshold: auto` sets;
    `told` says what it was set to, and why. Raises UserError for functions and encoders that are not there."""

    def __init__(self, section: RlSection, thresholds: Path | None = None) -> None:
        self.section = section
        self.reward: rewards.Reward = function(section.reward, "rl.reward")
        self.embedder = encoders.build(section.embedder)
        self.told: dict[str, Any]
        self.threshold, self.told = encoders.threshold(
            section.embedder, section.diversity_threshold, self.embedder, thresholds
        )

    def groups(self, tasks: Sequence[Task], responses: Sequence[list[Completion]], phase: Phase) -> list[Group]:
        """Raises UserError, naming the reward, the sample and the value, for a reward that is no number in [0, 1], and
        for one that Pass@k cannot use."""
        return [self._group(task, own, phase) for task, own in zip(tasks, responses, strict=True)]

    def _group(self, task: Task, responses: list[Completion], phase: Phase) -> Group:
        section, exploring = self.section, phase == "pass_at_k"
        correct = rewards.graded(self.reward, section.reward, responses, task.sample, binary=exploring)
        lengths = torch.tensor([len(response.token_ids) for response in responses], dtype=torch.float64)
        length_rewards = torch.zeros_like(lengths)
        if section.length_weight:
            length_rewards = rewards.length(lengths, section.length_max, section.length_soft)
        diversity = None
        if not exploring:
            rows = self.embedder([response.text for response in responses])
            diversity = rewards.diversity_scores(rows, self.threshold, section.diversity.by == "clusters")
        advantages = rewards.combine(
            correct,
            length_rewards,
            length_weight=section.length_weight,
            pass_k=section.pass_k if exploring else None,
            diversity=diversity,
            floor=section.diversity.floor,
            degenerate=degenerate.mask(responses),
        )
        return Group(task, responses, correct, lengths, length_rewards, advantages, diversity)
