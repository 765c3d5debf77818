"""The prompts of online RL (paper §4.1.1): verifiable reasoning over images, and a share of text-only reasoning.

Every prompt ends with the instruction to put the answer in \\boxed{}, so that the verifier knows where to look. The
stage `rl_pool` (`pool/compose.py`) chooses the samples; `read` gives them as tasks. The corpora ask for words and
numbers, not for a letter of a list; what other sources ask in that way `pool/cloze.py` has opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from open4ov.answers import boxed_prompt
from open4ov.errors import UserError
from open4ov.run_dir import read_json
from open4ov.sample import Message, Sample
from open4ov.store import ImageError, ImageStore, read_samples

if TYPE_CHECKING:
    from open4ov.corpora.item import Item

TEXT_TASK = "arithmetic"
IMAGE_TASK = "reasoning"
KEPT = 128
"""Pictures of a pool that stay in memory, the last ones used"""


@dataclass(frozen=True)
class Task:
    """A prompt with a reference answer: `prompt` ends with a user turn, its image parts index into `images`."""

    sample: Sample
    prompt: list[Message]
    images: list[Image.Image]


class Stored(Task):
    """A task whose pictures lie in a store, and are loaded when they are looked at: a pool may be larger than memory.

    `images` raises UserError for a picture that has gone."""

    def __init__(self, sample: Sample, prompt: list[Message], picture: Callable[[str], Image.Image]) -> None:
        object.__setattr__(self, "sample", sample)
        object.__setattr__(self, "prompt", prompt)
        object.__setattr__(self, "_picture", picture)

    @property
    def images(self) -> list[Image.Image]:  # pyright: ignore[reportIncompatibleVariableOverride]
        picture: Callable[[str], Image.Image] = object.__getattribute__(self, "_picture")
        return [picture(sha) for sha in self.sample.images]


def task(sample: Sample, images: Sequence[Image.Image]) -> Task:
    """The sample's first question as an RL prompt. Raises ValueError for one without a reference answer."""
    return Task(sample, _prompt(sample), list(images))


def read(folder: Path, images: ImageStore) -> list[Task]:
    """The tasks of a finished stage `rl_pool`, each once, in the order in which they are first trained on. How a pool
    that is smaller than a training is gone through again is the trainer's matter (`sampling.Cursor`).

    Raises UserError for a folder that holds no pool, and for a pool with a sample that cannot be rewarded.
    """
    file = folder / "pool.parquet"
    if read_json(folder / "pool.json") is None:
        raise UserError(
            f"{folder}: has no pool.json of the stage rl_pool; delete the folder, and the run makes it anew"
        )

    @lru_cache(maxsize=KEPT)
    def picture(sha: str) -> Image.Image:
        try:
            return images.get(sha)
        except ImageError as error:
            raise UserError(f"{file}: {error} (and {folder}, which names it)") from None

    try:
        return [Stored(sample, _prompt(sample), picture) for sample in read_samples(file)]
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: {error}; delete {folder}, and the run makes it anew") from None


def drawn(pictured: int, text: int, seed: int) -> list[Item]:
    """So many items of the corpora's training split with a picture, then so many without."""
    from open4ov import corpora

    counts = {IMAGE_TASK: pictured, TEXT_TASK: text}
    return [item for name, count in counts.items() for item in corpora.generate(name, "train", count, seed=seed + 1)]


def _prompt(sample: Sample) -> list[Message]:
    if sample.answer is None:
        raise ValueError(f"sample {sample.id} has no reference answer and cannot be rewarded")
    ends = next((i for i, message in enumerate(sample.messages) if message.role == "assistant"), len(sample.messages))
    return boxed_prompt(sample.messages[:ends], sample.language)
