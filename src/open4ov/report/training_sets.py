"""What the report tells of SFT's data: the three sets, and stage 2's blend with what it was computed from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open4ov.run_dir import read_json

TITLES = {"knowledge": "SFT-Knowledge", "ability": "SFT-Ability", "preference": "SFT-Preference"}


def sets(inputs: Mapping[str, Path]) -> list[dict[str, Any]]:
    """A row for each set that the run made: title, id, samples to train on, kept apart, and what was left out."""
    found: dict[str, Any] = {}
    for stage in ("sets", "preference_set"):
        if stage in inputs:
            found |= read_json(inputs[stage] / "summary.json") or {}
    return [
        {
            "title": TITLES[name],
            **{key: about[key] for key in ("id", "train", "val")},
            "left_out": ", ".join(f"{count} {reason}" for reason, count in about["left_out"].items()),
        }
        for name, about in found.items()
        if name in TITLES
    ]


def blend(inputs: Mapping[str, Path]) -> dict[str, Any] | None:
    """Stage 2's blend.json, the ability with the most tokens first; None for a run without stage 2."""
    record = read_json(inputs["sft_ability"] / "blend.json") if "sft_ability" in inputs else None
    if record is None:
        return None
    abilities = sorted(record["abilities"].items(), key=lambda item: (-item[1]["tokens"], item[0]))
    asked = any(about.get("questions") for _, about in abilities)
    return {"kind": record["blend"], "measured": asked, "abilities": abilities}
