"""Does a model find what was told, or shown, far back in a conversation? (paper §3.2.3, long context)

A text needle is a fact in one of many turns of sums and instructions; a picture needle is one of many pictures, of
which something is asked that was not asked when it was shown. Either is asked for at the end. Accuracy is by depth (0:
at the beginning, 1: at the end) and length, for the words, things and pictures of the split `test`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import fmean
from typing import Literal, Protocol

from PIL import Image

from open4ov.answers import agrees, normalise
from open4ov.corpora import Item, generate, needle
from open4ov.engine.request import Completion, Request
from open4ov.errors import UserError
from open4ov.sample import Message, assistant, user

Kind = Literal["text", "picture"]
DISTRACTORS = 2
"""Other facts of the same form in a text haystack."""
NEAR, DRAWS = 0.03, 60
"""How far from the wanted depth a text needle may lie, and the most draws for that: the nearest of them is taken. Turns
are whole, so that few of them leave few places."""
_ABOUT = {"en": "In picture {}: ", "zh": "在第{}张图里："}
_BESIDE = {"en": ("naming", "colour", "counting", "reading"), "zh": ("naming", "colour", "counting", "reading")}


class Answers(Protocol):
    """What answers: an engine."""

    def generate(
        self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None
    ) -> list[list[Completion]]: ...


@dataclass(frozen=True)
class Probe:
    """One needle: `length` (in tokens for text, else pictures) and `depth` as they were wanted, `size` and `hit` as the
    turns allowed them."""

    kind: Kind
    language: str
    length: int
    depth: float
    hit: float
    messages: list[Message]
    images: list[Image.Image]
    answer: str
    aliases: tuple[str, ...] = ()
    response: str = ""
    size: int = 0

    @property
    def right(self) -> bool:
        return agrees(self.response, self.answer, self.aliases)


def texts(
    size: Callable[[list[Message]], int], lengths: Sequence[int], depths: Sequence[float], languages: Sequence[str],
    count: int, seed: int,
) -> list[Probe]:  # fmt: skip
    """`count` text needles for each length (tokens, at most), depth and language. `size`: tokens of a conversation.
    Raises UserError for a length that the facts and the question alone go beyond, or that there is no haystack for."""
    made: list[Probe] = []
    for language in languages:
        turns, sizes = _haystack(size, language, max(lengths), seed)
        for length in lengths:
            for depth in depths:
                for number in range(count):
                    rng = random.Random(f"needle {seed} {language} {length} {depth} {number}")
                    made.append(_text(turns, sizes, size, language, length, depth, rng))
    return made


def _text(
    turns: Sequence[tuple[str, str]], sizes: Sequence[int], size: Callable[[list[Message]], int], language: str,
    length: int, depth: float, rng: random.Random,
) -> Probe:  # fmt: skip
    context = " ".join(" ".join(turn) for turn in turns)
    needles = needle.facts(rng, language, "test", 1 + DISTRACTORS, context)
    bare = size(_said([(n.told, n.noted) for n in needles] + [(needles[0].question, "")]))
    if bare > length:
        raise UserError(f"length {length}: the facts and the question alone are {bare} tokens; give a longer one")
    best: needle.Hidden | None = None
    for _ in range(DRAWS):
        order, chosen, room = rng.sample(range(len(turns)), len(turns)), list[int](), length - bare
        for place in order:
            if sizes[place] <= room:
                chosen.append(place)
                room -= sizes[place]
        hidden = needle.hide([turns[n] for n in chosen], [sizes[n] for n in chosen], depth, needles, rng)
        if best is None or abs(hidden.depth - depth) < abs(best.depth - depth):
            best = hidden
        if abs(best.depth - depth) <= NEAR:
            break
    assert best is not None
    messages = _said(best.turns)[:-1]
    return Probe("text", language, length, depth, best.depth, messages, [], best.answer, size=size(messages))


def _haystack(
    size: Callable[[list[Message]], int], language: str, length: int, seed: int
) -> tuple[list[tuple[str, str]], list[int]]:
    """Turns that have so many tokens in all at least, and the tokens of each. Raises UserError when there are none."""
    count = 400
    while True:
        turns = needle.haystack(language, "test", count, seed)
        sizes = [size(_said([turn])) for turn in turns]
        if sum(sizes) >= length:
            return turns, sizes
        if len(turns) < count:
            raise UserError(f"length {length}: the haystack has {sum(sizes)} tokens at most; give a shorter one")
        count *= 2


def pictures(
    lengths: Sequence[int], depths: Sequence[float], languages: Sequence[str], count: int, seed: int
) -> list[Probe]:
    """`count` picture needles for each number of pictures, depth and language; fewer where too few fit."""
    made: list[Probe] = []
    for language in languages:
        shown = _pairs(language, seed, 4 * max(lengths) + 20)
        for length in lengths:
            for depth in depths:
                rng = random.Random(f"picture needle {seed} {language} {length} {depth}")
                found = (_picture(rng.sample(shown, length), language, depth) for _ in range(20 * count))
                made += islice((probe for probe in found if probe is not None), count)
    return made


def _pairs(language: str, seed: int, count: int) -> list[tuple[Item, Item]]:
    """Pictures with two questions each."""
    found: list[tuple[Item, Item]] = []
    for task in _BESIDE[language]:
        waiting: Item | None = None
        for item in generate(task, "test", count // len(_BESIDE[language]) + 1, seed, language, more=1):
            if waiting is not None and waiting.images[0].tobytes() == item.images[0].tobytes():
                found.append((waiting, item))
                waiting = None
            else:
                waiting = item
    return found


def _picture(shown: Sequence[tuple[Item, Item]], language: str, depth: float) -> Probe | None:
    at = min(int(depth * len(shown)), len(shown) - 1)
    turns = [(first.sample.messages[0].text, first.sample.messages[1].text) for first, _ in shown]
    last = shown[at][1].sample
    question, answer = _ABOUT[language].format(at + 1) + last.messages[0].text, last.answer or ""
    context = normalise(" ".join([question, *(text for turn in turns for text in turn)]))
    if not answer or "\\boxed" in question or normalise(answer) in context:
        return None
    messages = _said(turns)
    for place in range(len(shown)):
        messages[2 * place] = user(turns[place][0], images=1, first_image=place)
    images = [first.images[0] for first, _ in shown]
    hit = (at + 0.5) / len(shown)
    aliases = tuple(last.aliases)
    return Probe(
        "picture",
        language,
        len(shown),
        depth,
        hit,
        [*messages, user(question)],
        images,
        answer,
        aliases,
        size=len(shown),
    )


def ask(engine: Answers, probes: Sequence[Probe], progress: Callable[[int, int], None] | None = None) -> list[Probe]:
    """The probes with the model's greedy responses."""
    requests = [Request(probe.messages, probe.images, max_tokens=16) for probe in probes]
    answered = engine.generate(requests, progress)
    return [replace(probe, response=group[0].text) for probe, group in zip(probes, answered, strict=True)]


