"""Does the model look, and does it stay with what is asked? (paper §6.3, Fig. 12; §4.1.1)

Suites built from the questions of the others, so that each has a counterpart with the same words:

- missing_image: an image question without its image; right is to say so (`open4ov.refusals.REFUSALS`);
- mismatch: a text-only question with a picture that has nothing to do with it; right is the answer;
- context: an image question after an unrelated exchange; right is the answer;
- context_turns: the same after several, one of them about another picture;
- absent: the picture is swapped for one without the object whose colour is asked; right is to say that it is not there
  (`open4ov.refusals.DENIALS`).

Their counterparts in Chinese are in `bias_chinese.py`. What needs no further question is read off these answers and
those of the other suites (`scores.py`): false refusals, language-only leakage, verbosity.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from open4ov.evaluate.items import Question
from open4ov.sample import Message, Part, assistant

TURNS = 4
"""Unrelated exchanges of `context_turns`"""


def missing_image(questions: Sequence[Question], count: int, seed: int, suite: str = "missing_image") -> list[Question]:
    """`count` of the given image questions with every image taken away."""
    return [
        replace(
            each,
            id=f"{suite}/{each.id}",
            suite=suite,
            messages=tuple(_without_images(message) for message in each.messages),
            images=(),
            rule="refusal",
        )
        for each in spread([each for each in questions if each.images], count, f"missing/{seed}")
    ]


def mismatch(
    texts: Sequence[Question], pictures: Sequence[Question], count: int, seed: int, suite: str = "mismatch"
) -> list[Question]:
    """Text-only questions, each with the picture of some image question before its words."""
    chosen = spread([each for each in texts if not each.images], count, f"mismatch/{seed}")
    others = spread([each for each in pictures if len(each.images) == 1], len(chosen), f"mismatch pictures/{seed}")
    return [
        replace(
            each,
            id=f"{suite}/{each.id}",
            suite=suite,
            messages=(*each.messages[:-1], _with_image(each.messages[-1])),
            images=other.images,
        )
        for each, other in zip(chosen, others, strict=True)
    ]


def context(
    questions: Sequence[Question], texts: Sequence[Question], count: int, seed: int, suite: str = "context"
) -> list[Question]:
    """Image questions that come after an unrelated text-only question and its right answer."""
    chosen = spread([each for each in questions if each.images], count, f"context/{seed}")
    rng = random.Random(f"context texts/{seed}")
    asked: list[Question] = []
    for each in chosen:
        unrelated = rng.choice([text for text in texts if text.language == each.language] or list(texts))
        asked.append(
            replace(
                each,
                id=f"{suite}/{each.id}",
                suite=suite,
                messages=(*unrelated.messages, assistant(unrelated.answers[0]), *each.messages),
            )
        )
    return asked


def context_turns(
    questions: Sequence[Question], texts: Sequence[Question], count: int, seed: int, turns: int = TURNS
) -> list[Question]:
    """Image questions after `turns` unrelated exchanges with their right answers: text-only ones, and in the middle one
    about another picture (of another suite, where there is one)."""
    chosen = spread([each for each in questions if each.images], count, f"context turns/{seed}")
    rng = random.Random(f"context turns of/{seed}")
    asked: list[Question] = []
    for each in chosen:
        others = [other for other in questions if other.images and other.suite != each.suite] or [
            other for other in questions if other.images and other.id != each.id
        ]
        shown = rng.choice(others)
        before = rng.sample(list(texts), min(turns - 1, len(texts)))
        before.insert(len(before) // 2, shown)
        exchanges = [message for one in before for message in (*one.messages, assistant(one.answers[0]))]
        moved = tuple(_moved(message, len(shown.images)) for message in each.messages)
        asked.append(
            replace(
                each,
                id=f"context_turns/{each.id}",
                suite="context_turns",
                messages=(*exchanges, *moved),
                images=(*shown.images, *each.images),
            )
        )
    return asked


def absent(questions: Sequence[Question], count: int, seed: int, suite: str = "absent") -> list[Question]:
    """Questions for the colour of a named object, each with the picture of another that has no such object."""
    rng = random.Random(f"absent/{seed}")
    colours = [each for each in questions if each.suite == "colour"]
    asked: list[Question] = []
    for each in colours:
        if not any(name in each.text for name in each.objects):
            continue  # "What colour is it?" names nothing
        without = [
            other
            for other in colours
            if other.language == each.language
            and other.objects
            and not any(name in each.text for name in other.objects)
        ]
        if without:
            other = rng.choice(without)
            asked.append(
                replace(
                    each,
                    id=f"{suite}/{each.id}",
                    suite=suite,
                    images=other.images,
                    rule="denial",
                    objects=other.objects,
                )
            )
    return spread(asked, count, f"absent order/{seed}")


def spread(questions: Sequence[Question], count: int, seed: str) -> list[Question]:
    """`count` questions in a seeded order, drawn from the suites in turn."""
    rng = random.Random(seed)
    by_suite: dict[str, list[Question]] = {}
    for each in questions:
        by_suite.setdefault(each.suite, []).append(each)
    for group in by_suite.values():
        rng.shuffle(group)
    rounds = max((len(group) for group in by_suite.values()), default=0)
    order = [group[index] for index in range(rounds) for group in by_suite.values() if index < len(group)]
    return order[:count]


def _without_images(message: Message) -> Message:
    return message.model_copy(update={"content": [part for part in message.content if part.type != "image"]})


def _with_image(message: Message) -> Message:
    return message.model_copy(update={"content": [Part(type="image", index=0), *message.content]})


def _moved(message: Message, images: int) -> Message:
    """The message with its images so many places further on."""
    parts = [
        part if part.index is None else part.model_copy(update={"index": part.index + images})
        for part in message.content
    ]
    return message.model_copy(update={"content": parts})
