"""What the report tells of offline RL: its pairs by kind, refusals before and after, and some pairs to look at.

The first pairs of each kind are shown, whatever they say: nobody picked them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from open4ov.recipe_dpo import KINDS
from open4ov.report.pictures import Pictures
from open4ov.run_dir import read_json
from open4ov.sample import Sample
from open4ov.store import iter_samples

SHOWN = 2
"""Pairs of a kind"""
LOOKED_THROUGH = 20_000
"""Pairs that are looked through for them"""


@dataclass(frozen=True)
class PairCard:
    """One pair as the page shows it. `pictures` are data URIs."""

    kind: str
    pictures: list[str]
    earlier: str
    question: str
    chosen: str
    rejected: str


def offline(inputs: Mapping[str, Path], pictures: Pictures) -> dict[str, Any] | None:
    """Kinds with their numbers, what made no pair, refusals, attributes, and cards; None for a run without pairs."""
    summary = read_json(inputs["dpo"] / "summary.json") if "dpo" in inputs else None
    if not summary or not summary.get("pairs"):
        return None
    counts: dict[str, int] = summary.get("counts", {})
    return {
        "pairs": summary["pairs"],
        "kinds": [(kind, counts[kind]) for kind in KINDS if counts.get(kind)],
        "others": [(name, number) for name, number in counts.items() if name not in KINDS],
        "left_out": list(summary.get("left_out", {}).items()),
        "attributes": list(summary.get("attributes", {}).items()),
        "refusal": summary.get("refusal"),
        "validation": summary.get("validation"),
        "cards": cards(inputs["dpo"] / "pairs.parquet", pictures),
    }


def cards(path: Path, pictures: Pictures) -> list[PairCard]:
    """The first pairs of each kind, in the order of the kinds."""
    found: dict[str, list[Sample]] = {}
    for pair in islice(iter_samples(path), LOOKED_THROUGH):
        own = found.setdefault(str(pair.extra.get("pair", "")), [])
        if len(own) < SHOWN and pair.rejected and all(pictures.there(sha) for sha in pair.images):
            own.append(pair)
    order = [kind for kind in KINDS if kind in found]
    return [_card(kind, pair, pictures) for kind in order for pair in found[kind]]


def _card(kind: str, pair: Sample, pictures: Pictures) -> PairCard:
    assert pair.rejected is not None
    return PairCard(
        kind=kind,
        pictures=[uri for sha in pair.images if (uri := pictures.uri(sha))],
        earlier="\n".join(f"{message.role}: {message.text}" for message in pair.messages[:-2]),
        question=pair.messages[-2].text,
        chosen=pair.messages[-1].text,
        rejected=pair.rejected[-1].text,
    )
