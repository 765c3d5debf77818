"""The prompts of online RL (paper §4.1.1): verifiable reasoning over images, and a share of text-only reasoning.

Every prompt ends with the instruction to put the answer in \\boxed{}, so that the verifier knows where to look. The
corpora ask for words and numbers, never for a letter of a list, so nothing has to be turned into cloze form.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from open4ov.answers import boxed_prompt
from open4ov.sample import Message, Sample

TEXT_TASK = "arithmetic"
IMAGE_TASK = "reasoning"


@dataclass(frozen=True)
class Task:
    """A prompt with a reference answer: `prompt` ends with a user turn, its image parts index into `images`."""

    sample: Sample
    prompt: list[Message]
    images: list[Image.Image]


def task(sample: Sample, images: Sequence[Image.Image]) -> Task:
    """The sample's first question as an RL prompt. Raises ValueError for one without a reference answer."""
    if sample.answer is None:
        raise ValueError(f"sample {sample.id} has no reference answer and cannot be rewarded")
    ends = next((i for i, message in enumerate(sample.messages) if message.role == "assistant"), len(sample.messages))
    return Task(sample, boxed_prompt(sample.messages[:ends], sample.language), list(images))


def from_corpora(count: int, text_share: float, seed: int) -> list[Task]:
    """`count` tasks of the training split of the general corpora, shuffled; a share `text_share` has no image."""
    from open4ov import corpora

    text = round(count * text_share)
    made: list[Task] = []
    for name, wanted in ((IMAGE_TASK, count - text), (TEXT_TASK, text)):
        made += [task(item.sample, item.images) for item in corpora.generate(name, "train", wanted, seed=seed + 1)]
    random.Random(f"rl tasks {seed}").shuffle(made)
    return made
