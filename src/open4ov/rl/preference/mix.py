"""Which of the pairs that people and judges chose a run is trained on: by kind, and by what it wants of a response
(paper §4.1.2)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from open4ov.recipe_dpo import GIVEN, DpoSection
from open4ov.sample import Sample, content_id


@dataclass
class Chosen:
    """The pairs; `counts` by kind; `listed`: ids of those left out, by reason; `notes`: what a user should look at."""

    pairs: list[Sample] = field(default_factory=list[Sample])
    counts: dict[str, int] = field(default_factory=dict[str, int])
    listed: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    notes: list[str] = field(default_factory=list[str])


REASONS = {
    "there_twice": "a pair of the same prompt and responses came before",
    "no_share": "of a kind that dpo.mix has no share for",
    "no_attribute": "without any attribute of dpo.attributes",
    "not_better": "not better in what dpo.attributes wants",
}
"""Why a pair is left out: its name in left_out.json, and what it means"""


def drawn(pairs: Sequence[Sample], most: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """So many of the pairs at most, drawn evenly over all kinds by the seed, and the others; both in their order."""
    taken = set(random.Random(f"most {seed}").sample(range(len(pairs)), min(most, len(pairs))))
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    for place, pair in enumerate(pairs):
        parts[place not in taken].append(pair)
    return parts


def lead(value: object, spread: float = 1.0) -> float:
    """By how much the chosen response is the better one in an attribute: 1 where it is said to be, -1 where the other
    is, 0 where neither is; or the difference of the two scores as a share of `spread`, that of the scale they are on.
    Raises ValueError for what is no attribute's value."""
    if isinstance(value, dict):
        scores = cast("Mapping[str, float]", value)
        return (float(scores["chosen"]) - float(scores["rejected"])) / (spread or 1.0)
    known = {"chosen": 1.0, "rejected": -1.0, "equal": 0.0}
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{value!r} is no attribute's value: chosen, rejected, equal, or a score for each")
    return known[value]


def spreads(pairs: Sequence[Sample]) -> dict[str, float]:
    """Of each attribute with scores: how far the lowest and the highest score among these pairs lie apart."""
    scores: dict[str, list[float]] = {}
    for pair in pairs:
        for name, value in _attributes(pair).items():
            if isinstance(value, dict):
                scores.setdefault(name, []).extend(map(float, cast("dict[str, float]", value).values()))
    return {name: max(found) - min(found) for name, found in scores.items()}


def wanted_lead(pair: Sample, weights: Mapping[str, float], spread: Mapping[str, float]) -> float | None:
    """The weighted sum of a pair's leads over the attributes that are wanted, each from -1 to 1 by its `spread`; None
    when it has none of them."""
    own = _attributes(pair)
    named = [weight * lead(own[name], spread.get(name, 1.0)) for name, weight in weights.items() if name in own]
    return sum(named) if named else None


def choose(pairs: Sequence[Sample], section: DpoSection, seed: int) -> Chosen:
    """Of each kind the recipe's share. With `dpo.attributes` those whose chosen response leads in what is wanted, the
    clearest first; pairs that speak of none of it, or for the opposite, are left out. Else, and among equals, in an
    order that hangs on the seed alone.

    Scores may be on any scale, one for each attribute of a kind: they count as shares of the spread that they have
    among its pairs."""
    found = Chosen()
    reasons: dict[str, list[str]] = {}
    known: dict[str, Sample] = {}
    for pair in pairs:
        if known.setdefault(_content(pair), pair) is not pair:
            reasons.setdefault("there_twice", []).append(pair.id)
    for kind, own in _by_kind(list(known.values())).items():
        share = section.mix.get(kind, 0) if kind in GIVEN else 0
        if share <= 0:
            reasons.setdefault("no_share", []).extend(pair.id for pair in own)
            found.notes.append(f"dpo.mix has no share for pairs of kind {kind}: {len(own)} are left out")
            continue
        spread = spreads(own)
        ranked: list[tuple[float, str, Sample]] = []
        for pair in own:
            score = wanted_lead(pair, section.attributes, spread) if section.attributes else 0.0
            if score is None:
                reasons.setdefault("no_attribute", []).append(pair.id)
            elif section.attributes and score <= 0:
                reasons.setdefault("not_better", []).append(pair.id)
            else:
                ranked.append((-score, content_id("pair order", seed, pair.id), pair))
        ranked.sort(key=lambda one: one[:2])
        wanted = round(section.pairs * share)
        taken = [pair for _, _, pair in ranked[:wanted]]
        found.pairs += taken
        found.counts[kind] = len(taken)
    for kind in GIVEN:
        wanted = round(section.pairs * section.mix.get(kind, 0))
        if found.counts.get(kind, 0) < wanted:
            found.notes.append(
                f"dpo.mix: {found.counts.get(kind, 0)} pairs of kind {kind} for a share of {wanted}; there are no more"
            )
    found.listed = reasons
    return found


def attributes(pairs: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """For each attribute: how many pairs speak of it, and in how many which response is the better one."""
    told: dict[str, Counter[str]] = {}
    for pair in pairs:
        for name, value in _attributes(pair).items():
            by = lead(value)
            told.setdefault(name, Counter())["chosen" if by > 0 else "rejected" if by < 0 else "equal"] += 1
    return {
        name: {"pairs": counts.total(), **{which: counts[which] for which in ("chosen", "rejected", "equal")}}
        for name, counts in sorted(told.items())
    }


def _attributes(pair: Sample) -> dict[str, Any]:
    return cast("dict[str, Any]", pair.extra.get("attributes") or {})


def _by_kind(pairs: Sequence[Sample]) -> dict[str, list[Sample]]:
    kinds: dict[str, list[Sample]] = {}
    for pair in pairs:
        kinds.setdefault(str(pair.extra.get("pair", "")), []).append(pair)
    return {kind: kinds[kind] for kind in sorted(kinds)}


def _content(pair: Sample) -> str:
    said = [m.model_dump(exclude_none=True) for m in (*pair.messages, *(pair.rejected or ()))]
    return content_id(pair.images, said)
