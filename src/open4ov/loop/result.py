"""What became of the rounds: rounds.json, and rounds.md for people.

For each round the development figures (which chose the next plan), the test suites' (which chose nothing), and what it
cost; and the paired difference of the last round from the first on the test suites' questions, with its interval.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from open4ov.evaluate.compare import against
from open4ov.evaluate.scores import GROUPS
from open4ov.loop import applied, found
from open4ov.loop.plan import Kind
from open4ov.recipe import Recipe
from open4ov.run_dir import read_json
from open4ov.sft.planning import STAGES
from open4ov.store import atomic, write_json

MODEL = "dpo"
"""The last stage of a run that leaves a model"""
LOOP = "loop.json"


def last_round(folder: Path) -> Path:
    """Of a loop's folder the run directory of its last finished round; any other folder itself."""
    if not (folder / LOOP).exists():
        return folder
    rounds = [path for path in folder.glob("round-*") if (path / "weaknesses" / "stage.json").exists()]
    return max(rounds, key=lambda path: int(path.name.partition("-")[2]), default=folder)


def write(recipe: Recipe, root: Path, rounds: int, kind: Kind) -> None:
    """Writes rounds.json and rounds.md about the rounds 1 to `rounds`, which are finished."""
    places = [applied.place(root, number) for number in range(1, rounds + 1)]
    told: dict[str, Any] = {"plan": kind, "start": recipe.loop.start, "rounds": [_round(place) for place in places]}
    if rounds > 1:
        changed = against([places[-1]], MODEL, [places[0]], MODEL, recipe.evaluate.confidence)
        told["last_minus_first"] = {name: changed[name] for name in GROUPS if name in changed}
    write_json(root / "rounds.json", told)
    with atomic(root / "rounds.md") as temporary:
        temporary.write_text(page(recipe, told), encoding="utf-8")


def _round(place: Path) -> dict[str, Any]:
    looked = found.read(place / "weaknesses" / "weaknesses.json")
    results = read_json(place / f"evaluate_{MODEL}" / "results.json") or {}
    test = {name: {key: results["groups"][name][key] for key in ("score", "low", "high")} for name in GROUPS}
    return {
        "round": looked.round,
        "development": looked.model_dump(include={"vertical", "general"}, exclude_none=True),
        "test": test,
        "cost": _cost(place, looked.pairs),
    }


def _cost(place: Path, pairs: int) -> dict[str, Any]:
    """Pairs asked for and kept, and tokens trained on by SFT."""
    counts = (read_json(place / "data" / "report.json") or {})["counts"]
    tokens = 0
    for stage in STAGES:
        told = read_json(place / f"sft_{stage}" / "summary.json")
        tokens += int(told["tokens"]) if told else 0
    return {"pairs": pairs, "kept": counts["kept"], "sft_tokens": tokens}


def page(recipe: Recipe, told: dict[str, Any]) -> str:
    """rounds.md."""
    start = "the base" if told["start"] == "base" else "the last model of the round before"
    lines = [f"# {recipe.name}: {told['plan']} plan, each round from {start}", ""]
    lines += ["Development questions chose the plans; the test suites chose nothing. Intervals are 95 %.", ""]
    names = list(GROUPS)
    lines.append(
        f"| round | development: vertical | general, base → round | {' | '.join(f'test: {n}' for n in names)} |"
    )
    lines.append("|---" * (3 + len(names)) + "|")
    for one in told["rounds"]:
        vertical, general = one["development"]["vertical"], one["development"].get("general")
        lost = f"{general['before']:.1%} → {general['after']:.1%}" if general else "–"
        tests = " | ".join(_shown(one["test"][name]) for name in names)
        told_vertical = f"{vertical['right']:.1%} ({vertical['low']:.1%} to {vertical['high']:.1%})"
        lines.append(f"| {one['round']} | {told_vertical} | {lost} | {tests} |")
    lines += ["", "| round | pairs asked | samples kept | tokens of SFT |", "|---|---|---|---|"]
    for one in told["rounds"]:
        cost = one["cost"]
        lines.append(f"| {one['round']} | {cost['pairs']:,} | {cost['kept']:,} | {cost['sft_tokens']:,} |")
    if changed := told.get("last_minus_first"):
        lines += ["", "Last round minus first, on the same test questions:", "", "| suite | difference | interval |"]
        lines.append("|---|---|---|")
        for name, row in changed.items():
            lines.append(f"| {name} | {row['score']:+.1%} | {row['low']:+.1%} to {row['high']:+.1%} |")
    return "\n".join(lines) + "\n"


def _shown(row: dict[str, float]) -> str:
    return f"{row['score']:.1%} ({row['low']:.1%} to {row['high']:.1%})"
