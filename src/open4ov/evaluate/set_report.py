"""An evaluation as text for a terminal: what was scored, what was left out and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def to_text(results: dict[str, Any], place: Path) -> str:
    """Figures in percent, with their intervals; then what did not run, and what is partial."""
    level = f"{results['confidence']:.0%}"
    rows = [("set", "metric", "score", f"{level} interval", "questions", "undecided")]
    for name, row in [*results["groups"].items(), *results["suites"].items()]:
        if "of" in row:
            value, ends = _figures(row)
            rows.append((f"{name} (mean of {len(row['of'])})", "", value, ends, "", ""))
            continue
        mark = " (partial)" if row["partial"] else ""
        value, ends = _figures(row) if "score" in row else ("none", "")
        counts = str(row.get("questions", 0)), str(row.get("undecided", ""))
        rows.append((name + mark, row["metric"], value, ends, *counts))
    lines = _table(rows)
    if results["asked"] or results["kept"]:
        lines += ["", f"{results['asked']} items asked now, {results['kept']} answers from before; all in {place}"]
    for name, row in results["suites"].items():
        lines += _left_out(name, row)
    for name, reason in results["not_run"].items():
        lines.append(f"{name}: not run: {reason}")
    if results["partial"]:
        lines.append("This evaluation is partial: what has no answer or no verdict is left out, not counted as wrong.")
    return "\n".join(lines)


def _figures(row: dict[str, Any]) -> tuple[str, str]:
    return f"{100 * row['score']:.1f}", f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"


def _left_out(name: str, row: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    faults = row.get("faults")
    if faults:
        lines.append(f"{name}: {faults['count']} rows could not be asked:")
        lines += [f"  {one['place']}: {one['reason']}" for one in faults["first"][:5]]
        if faults["count"] > 5:
            lines.append(f"  ... and {faults['count'] - 5} more (evaluation.json has them)")
    missing = row["items"] - row["answered"]
    if missing > 0:
        lines.append(f"{name}: {missing} of {row['items']} items have no answer; with them as wrong the score is "
                     f"{100 * row.get('lowest', 0):.1f}")  # fmt: skip
    if "unjudged" in row:
        lines.append(f"{name}: {row['unjudged']['count']} responses have no verdict: {row['unjudged']['first'][0]}")
    if row.get("empty"):
        lines.append(f"{name}: {row['empty']} of {row['responses']} responses are empty")
    if row.get("cut"):
        lines.append(f"{name}: {row['cut']} of {row['responses']} responses were cut off at max_tokens")
    return lines


def listing(rows: Sequence[dict[str, str]]) -> str:
    """The sets of `open4ov eval --list`."""
    lines = [("set", "table", "ability", "file", "state")]
    lines += [(row["name"], row["table"], row["ability"], row["file"], row["state"]) for row in rows]
    return "\n".join(_table(lines))


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
