"""What a run took, stage by stage: time, memory, tokens trained on or sampled, and what endpoints charged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from open4ov.report.answers import Row
from open4ov.report.found import Found
from open4ov.run_dir import read_json

Stage = dict[str, Any]
KINDS = {
    "trained": "of packs that were trained on",
    "sampled": "of responses that a model of the run wrote",
    "read": "of prompts to endpoints",
    "written": "of their answers",
}
"""Kinds of tokens, and what they are"""


def stages(
    found: Found, curves: Mapping[str, Sequence[Mapping[str, Any]]], answers: Mapping[str, Sequence[Row]]
) -> list[Stage]:
    """A row for each stage: name, seconds, peak (bytes), resumed, money, and tokens by kind (`KINDS`); a figure that is
    not known is None or not there."""
    made: list[Stage] = []
    for name in found.inputs:
        record: Mapping[str, Any] = found.json(name, "stage.json") or {}
        counted = found.part(f"tokens of {name}", lambda name=name: _tokens(found, name, curves.get(name, ()), answers))
        made.append(
            {
                "name": name,
                "seconds": record.get("seconds"),
                "peak": record.get("peak_bytes"),
                "resumed": bool(record.get("resumed")),
                "tokens": {kind: count for kind, count in (counted or {}).items() if count},
                "money": _charged(found)["money"] if name == "data" else None,
            }
        )
    return made


def _tokens(
    found: Found, name: str, steps: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[Row]]
) -> dict[str, int]:
    if name == "data":
        charged = _charged(found)
        return {"read": charged["input"], "written": charged["output"]}
    if name.startswith("evaluate_"):
        return {"sampled": sum(sum(row.tokens) for row in answers.get(name.removeprefix("evaluate_"), ()))}
    if name == "rl":
        summary = _object(found, name, "summary.json")
        each = summary.get("responses", 0) / max(1, summary.get("steps", 0))
        return {"sampled": round(sum(each * (step.get("length") or 0) for step in steps))}
    graded: Any = _object(found, name, "mastery_cost.json").get("gradings") or [{}]
    trained = sum(step.get("tokens") or 0 for step in steps)
    return {"trained": trained, "sampled": graded[-1].get("book", {}).get("response_tokens", 0)}


def _charged(found: Found) -> Mapping[str, Any]:
    """What data construction's answers took together; nothing with the catalog."""
    costs: Mapping[str, Any] = _object(found, "data", "report.json").get("costs") or {}
    return costs.get("total") or {"input": 0, "output": 0, "money": None}


def _object(found: Found, stage: str, file: str) -> Mapping[str, Any]:
    return read_json(found.inputs[stage] / file) or {}


def asked(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What endpoints were asked, a row for each step of data construction: answers, tokens, money. Empty for the
    catalog, which takes nothing that could be counted."""
    told: Mapping[str, Any] = report.get("costs") or {}
    steps: Mapping[str, Mapping[str, Any]] = told.get("steps") or {}
    rows = [{"step": step, **figures} for step, figures in steps.items()]
    return [*rows, {"step": "together", **told["total"]}] if rows else []
