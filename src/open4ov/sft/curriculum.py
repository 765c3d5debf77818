"""What a stage is trained on, and in which order (paper §3.2.3).

First dimension, the stages: knowledge (the vertical), ability (general skills that the first stage may have harmed),
preference (`preference_data.py`). Each replays a share of the others' samples. Second dimension, difficulty: inside a
stage the samples go from mastered over partly mastered to unmastered, as judged by the model's own rollouts
(`admission/mastery.py`).

All of it is a pure function of the samples and a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from open4ov.sample import Message, Part, Sample, content_id, mastery_of

LEVELS = {"mastered": 0.0, "partial": 0.5, None: 0.75, "unmastered": 1.0}
"""Place of each mastery in the difficulty order; samples that were not graded stand between partial and unmastered."""


@dataclass(frozen=True)
class Material:
    """The samples of one stage: its own, and those of other sets that it replays for a share of the tokens."""

    own: list[Sample]
    replay: list[Sample]


@dataclass(frozen=True)
class Order:
    """`samples`: the conversations of a stage in training order; `tokens`: their total; `too_long`: ids left out
    because they fit in no pack; `epochs`: times that the stage's own set was gone through (a share of it, below 1)."""

    samples: list[Sample]
    tokens: int
    too_long: list[str]
    epochs: float


def order(
    material: Material,
    tokens: int,
    replay: float,
    turns: int,
    noise: float,
    length: Callable[[Sample], int],
    longest: int,
    seed: int,
) -> Order:
    """Conversations for `tokens` tokens, of which a share `replay` from the replayed set, spread evenly.

    Every epoch merges the samples anew into conversations of up to `turns` questions, one of each task in turn, so that
    a budget below an epoch is spent evenly. The stage's own conversations
    are in difficulty order over the whole stage (see `by_difficulty`); replayed ones are shuffled.
    `length(sample)` gives tokens; conversations over `longest` are listed in `too_long` and left out.
    """
    too_long: list[str] = []
    share = replay if material.own else 1.0
    share = share if material.replay else 0.0

    def draw(samples: list[Sample], budget: float, name: str) -> tuple[list[Sample], int, float]:
        drawn: list[Sample] = []
        total, epochs = 0, 0.0
        if budget < 1:
            return drawn, total, epochs
        for epoch in range(10_000):
            rng = random.Random(f"curriculum {name} {seed} {epoch}")
            conversations = in_turn(merge(samples, turns, rng))
            fresh = 0
            for place, conversation in enumerate(conversations):
                size = length(conversation)
                if size > longest:
                    too_long.extend([conversation.id] if epoch == 0 else [])
                    continue
                fresh += size
                drawn.append(conversation)
                total += size
                if total >= budget:
                    return drawn, total, epoch + (place + 1) / len(conversations)
            if not fresh:
                break
            epochs = epoch + 1.0
        return drawn, total, epochs

    own, own_tokens, epochs = draw(material.own, tokens * (1 - share), "own")
    again, again_tokens, _ = draw(material.replay, tokens * share, "replay")
    own = by_difficulty(own, noise, seed)
    return Order(spread(own, again), own_tokens + again_tokens, sorted(set(too_long)), epochs)


def merge(samples: Sequence[Sample], turns: int, rng: random.Random) -> list[Sample]:
    """Conversations of up to `turns` single questions about the same image(s), in random order.

    One picture is then encoded once for several answers. Samples without images, or of several turns already, stay
    alone. The result is shuffled.
    """
    groups: dict[tuple[str, ...], list[Sample]] = {}
    conversations: list[Sample] = []
    for sample in samples:
        if turns > 1 and sample.images and [m.role for m in sample.messages] == ["user", "assistant"]:
            groups.setdefault((sample.language, *sample.images), []).append(sample)
        else:
            conversations.append(sample)
    for group in groups.values():
        rng.shuffle(group)
        conversations += [joined(group[i : i + turns]) for i in range(0, len(group), turns)]
    rng.shuffle(conversations)
    return conversations


def in_turn(samples: Sequence[Sample]) -> list[Sample]:
    """One sample of each task in turn, each task's in the order given; tasks that run out fall silent."""
    tasks: dict[str, list[Sample]] = {}
    for sample in samples:
        tasks.setdefault(sample.task, []).append(sample)
    rounds = zip_longest(*tasks.values())
    return [sample for one_of_each in rounds for sample in one_of_each if sample is not None]


def joined(samples: Sequence[Sample]) -> Sample:
    """One conversation of samples that share their images: the images stand in the first question only."""
    if len(samples) == 1:
        return samples[0]
    messages = list(samples[0].messages)
    for sample in samples[1:]:
        messages += [without_images(message) for message in sample.messages]
    rates = [sample.pass_rate for sample in samples if sample.pass_rate is not None]
    rate = sum(rates) / len(rates) if rates else None
    return samples[0].model_copy(
        update={
            "id": content_id("conversation", [sample.id for sample in samples]),
            "messages": messages,
            "answer": None,
            "aliases": [],
            "lineage": [sample.id for sample in samples],
            "pass_rate": rate,
            "mastery": mastery_of(rate),
        }
    )


def without_images(message: Message) -> Message:
    """The message with its text parts only."""
    return message.model_copy(update={"content": [part for part in message.content if part.type == "text"]})


def with_offset(message: Message, first: int) -> Message:
    """The message with its image references moved by `first`, for conversations that join several samples' images."""
    parts: list[Part] = [
        part.model_copy(update={"index": (part.index or 0) + first}) if part.type != "text" else part
        for part in message.content
    ]
    return message.model_copy(update={"content": parts})


def by_difficulty(samples: Sequence[Sample], noise: float, seed: int) -> list[Sample]:
    """Easy to hard: sorted by the level of `LEVELS` plus a random part in [0, noise).

    With noise 0 the levels are strictly one after another; a small model then forgets the easy tasks while it sees
    only hard ones. With noise 1 (default of the recipe) the levels overlap and the mean difficulty rises.
    """
    rng = random.Random(f"difficulty {seed}")
    keys = [LEVELS[sample.mastery] + noise * rng.random() + 1e-9 * rng.random() for sample in samples]
    return [samples[i] for i in sorted(range(len(samples)), key=keys.__getitem__)]


def spread(main: Sequence[Sample], others: Sequence[Sample]) -> list[Sample]:
    """Both lists in their own order, the shorter one spread evenly over the longer one."""
    long, short = (main, others) if len(main) >= len(others) else (others, main)
    if not short:
        return list(long)
    cuts = [round(i * len(long) / len(short)) for i in range(len(short) + 1)]
    pieces = (list(long[a:b]) for a, b in pairwise(cuts))

    def woven() -> Iterator[Sample]:
        for piece, one in zip_longest(pieces, short):
            yield from piece or ()
            if one is not None:
                yield one

    return list(woven())
