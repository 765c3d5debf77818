"""Instructions without pictures: the answer follows from the words of the question.

Scene fields: kind "none", of "instruction", do (which instruction), words, numbers.
"""

from __future__ import annotations

import random

from open4ov.corpora import palette, words
from open4ov.corpora.item import QA, Scene
from open4ov.corpora.looking import NUMBER_WORDS

DO = (
    "repeat",
    "reverse",
    "upper",
    "first",
    "last",
    "spell",
    "translate",
    "number",
    "larger",
    "compare",
    "count",
    "join",
)
_HAN = "零一二三四五六七八九十"


def task(rng: random.Random, split: str) -> Scene:
    """Something to do with a few words and two numbers."""
    numbers = rng.sample(range(100), 2)
    return {"kind": "none", "of": "instruction", "split": split, "do": rng.choice(DO),
            "words": rng.sample(words.ENGLISH, rng.randint(3, 4)), "numbers": numbers}  # fmt: skip


def instruction(scene: Scene, rng: random.Random) -> QA:
    """The request in words and what doing it gives, letter by letter."""
    do, said = scene["do"], scene["words"]
    numbers: list[int] = scene["numbers"]
    x, y = numbers
    listed, word = ", ".join(said), said[0]
    if do == "repeat":
        times = 2 + x % 4
        return _qa(
            rng, " ".join([word] * times), f'Repeat the word "{word}" {times} times.', f'Say "{word}" {times} times.'
        )
    if do == "reverse":
        return _qa(
            rng,
            ", ".join(reversed(said)),
            f"Write these words in reverse order: {listed}.",
            f"Reverse the list: {listed}.",
        )
    if do == "upper":
        return _qa(rng, word.upper(), f'Write "{word}" in capital letters.', f'Put the word "{word}" in upper case.')
    if do == "first":
        return _qa(rng, word, f"What is the first word of this list: {listed}?", f"Say only the first word: {listed}.")
    if do == "last":
        return _qa(
            rng, said[-1], f"What is the last word of this list: {listed}?", f"Say only the last word: {listed}."
        )
    if do == "spell":
        return _qa(
            rng,
            "-".join(word),
            f'Spell "{word}" with hyphens.',
            f'Spell the word "{word}", letter by letter, with hyphens.',
        )
    if do == "translate":
        colour = list(palette.COLOURS)[x % len(palette.COLOURS)]
        han = palette.CHINESE[colour]
        if y % 2:
            return QA(
                "instruction", rng.choice((f"Translate {colour} into Chinese.", f"What is {colour} in Chinese?")), han
            )
        return QA("instruction", rng.choice((f"Translate {han} into English.", f"What is {han} in English?")), colour)
    if do == "number":
        value = x % 11
        if y % 2:
            return QA("instruction", f"Write the number {value} in Chinese.", _HAN[value])
        return QA(
            "instruction", rng.choice((f"Write {value} as a word.", f"Spell the number {value}.")), NUMBER_WORDS[value]
        )
    if do == "larger":
        wanted = rng.choice(("larger", "smaller"))
        answer = max(x, y) if wanted == "larger" else min(x, y)
        return _qa(rng, str(answer), f"Which number is {wanted}, {x} or {y}?", f"Say the {wanted} number: {x}, {y}.")
    if do == "compare":
        wanted = rng.choice(("larger", "smaller"))
        yes = x > y if wanted == "larger" else x < y
        return _qa(
            rng, "yes" if yes else "no", f"Is {x} {wanted} than {y}?", f"Is {x} {wanted} than {y}? Answer yes or no."
        )
    if do == "count":
        start, end = x % 10, x % 10 + 2 + y % 4
        counted = ", ".join(map(str, range(start, end + 1)))
        return _qa(rng, counted, f"Count from {start} to {end}.", f"Write the numbers from {start} to {end}.")
    return _qa(
        rng,
        " and ".join(said[:2]),
        f'Join "{word}" and "{said[1]}" with "and".',
        f'Write "{word}", then "and", then "{said[1]}".',
    )


def _qa(rng: random.Random, answer: str, *questions: str) -> QA:
    return QA("instruction", rng.choice(questions), answer)
