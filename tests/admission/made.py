"""Samples with labels, for tests."""

from __future__ import annotations

from typing import Any

from open4ov.sample import Axis, Label, Sample, assistant, user

KNOWN: dict[Axis, list[str]] = {
    "domain": ["Cars", "Cars ~ Lights", "Cars ~ Signs", "Food", "Food ~ Fruit"],
    "ability": ["Naming", "Naming ~ Symbols", "Counting", "Counting ~ Objects", "Reading", "Reading ~ Words"],
}


def sample(number: int, domain: str | None, ability: str | None, **fields: Any) -> Sample:
    """Labels by name: "Cars", or "Cars ~ Lights"."""
    labels = [
        Label(axis=axis, l1=name.partition(" ~ ")[0], l2=name.partition(" ~ ")[2] or None)
        for axis, name in (("domain", domain), ("ability", ability))
        if name
    ]
    asked = [user(f"question {number}?"), assistant(f"answer {number}")]
    made = {"id": f"s{number}", "source": "t", "task": "t", "messages": asked, "labels": labels}
    return Sample(**{**made, **fields})


def mix(counts: dict[tuple[str | None, str | None], int]) -> list[Sample]:
    """So many samples of each pair of labels."""
    pairs = [pair for pair, count in counts.items() for _ in range(count)]
    return [sample(number, *pair) for number, pair in enumerate(pairs)]
