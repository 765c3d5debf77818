"""Sums about pictures, with worked answers in two styles, half each: concise, and wordy (which RL shortens later).

Responses end with \\boxed{answer}; questions end with `answers.INSTRUCTION`.
"""

from __future__ import annotations

import random
from collections import Counter

from open4ov.answers import INSTRUCTION
from open4ov.corpora import text
from open4ov.corpora.item import QA, Scene
from open4ov.corpora.looking import allowed, plural


def several(count: int, name: str) -> str:
    """ "1 cat", "3 cats"."""
    return f"{count} {name if count == 1 else plural(name)}"


def boxed(task: str, question: str, answer: int, concise: str, wordy: str, rng: random.Random) -> QA:
    """A QA whose response is the concise or the wordy working, then the boxed answer."""
    if rng.random() < 0.5:
        response = f"{concise} \\boxed{{{answer}}}"
    else:
        response = f"{wordy} So the final answer is \\boxed{{{answer}}}"
    return QA(task, f"{question} {INSTRUCTION['en']}", str(answer), [], response)


def reasoning(scene: Scene, rng: random.Random, language: str) -> list[QA]:
    """One sum about the scene, if it holds enough for one."""
    if language != "en":
        return []
    kind = scene["kind"]
    if kind == "chart":
        return [_chart(scene, rng)]
    if kind == "text":
        return [_written(scene, rng)] if scene["of"] == "sum" else []
    if kind not in ("grid", "free"):
        return []
    ways = [_digits(scene, rng), _kinds(scene, rng), _price(scene, rng), _colours(scene, rng)]
    ways = [way for way in ways if way]
    return [rng.choice(ways)] if ways else []


def _kinds(scene: Scene, rng: random.Random) -> QA | None:
    things = [t for t in scene["objects"] if t["type"] == "symbol" and allowed(t, scene)]
    counts = Counter(t["name"] for t in things)
    if len(counts) < 2 or max(counts.values()) < 2:
        return None
    first = counts.most_common(1)[0][0]
    second = rng.choice([name for name in counts if name != first])
    if rng.random() < 0.5:
        first, second = second, first
    a, b = counts[first], counts[second]
    if a != b and rng.random() < 0.35:
        (more, x), (less, y) = ((first, a), (second, b)) if a > b else ((second, b), (first, a))
        question = f"How many more {plural(more)} than {plural(less)} are there?"
        steps, answer, verb = f"{x}-{y}={x - y}", x - y, "subtract"
        first, a, second, b = more, x, less, y
    else:
        question = f"How many {plural(first)} and {plural(second)} are there in all?"
        steps, answer, verb = f"{a}+{b}={a + b}", a + b, "add them"
    wordy = (
        f"Let me look at the picture carefully. First, I count the {plural(first)}: there {_be(a)} {a}. "
        f"Next, I count the {plural(second)}: there {_be(b)} {b}. Now I {verb}: {steps}."
    )
    return boxed("reasoning", question, answer, f"{several(a, first)} and {several(b, second)}. {steps}.", wordy, rng)


def _price(scene: Scene, rng: random.Random) -> QA | None:
    things = [t for t in scene["objects"] if t["type"] == "symbol" and allowed(t, scene)]
    counts = Counter(t["name"] for t in things)
    if not counts or max(counts.values()) < 2:
        return None
    name = counts.most_common(1)[0][0]
    count, price = counts[name], rng.randint(2, 9)
    question = f"Each {name} costs {price} coins. How many coins do all the {plural(name)} cost?"
    concise = f"{several(count, name)}. {count}*{price}={count * price}."
    wordy = (
        f"Let me look at the picture carefully. I need to count the {plural(name)} first: there {_be(count)} {count}. "
        f"Each one costs {price} coins, so I multiply: {count}*{price}={count * price}."
    )
    return boxed("reasoning", question, count * price, concise, wordy, rng)


def _colours(scene: Scene, rng: random.Random) -> QA | None:
    counts = Counter(t["colour"] for t in scene["objects"])
    if len(counts) < 2 or max(counts.values()) < 2:
        return None
    first, second = rng.sample(list(counts), 2)
    a, b = counts[first], counts[second]
    question = f"How many {first} things and {second} things are there in all?"
    wordy = (
        f"Let me look at the picture carefully. First, I count the {first} things: there {_be(a)} {a}. "
        f"Next, I count the {second} things: there {_be(b)} {b}. Now I add them: {a}+{b}={a + b}."
    )
    return boxed("reasoning", question, a + b, f"{a} {first} and {b} {second}. {a}+{b}={a + b}.", wordy, rng)


def _digits(scene: Scene, rng: random.Random) -> QA | None:
    digits = [int(t["name"]) for t in scene["objects"] if t["type"] == "character" and t["name"].isdigit()]
    if not 2 <= len(digits) <= 5:
        return None
    if len(digits) == 2 and rng.random() < 0.4:
        a, b = digits
        question, steps, answer = "Multiply the two digits in the picture.", f"{a}*{b}={a * b}", a * b
        verb = "multiply them"
    else:
        question = rng.choice(("Add all the digits in the picture.", "What is the sum of the digits in the picture?"))
        answer, verb = sum(digits), "add them"
        steps = "+".join(map(str, digits)) + f"={answer}"
    listed = ", ".join(map(str, digits))
    wordy = f"Let me look at the picture carefully. I read the digits one by one: {listed}. Now I {verb}: {steps}."
    return boxed("reasoning", question, answer, f"{steps}.", wordy, rng)


def _chart(scene: Scene, rng: random.Random) -> QA:
    one, other = rng.sample(range(len(scene["labels"])), 2)
    if scene["values"][one] < scene["values"][other]:
        one, other = other, one
    a, b, x, y = scene["labels"][one], scene["labels"][other], scene["values"][one], scene["values"][other]
    if x > y and rng.random() < 0.5:
        question, steps, answer = f"How much higher is {a} than {b}?", f"{x}-{y}={x - y}", x - y
    else:
        question, steps, answer = f"What is the sum of {a} and {b}?", f"{x}+{y}={x + y}", x + y
    wordy = (
        f"Let me look at the chart carefully. First, I read {a}: its value is {x}. Next, I read {b}: its value is {y}. "
        f"Now I {'subtract' if '-' in steps else 'add them'}: {steps}."
    )
    return boxed("reasoning", question, answer, f"{a} is {x} and {b} is {y}. {steps}.", wordy, rng)


def _written(scene: Scene, rng: random.Random) -> QA:
    line, answer = scene["lines"][0], text.evaluate(scene["lines"][0])
    question = rng.choice(("Compute the expression in the picture.", "What is the result of the written sum?"))
    sum_text = line.replace("×", "*")
    wordy = f"Let me look at the picture carefully. The text says {sum_text}. Now I compute it: {sum_text}={answer}."
    return boxed("reasoning", question, answer, f"{sum_text}={answer}.", wordy, rng)


def _be(count: int) -> str:
    return "is" if count == 1 else "are"
