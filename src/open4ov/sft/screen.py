"""What cannot be trained on: conversations longer than a pack, and turns of an assistant who says nothing.

A conversation is seen as rounds: what is asked, and what is answered to it. Where it is split, or loses a round, the
next round that is left shows the images of those before it: what is asked later may be about them too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from open4ov.errors import UserError
from open4ov.sample import Message, Part, Sample, content_id

Round = list[Message]
SHOWN = 12
"""Ids that an error names; a summary has them all."""


@dataclass
class Screened:
    """`samples`: what can be trained on, in order. `too_long`, `split`, `empty`: ids of those that were left out or cut
    into several for their length, and of those with an answer of nothing but blanks, which was left out."""

    samples: list[Sample]
    too_long: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


def screen(
    samples: Sequence[Sample],
    length: Callable[[Sample], int],
    limit: int,
    too_long: Literal["skip", "cut", "split", "refuse"],
    empty_answers: Literal["skip", "refuse"],
) -> Screened:
    """As `sift`; raises UserError also when nothing is left."""
    found = sift(samples, length, limit, too_long, empty_answers)
    if not found.samples:
        raise UserError(
            f"nothing to train on: {len(samples)} samples were given, {len(found.too_long)} of them are longer than "
            f"a pack (sft.pack_tokens = {limit}), {len(found.empty)} have no answer"
        )
    return found


def sift(
    samples: Sequence[Sample],
    length: Callable[[Sample], int],
    limit: int,
    too_long: Literal["skip", "cut", "split", "refuse"],
    empty_answers: Literal["skip", "refuse"],
) -> Screened:
    """Splits, leaves out and lists, or refuses what cannot be trained on. `length` gives tokens; no more than `limit`
    make a pack. Raises UserError, with their ids, for samples that the recipe has refused."""
    found = Screened([])
    for sample in samples:
        said, blank = answered(sample)
        found.empty += blank
        if said is None:
            continue
        if length(said) <= limit:
            found.samples.append(said)
            continue
        parts = split(said, length, limit) if too_long == "split" else []
        (found.split if parts else found.too_long).append(sample.id)
        found.samples += parts
    found.too_long, found.split, found.empty = (
        list(dict.fromkeys(ids)) for ids in (found.too_long, found.split, found.empty)
    )
    if found.too_long and too_long == "refuse":
        raise UserError(
            f"{len(found.too_long)} samples are longer than a pack (sft.pack_tokens = {limit}): "
            f"{listed(found.too_long)}; raise it, or set sft.too_long to split or skip"
        )
    if found.empty and empty_answers == "refuse":
        raise UserError(
            f"{len(found.empty)} samples have an answer of nothing but blanks: {listed(found.empty)}; mend them, or "
            "set sft.empty_answers to skip"
        )
    return found


def answered(sample: Sample) -> tuple[Sample | None, list[str]]:
    """The sample without the rounds whose answer is empty (None when there is no other), and the ids of those rounds'
    samples: of a conversation that was joined from several, these."""
    system, turns = rounds(sample)
    full = [any(m.role == "assistant" and m.text.strip() for m in turn) for turn in turns]
    if turns and all(full):
        return sample, []
    names = origins(sample)
    own = names if len(names) == len(turns) else [sample.id] * max(len(turns), 1)
    blank = list(dict.fromkeys(name for name, kept in zip(own, full or [False], strict=True) if not kept))
    if not any(full):
        return None, blank
    kept: list[Round] = []
    dropped: list[Round] = []
    for turn, said in zip(turns, full, strict=True):
        if said:
            kept.append(_showing(turn, dropped))
            dropped = []
        else:
            dropped.append(turn)
    return _rebuilt(sample, system, kept, "answered"), blank


def split(sample: Sample, length: Callable[[Sample], int], limit: int) -> list[Sample]:
    """The sample as several of at most `limit` tokens, each of as many rounds as fit; empty when a single round with
    the images it refers to is longer."""
    system, turns = rounds(sample)
    parts: list[Sample] = []
    first = 0
    while first < len(turns):
        fitting: Sample | None = None
        stop = first
        while stop < len(turns):
            own = [_showing(turns[first], turns[:first]), *turns[first + 1 : stop + 1]]
            part = _rebuilt(sample, system, own, f"{first}-{stop}")
            if length(part) > limit:
                break
            fitting, stop = part, stop + 1
        if fitting is None:
            return []
        parts.append(fitting)
        first = stop
    return parts


def rounds(sample: Sample) -> tuple[list[Message], list[Round]]:
    """The system messages at the head, and the rounds: each ends with the last of one or more answers in a row."""
    head = next((i for i, m in enumerate(sample.messages) if m.role != "system"), len(sample.messages))
    turns: list[Round] = []
    for message in sample.messages[head:]:
        if not turns or (message.role != "assistant" and turns[-1][-1].role == "assistant"):
            turns.append([])
        turns[-1].append(message)
    return sample.messages[:head], turns


def origins(sample: Sample) -> list[str]:
    """The ids of the samples that a conversation was joined from; else its own."""
    joined = len(sample.lineage) > 1 and sample.id == content_id("conversation", sample.lineage)
    return list(sample.lineage) if joined else [sample.id]


def listed(ids: Sequence[str]) -> str:
    """The first few of many ids."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more


def _showing(turn: Round, earlier: Sequence[Round]) -> Round:
    """The round with the pictures of earlier ones before its own."""
    own = _pictures([turn])
    shown = [picture for place, picture in _pictures(earlier).items() if place not in own]
    return [turn[0].model_copy(update={"content": [*shown, *turn[0].content]}), *turn[1:]]


def _rebuilt(sample: Sample, system: list[Message], turns: Sequence[Round], part: str) -> Sample:
    return sample.model_copy(
        update={
            "id": content_id("part", sample.id, part),
            "messages": [*system, *(message for turn in turns for message in turn)],
            "answer": None,
            "aliases": [],
            "lineage": [sample.id],
        }
    )


def _pictures(turns: Sequence[Round]) -> dict[tuple[str, int | None], Part]:
    """By kind and place among the sample's images, once each."""
    parts = [part for turn in turns for message in turn for part in message.content if part.type != "text"]
    return {(part.type, part.index): part for part in parts}
