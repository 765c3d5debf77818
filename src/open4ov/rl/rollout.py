"""Groups: the N responses to one prompt, kept together from sampling to update (paper §4.2.3).

The engine computes prompt and image once for the N responses. While the tower is frozen, the features that it gave for
the rollout serve the update too, and all later ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from open4ov.engine import Completion, Request, VisionCache
from open4ov.engine.vision_cache import digests
from open4ov.model import Encoded, Processor, VisionFeatures
from open4ov.model.processing import visuals
from open4ov.recipe import RlSection
from open4ov.rl import advantage
from open4ov.rl.generation import degenerate
from open4ov.rl.tasks import Task


@dataclass(frozen=True)
class Group:
    """One prompt with its N responses and what they earned, channel by channel. All tensors [N] float64.

    `diversity`: Div of eq. 7, where the phase asks for it. Where the channels become `advantages` is
    `judging.py`.
    """

    task: Task
    responses: list[Completion]
    correct: Tensor
    lengths: Tensor
    length_rewards: Tensor
    advantages: Tensor
    diversity: Tensor | None = None

    @property
    def dead(self) -> bool:
        """Whether it teaches nothing: all advantages are zero. For Pass@k that is so with fewer than k wrong responses
        too."""
        return advantage.dead(self.advantages)


def requests(tasks: Sequence[Task], section: RlSection, step: int, seed: int) -> list[Request]:
    """`section.group` responses to each task. What is sampled depends on the seed, the step and the task alone, not on
    what else is in the batch. Responses that become a loop or noise are stopped, with `rl.rollout.stop_loops`."""
    watched = degenerate.watch(section.rollout, section.max_tokens)
    return [
        Request(
            messages=task.prompt,
            images=task.images,
            max_tokens=section.max_tokens,
            temperature=section.temperature,
            n=section.group,
            seed=random.Random(f"rollout {seed} {step} {task.sample.id}").getrandbits(31),
            degeneration=watched,
        )
        for task in tasks
    ]


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
    return [*zip(prompts, by_document(prompts, pictures.features(prompts, seen, names)), strict=True)]


def by_document(documents: Sequence[Encoded], found: Iterable[VisionFeatures]) -> list[VisionFeatures | None]:
    """The features of all the documents' pictures, in order, as those of each; None for one without a picture."""
    each = iter(found)
    own = [[*islice(each, len(document.grids))] for document in documents]
    return [VisionFeatures.cat(parts) if parts else None for parts in own]
