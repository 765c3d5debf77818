"""A set of multiple choice, for the ablation of `rl.pool.cloze`: the pool of tasks either turns it into open questions,
or leaves it with its options, so that RL trains on the letters.

Questions are those that RL's own corpora draw, with three wrong numbers near the right one. The paper turns multiple
choice into open questions (§4.1.1), "to mitigate reward hacking": a letter is right by chance in a quarter of cases.
"""

from __future__ import annotations

import random
from pathlib import Path

from open4ov import corpora
from open4ov.answers import INSTRUCTION
from open4ov.rl.tasks import IMAGE_TASK
from open4ov.sample import Sample, user
from open4ov.store import ImageStore, write_samples

COUNT = 800
LETTERS = "ABCD"


def write(folder: Path, count: int = COUNT) -> None:
    """Makes the set in `folder`, once: samples.parquet and image-store/."""
    if (folder / "samples.parquet").exists():
        return
    store = ImageStore(folder / "image-store")
    rng = random.Random("choices")
    items = corpora.generate(IMAGE_TASK, "train", count, seed=77)
    made = [_asked(item.store(store), rng) for item in items]
    write_samples(folder / "samples.parquet", [sample for sample in made if sample is not None])


def _asked(sample: Sample, rng: random.Random) -> Sample | None:
    """As a question with four numbers to choose from; None for one whose answer is no number."""
    numbers = options(sample.answer or "", rng)
    if numbers is None:
        return None
    question = sample.messages[0].text.removesuffix(INSTRUCTION["en"]).strip()
    text = "\n".join([question, *(f"{letter}. {number}" for letter, number in zip(LETTERS, numbers, strict=True))])
    letter = LETTERS[numbers.index(int(sample.answer or ""))]
    asked = {"messages": [user(text, len(sample.images))], "answer": letter, "aliases": [], "id": f"mc-{sample.id}"}
    return sample.model_copy(update=asked)


def options(answer: str, rng: random.Random) -> list[int] | None:
    """The answer among three other numbers near it, none of them negative, in random order."""
    if not answer.isdigit():
        return None
    right = int(answer)
    near = [number for number in range(max(0, right - 4), right + 5) if number != right]
    numbers = [right, *rng.sample(near, 3)]
    rng.shuffle(numbers)
    return numbers
