"""The modality-bias suites in Chinese alone, so that a bias of one language shows.

The English ones (`bias.py`) mix languages where their questions do, and two of them are English or have English turns
before: here questions, turns before and answers are all Chinese. The corpora have no Chinese questions without a
picture, so sums are asked here: a rule gives their answers.
"""

from __future__ import annotations

import random

from open4ov import corpora
from open4ov.corpora.generate import CHINESE_TASKS
from open4ov.evaluate import bias, items
from open4ov.evaluate.items import Question
from open4ov.sample import content_id, user

LARGEST = 20
"""Of the numbers that are added and subtracted"""


def texts(count: int, seed: int) -> list[Question]:
    """Sums and differences in Chinese, without a picture."""
    rng = random.Random(f"arithmetic zh/{seed}")
    asked: dict[str, int] = {}
    while len(asked) < min(count, LARGEST * LARGEST):
        a, b = rng.randint(1, LARGEST), rng.randint(1, LARGEST)
        if rng.random() < 0.5:
            asked[f"{a}加{b}等于多少？"] = a + b
        else:
            asked[f"{max(a, b)}减{min(a, b)}等于多少？"] = abs(a - b)
    return [
        Question(
            id=f"arithmetic_zh/{content_id(text)}",
            suite="arithmetic_zh",
            task="arithmetic",
            language="zh",
            messages=(user(text),),
            images=(),
            answers=(str(answer),),
            rule="exact",
        )
        for text, answer in asked.items()
    ]


def pictured(count: int, seed: int) -> list[Question]:
    """Chinese image questions: `count` of each task that has any."""
    return [
        items.question(task, item)
        for task in CHINESE_TASKS
        for item in corpora.generate(task, "test", count, seed=seed, language="zh")
    ]


def questions(count: int, seed: int) -> list[Question]:
    """The four suites, `count` questions each: missing_image_zh, mismatch_zh, context_zh and absent_zh."""
    shown, told = pictured(max(2, -(-count // 2)), seed), texts(count, seed)
    # of a row of colour questions some name no object, and some find no other picture
    colour = corpora.generate("colour", "test", 2 * count + 4, seed=seed, language="zh")
    return [
        *bias.missing_image(shown, count, seed, "missing_image_zh"),
        *bias.mismatch(told, shown, count, seed, "mismatch_zh"),
        *bias.context(shown, told, count, seed, "context_zh"),
        *bias.absent([items.question("colour", item) for item in colour], count, seed, "absent_zh"),
    ]
