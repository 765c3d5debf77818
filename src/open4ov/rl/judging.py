"""What the responses of a step earned (paper §4.2.2): the reward's verdicts, the channels beside them, and the
advantages that come of them in a phase (`rewards.combine`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from open4ov import answers_symbolic
from open4ov.engine import Completion
from open4ov.functions import function
from open4ov.recipe import RlSection
from open4ov.rl import rewards
from open4ov.rl.distance import encoders
from open4ov.rl.policy import Policy
from open4ov.rl.rollout import Group
from open4ov.rl.schedule import Phase
from open4ov.rl.tasks import Task
from open4ov.training_pass import Spread


class Judge:
    """Rewards responses as the section says. `thresholds`: the folder that keeps what `diversity_threshold: auto` sets.

    `told`: how the threshold was set. Raises UserError for functions and encoders that are not there.
    """

    def __init__(self, section: RlSection, thresholds: Path | None = None) -> None:
        self.section = section
        self._reward: rewards.Reward = function(section.reward, "rl.reward")
        self._encoder = encoders.build(section.embedder)
        self.threshold, self.told = encoders.threshold(
            section.embedder, section.diversity_threshold, self._encoder, thresholds
        )

    def groups(self, tasks: Sequence[Task], responses: Sequence[list[Completion]], phase: Phase) -> list[Group]:
        """Raises UserError, naming the reward, the sample and the value, for a reward that is no number from 0 to 1,
        and for one that Pass@k cannot use."""
        samples = [task.sample for task in tasks]
        binary = phase == "pass_at_k"
        correct = rewards.graded_groups(self._reward, self.section.reward, responses, samples, binary)
        return [self._group(*one, phase) for one in zip(tasks, responses, correct, strict=True)]

    def shared(
        self, model: Policy, tasks: Sequence[Task], responses: Sequence[list[Completion]], phase: Phase
    ) -> tuple[list[Group], int]:
        """The same, and how many symbolic answers got no verdict. On many processes each rewards some of the groups,
        and all have the same of all."""
        before = answers_symbolic.counts.no_verdict
        if not isinstance(model, Spread):
            groups = self.groups(tasks, responses, phase)
            return groups, answers_symbolic.counts.no_verdict - before
        mine = model.mine(len(tasks))
        own = self.groups([tasks[n] for n in mine], [responses[n] for n in mine], phase) if mine else []
        counts = answers_symbolic.counts
        everybody = model.told(([_earned(one) for one in own], counts.no_verdict - before, counts.reason))
        groups = [
            Group(task, said, *everybody[number % len(everybody)][0][number // len(everybody)])
            for number, (task, said) in enumerate(zip(tasks, responses, strict=True))
        ]
        counts.reason = next((reason for _, unsaid, reason in everybody if unsaid), counts.reason)
        return groups, sum(unsaid for _, unsaid, _ in everybody)

    def _group(self, task: Task, responses: list[Completion], correct: Tensor, phase: Phase) -> Group:
        section, exploring = self.section, phase == "pass_at_k"
        lengths = torch.tensor([len(response.token_ids) for response in responses], dtype=torch.float64)
        length_rewards = torch.zeros_like(lengths)
        if section.length_weight:
            length_rewards = rewards.length_channel(responses, lengths, section.length_max, section.length_soft)
        scores = None
        if not exploring:
            clusters = section.diversity.by == "clusters"
            rows = self._encoder([response.text for response in responses])
            scores = rewards.diversity_scores(rows, self.threshold, clusters)
        advantages = rewards.combine(
            correct,
            length_rewards,
            length_weight=section.length_weight,
            pass_k=section.pass_k if exploring else None,
            diversity=scores,
            floor=section.diversity.floor,
        )
        return Group(task, responses, correct, lengths, length_rewards, advantages, scores)


def _earned(group: Group) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """All of a group but its task and responses, in order."""
    return group.correct, group.lengths, group.length_rewards, group.advantages, group.diversity
