"""Groups: the N responses to one prompt, kept together from sampling to update (paper §4.2.3).

The engine computes prompt and image once for the N responses. The tower is frozen: the features that it gave for the
rollout serve the update too, and all later ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from open4ov.engine import Completion, Engine, Request, VisionCache
from open4ov.engine.vision_cache import digests
from open4ov.model import Encoded, Processor, VisionFeatures
from open4ov.model.processing import visuals
from open4ov.recipe import RlSection
from open4ov.rl import advantage, rewards
from open4ov.rl.tasks import Task
from open4ov.sample import Sample

Reward = Callable[[str, Sample], float]
Embedder = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class Group:
    """One prompt with its N responses and what they earned. All tensors [N] float64."""

    task: Task
    responses: list[Completion]
    correct: Tensor
    lengths: Tensor
    length_rewards: Tensor
    advantages: Tensor

    @property
    def dead(self) -> bool:
        return advantage.dead(self.advantages)


def sample_groups(
    engine: Engine,
    tasks: Sequence[Task],
    section: RlSection,
    reward: Reward,
    embedder: Embedder,
    step: int,
    seed: int,
    threshold: float,
) -> list[Group]:
    """`section.group` responses to each task by the engine's current weights, rewarded and with advantages.

    The Pass@k advantage in the first `pass_k_share` of the steps, the diversity-weighted Pass@1 advantage after it;
    the length channel throughout (`rewards.combine`). `threshold`: the distance above which two responses differ.
    Raises UserError for a reward that is no number from 0 to 1, or not 0 or 1 while Pass@k is in use.
    """
    requests = [
        Request(
            messages=task.prompt,
            images=task.images,
            max_tokens=section.max_tokens,
            temperature=section.temperature,
            n=section.group,
            seed=random.Random(f"rollout {seed} {step} {task.sample.id}").getrandbits(31),
        )
        for task in tasks
    ]
    exploring = in_pass_k(section, step)
    groups: list[Group] = []
    for task, responses in zip(tasks, engine.generate(requests), strict=True):
        texts = [response.text for response in responses]
        correct = rewards.graded(reward, section.reward, responses, task.sample, binary=exploring)
        lengths = torch.tensor([len(response.token_ids) for response in responses], dtype=torch.float64)
        length_rewards = torch.zeros_like(lengths)
        if section.length_weight:
            length_rewards = rewards.length(lengths, section.length_max, section.length_soft)
        clusters = section.diversity.by == "clusters"
        advantages = rewards.combine(
            correct,
            length_rewards,
            length_weight=section.length_weight,
            pass_k=section.pass_k if exploring else None,
            diversity=None if exploring else rewards.diversity_scores(embedder(texts), threshold, clusters),
            floor=section.diversity.floor,
            degenerate=rewards.degenerate(responses),
        )
        groups.append(Group(task, responses, correct, lengths, length_rewards, advantages))
    return groups


def in_pass_k(section: RlSection, step: int) -> bool:
    """Whether a step (from 0) is in the first, exploring part of the run."""
    return step < round(section.pass_k_share * section.steps)


def extended(prompt: Encoded, tokens: Sequence[int]) -> Encoded:
    """A prompt (encoded with `generate=True`) and a response of exactly these tokens, which alone are its targets."""
    count = len(tokens)
    places = torch.arange(prompt.next_position, prompt.next_position + count)
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, torch.tensor(tokens, dtype=torch.long)]),
        positions=torch.cat([prompt.positions, places.expand(3, -1)], dim=1),
        targets=torch.cat([torch.zeros(len(prompt), dtype=torch.bool), torch.ones(count, dtype=torch.bool)]),
        next_position=prompt.next_position + count,
    )


def encoded_prompts(
    processor: Processor, tasks: Sequence[Task], pictures: VisionCache
) -> list[tuple[Encoded, VisionFeatures | None]]:
    """Each task's prompt without pixels, and the features of its images, which are encoded at most once."""
    prompts = [processor.encode(task.prompt, task.images, generate=True, pixels=False) for task in tasks]
    seen = [one for task in tasks for one in visuals(task.prompt, task.images)]
    names = [name for task in tasks for name in digests(task.prompt, task.images)]
    found = pictures.features(prompts, seen, names)
    result: list[tuple[Encoded, VisionFeatures | None]] = []
    for prompt in prompts:
        own, found = found[: len(prompt.grids)], found[len(prompt.grids) :]
        result.append((prompt, VisionFeatures.cat(own) if own else None))
    return result
