"""Sums without pictures: expressions and short word problems, up to two digits a number, with worked answers.

Scene fields: kind "none", of "arithmetic", a, sign, b, story (0 is the bare expression).
"""

from __future__ import annotations

import random

from open4ov.corpora.item import QA, Scene
from open4ov.corpora.reasoning import boxed

_PEOPLE = ("Tom", "Anna", "Ben", "Lily", "Max", "Emma", "Sam", "Mia")
_GOODS = ("apples", "books", "pens", "eggs", "cards", "stamps", "shells", "coins")


def problem(rng: random.Random, split: str) -> Scene:
    """A sum of two numbers of up to two digits, bare or as a story."""
    sign = rng.choices("+-*", (40, 35, 25))[0]
    if sign == "*":
        a, b = rng.randint(2, 99 if rng.random() < 0.6 else 12), rng.randint(2, 12)
    else:
        top = rng.choice((20, 99))
        a, b = rng.randint(1, top), rng.randint(1, top)
        if sign == "-" and a < b:
            a, b = b, a
    story = rng.choice((0, 1))
    return {"kind": "none", "of": "arithmetic", "split": split, "a": a, "sign": sign, "b": b, "story": story,
            "who": rng.choice(_PEOPLE), "what": rng.choice(_GOODS)}  # fmt: skip


def solve(scene: Scene) -> int:
    """Its result."""
    a, b = scene["a"], scene["b"]
    return a + b if scene["sign"] == "+" else a - b if scene["sign"] == "-" else a * b


def arithmetic(scene: Scene, rng: random.Random) -> QA:
    """The question, worked in steps, the answer in a box."""
    a, b, sign, answer = scene["a"], scene["b"], scene["sign"], solve(scene)
    who, what = scene["who"], scene["what"]
    if not scene["story"]:
        question = rng.choice(("What is {}?", "Compute {}.", "Calculate {}.")).format(f"{a} {sign} {b}")
    elif sign == "+":
        question = f"{who} has {a} {what} and gets {b} more. How many {what} does {who} have now?"
    elif sign == "-":
        question = f"{who} has {a} {what} and gives away {b}. How many {what} are left?"
    else:
        question = f"{who} has {a} boxes with {b} {what} in each. How many {what} are there in all?"
    working = steps(a, sign, b)
    done = {"+": "add", "-": "subtract", "*": "multiply"}[sign]
    start = f"Let me think about this step by step. I have the numbers {a} and {b}, and I need to {done}."
    wordy = f"{start} I compute: {working}."
    return boxed("arithmetic", question, answer, f"{working}.", wordy, rng)


def steps(a: int, sign: str, b: int) -> str:
    """ "23*14=23*10+23*4=230+92=322": tens and units apart where both matter."""
    answer = a + b if sign == "+" else a - b if sign == "-" else a * b
    if sign == "*" and a > 9 and a % 10 and b <= 12:
        tens, units = a // 10 * 10, a % 10
        return f"{a}*{b}={tens}*{b}+{units}*{b}={tens * b}+{units * b}={answer}"
    if sign != "*" and b > 9 and b % 10:
        tens, units = b // 10 * 10, b % 10
        half = a + tens if sign == "+" else a - tens
        return f"{a}{sign}{b}={a}{sign}{tens}{sign}{units}={half}{sign}{units}={answer}"
    return f"{a}{sign}{b}={answer}"
