"""Several runs as one measurement: their questions pooled, and differences paired by seed and question.

One seed of a small model proves little. Runs of one recipe under several seeds ask different questions; pooled they
give one table with narrower intervals, and against the runs of another recipe under the same seeds a paired difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from open4ov.errors import UserError
from open4ov.evaluate.scores import Answer, differences, read_answers, summarise
from open4ov.run_dir import read_json

Results = dict[str, Any]
"""As results.json (`scores.py`, schema 1); `seed` names all seeds."""


def pooled(runs: Sequence[Path], models: Sequence[str]) -> dict[str, Results]:
    """model -> results over all the runs' questions, with the differences from the models before it.

    Left out are models that no run has evaluated. Raises UserError for one that only some have, for a folder that is no
    run, for runs of equal seeds, and for runs that were asked in different ways.
    """
    settings = [_settings(run) for run in runs]
    for run, other in zip(runs, settings, strict=True):
        if other["evaluate"] != settings[0]["evaluate"]:
            raise UserError(f"{run}: its recipe's section 'evaluate' is not that of {runs[0]}; they cannot be pooled")
    section = settings[0]["evaluate"]
    found: dict[str, list[Answer]] = {}
    for model in models:
        if any(_file(run, model).exists() for run in runs):
            found[model] = answers(runs, model)
    results: dict[str, Results] = {}
    for model, said in found.items():
        results[model] = {
            "schema": 1,
            "model": model,
            "seed": ", ".join(str(each["seed"]) for each in settings),
            **{key: section[key] for key in ("items", "samples", "confidence")},
            **summarise(said, section["confidence"]),
            "differences": {name: differences(said, found[name], section["confidence"]) for name in results},
        }
    return results


def answers(runs: Sequence[Path], model: str) -> list[Answer]:
    """What a model of each run answered, its seed before each question's id. Raises UserError as `pooled`."""
    said: list[Answer] = []
    seeds: dict[int, Path] = {}
    for run in runs:
        seed = _settings(run)["seed"]
        if seed in seeds:
            raise UserError(f"{run} and {seeds[seed]}: both have the seed {seed}; give runs of different seeds")
        seeds[seed] = run
        path = _file(run, model)
        if not path.exists():
            raise UserError(f"{run}: has not evaluated '{model}' yet; run its recipe as far as evaluate_{model}")
        said += [replace(each, id=f"{seed}/{each.id}") for each in read_answers(path)]
    return said


def against(
    runs: Sequence[Path], model: str, others: Sequence[Path], other: str, confidence: float = 0.95
) -> dict[str, dict[str, float]]:
    """Row -> {score, low, high}: `model` of `runs` minus `other` of `others`, paired by seed and question."""
    mine, theirs = answers(runs, model), answers(others, other)
    try:
        return differences(mine, theirs, confidence)
    except ValueError:
        raise UserError(
            "the runs were asked different questions: give as many of each, with the same seeds and the same "
            "recipe section 'evaluate'"
        ) from None


def _file(run: Path, model: str) -> Path:
    return run / f"evaluate_{model}" / "answers.parquet"


def _settings(run: Path) -> dict[str, Any]:
    record = read_json(run / "run.json")
    if record is None or "recipe" not in record:
        raise UserError(f"{run}: is no run directory (no readable run.json)")
    return record["recipe"]
