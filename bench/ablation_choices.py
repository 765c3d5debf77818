"""The same questions as multiple choice, twice: as any set has them, which the pool of tasks turns into open ones, and
with the options marked in a way that it does not take for options, so that RL trains on the letters.

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
FORMS = {
    "usual": ("{question}\n{options}", "{letter}. {text}", "\n"),
    "letters": ("{question} Say which letter is right: {options}.", "{letter}={text}", ", "),
}
"""A set -> how question and options make a text, how an option is written, and what stands between two"""


def write(folder: Path, count: int = COUNT) -> None:
    """Makes the sets `usual` and `letters` in `folder`, once: folders with samples.parquet and image-store/."""
    items = None
    for name, (whole, one, between) in FORMS.items():
        place = folder / name
        if (place / "samples.parquet").exists():
            continue
        items = items or list(corpora.generate(IMAGE_TASK, "train", count, seed=77))
        store = ImageStore(place / "image-store")
        rng = random.Random("choices")
        made = [_asked(item.store(store), whole, one, between, rng) for item in items]
        write_samples(place / "samples.parquet", [sample for sample in made if sample is not None])


def _asked(sample: Sample, whole: str, one: str, between: str, rng: random.Random) -> Sample | None:
    """As a question with four numbers to choose from; None for one whose answer is no number."""
    numbers = options(sample.answer or "", rng)
    if numbers is None:
        return None
    question = sample.messages[0].text.removesuffix(INSTRUCTION["en"]).strip()
    listed = between.join(one.format(letter=a, text=b) for a, b in zip(LETTERS, numbers, strict=True))
    text = whole.format(question=question, options=listed)
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
