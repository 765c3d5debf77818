"""What the responses of a step earned (paper §4.2.2): the reward's verdicts, the channels beside them, and the
advantages that come of them in a phase.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from open4ov.engine import Completion
from open4ov.errors import UserError
from open4ov.functions import function
from open4ov.recipe import RlSection
from open4ov.rl import advantage, degenerate, rewards
from open4ov.rl.advantage import RewardError
from open4ov.rl.rollout import Group
from open4ov.rl.schedule import Phase
from open4ov.rl.tasks import Task
from open4ov.sample import Sample

Reward = Callable[[str, Sample], float]
Embedder = Callable[[list[str]], Tensor]


class Judge:
    """Rewards responses as the section says. Raises UserError for functions that are not there."""

    def __init__(self, section: RlSection) -> None:
        self.section = section
        self.reward: Reward = function(section.reward, "rl.reward")
        self.embedder: Embedder = function(section.embedder, "rl.embedder")

    def groups(self, tasks: Sequence[Task], responses: Sequence[list[Completion]], phase: Phase) -> list[Group]:
        """Raises UserError, naming the reward, the sample and the value, for a reward that is no number in [0, 1], and
        for one that Pass@k cannot use."""
        return [self._group(task, own, phase) for task, own in zip(tasks, responses, strict=True)]

    def _group(self, task: Task, responses: list[Completion], phase: Phase) -> Group:
        section = self.section
        texts = [response.text for response in responses]
        correct = torch.tensor([self._reward(text, task.sample) for text in texts], dtype=torch.float64)
        correct = degenerate.signal(responses, correct)
        lengths = torch.tensor([len(response.token_ids) for response in responses], dtype=torch.float64)
        diversity = None
        if phase == "pass_at_k":
            try:
                advantages = advantage.pass_at_k(correct, section.pass_k)
            except RewardError as error:
                raise UserError(
                    f"rl.reward {section.reward!r}, sample {task.sample.id}: {error}; or set rl.pass_k_share to 0"
                ) from error
        else:
            diverse = rewards.diversity(correct, self.embedder(texts), section.diversity_threshold)
            diversity = torch.where(correct > 0, diverse / correct.clamp(min=1e-12), torch.zeros_like(correct))
            advantages = advantage.diversity(diverse)
        length_rewards = torch.zeros_like(lengths)
        if section.length_weight:
            length_rewards = rewards.length(lengths, section.length_max, section.length_soft)
            advantages = advantages + advantage.centred_length(length_rewards, section.length_weight)
        advantages = degenerate.held_down(responses, advantages)
        return Group(task, responses, correct, lengths, length_rewards, advantages, diversity)

    def _reward(self, text: str, sample: Sample) -> float:
        """A response without a word earns nothing, whatever the function would say."""
        if not text.strip():
            return 0.0
        value = self.reward(text, sample)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number <= 1:
            raise UserError(
                f"rl.reward {self.section.reward!r} gave {value!r} for a response to sample {sample.id}; it must give "
                "a number from 0 (wrong) to 1 (right)"
            )
        return number