def table(probes: Sequence[Probe]) -> dict[tuple[Kind, str, int], dict[float, tuple[int, int]]]:
    """(kind, language, length) -> depth -> (right, asked)."""
    found: dict[tuple[Kind, str, int], dict[float, tuple[int, int]]] = {}
    for probe in probes:
        row = found.setdefault((probe.kind, probe.language, probe.length), {})
        right, asked = row.get(probe.depth, (0, 0))
        row[probe.depth] = (right + probe.right, asked + 1)
    return found


def markdown(probes: Sequence[Probe]) -> str:
    """The table for people: accuracy by the wanted depth, a row a kind, language and length; and what was asked: the
    mean length, and the mean depth for each that was wanted."""
    rows = table(probes)
    depths = sorted({depth for row in rows.values() for depth in row})
    lines = [
        "| needle | language | length | "
        + " | ".join(f"{depth:g}" for depth in depths)
        + " | all | asked: length | depths |",
        "|---|---|---|" + "---|" * (len(depths) + 3),
    ]
    for (kind, language, length), row in sorted(rows.items()):
        unit = "tokens" if kind == "text" else "pictures"
        cells = [f"{row[d][0] / row[d][1]:.2f}" if d in row else "–" for d in depths]
        right, asked = (sum(pair[i] for pair in row.values()) for i in (0, 1))
        own = [p for p in probes if (p.kind, p.language, p.length) == (kind, language, length)]
        hits = ", ".join(f"{fmean(p.hit for p in own if p.depth == d):.2f}" for d in depths if d in row)
        lines.append(
            f"| {kind} | {language} | {length} {unit} | {' | '.join(cells)} | {right / asked:.2f} ({asked}) | "
            f"{fmean(p.size for p in own):.0f} | {hits} |"
        )
    return "\n".join(lines)


def _said(turns: Sequence[tuple[str, str]]) -> list[Message]:
    return [message for question, response in turns for message in (user(question), assistant(response))]
