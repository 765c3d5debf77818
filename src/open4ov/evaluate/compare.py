"""Several runs as one measurement: their questions pooled, and differences paired by seed and question.

One seed of a small model proves little. Runs of one recipe under several seeds ask different questions; pooled they
give one table with narrower intervals, and against the runs of another recipe under the same seeds a paired difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from open4ov.errors import UserError
from open4ov.evaluate.diversity import Equivalence
from open4ov.evaluate.scores import Answer, differences, read_answers, summarise
from open4ov.functions import function
from open4ov.recipe import EQUIVALENCE
from open4ov.run_dir import read_json

Results = dict[str, Any]
"""As results.json (`scores.py`, schema 1); `seed` names all seeds."""


def pooled(runs: Sequence[Path], models: Sequence[str]) -> dict[str, Results]:
    """model -> results over all the runs' questions, with the differences from the models before it.

    Left out are models that no run has evaluated. Raises UserError for one that only some have, for a folder that is no
    run, for runs of equal seeds, and for runs that were asked in different ways.
    """
    found: dict[str, list[Answer]] = {}
    asked: dict[str, Any] | None = None
    for model in models:
        if not any(_file(run, model).exists() for run in runs):
            continue
        found[model] = answers(runs, model)
        seeds = ", ".join(str(_settings(run, model)["seed"]) for run in runs)
        for run in runs:
            settings = {**_settings(run, model), "seed": seeds}
            if settings != (asked := asked or settings):
                raise UserError(
                    f"{run}: evaluate_{model} was made with another seed, number of items or samples, or confidence "
                    "than the other evaluations; run its recipe again"
                )
    if not found or asked is None:
        for run in runs:
            if not (run / "run.json").exists():
                raise UserError(f"{run}: is no run directory (no run.json)")
        return {}
    same = _same(asked)
    return {
        model: {
            "schema": 1,
            "model": model,
            **asked,
            **summarise(said, asked["confidence"], same),
            "differences": {
                name: differences(said, found[name], asked["confidence"], same) for name in _before(model, found)
            },
        }
        for model, said in found.items()
    }


def answers(runs: Sequence[Path], model: str) -> list[Answer]:
    """What a model of each run answered, its seed before each question's id. Raises UserError as `pooled`.

    The seed is the one that the evaluation itself was made with, whatever the run has been told since.
    """
    said: list[Answer] = []
    seeds: dict[int, Path] = {}
    for run in runs:
        path = _file(run, model)
        if not (run / "run.json").exists():
            raise UserError(f"{run}: is no run directory (no run.json)")
        if not path.exists():
            raise UserError(f"{run}: has not evaluated '{model}' yet; run its recipe as far as evaluate_{model}")
        seed = _settings(run, model)["seed"]
        if seed in seeds:
            raise UserError(f"{run} and {seeds[seed]}: both have the seed {seed}; give runs of different seeds")
        seeds[seed] = run
        said += [replace(each, id=f"{seed}/{each.id}") for each in read_answers(path)]
    return said


def against(
    runs: Sequence[Path], model: str, others: Sequence[Path], other: str, confidence: float = 0.95
) -> dict[str, dict[str, float]]:
    """Row -> {score, low, high}: `model` of `runs` minus `other` of `others`, paired by seed and question."""
    mine, theirs = answers(runs, model), answers(others, other)
    told = [_settings(run, name) for name, group in ((model, runs), (other, others)) for run in group]
    if len({settings.get("equivalence") for settings in told}) > 1:
        raise UserError("the runs' recipes tell distinct responses apart by other rules (evaluate.equivalence)")
    try:
        return differences(mine, theirs, confidence, _same(told[0]))
    except ValueError:
        raise UserError(
            "the runs were asked different questions: give as many of each, with the same seeds and the same "
            "recipe section 'evaluate'"
        ) from None


def _file(run: Path, model: str) -> Path:
    return run / f"evaluate_{model}" / "answers.parquet"


def _before(model: str, found: Mapping[str, object]) -> list[str]:
    names = list(found)
    return names[: names.index(model)]


def _settings(run: Path, model: str) -> dict[str, Any]:
    """seed, items, samples and confidence of one evaluation, from its results.json."""
    path = _file(run, model).with_name("results.json")
    record = read_json(path)
    keys = ("seed", "items", "samples", "confidence")
    if record is None or any(key not in record for key in keys):
        raise UserError(f"{path}: missing or damaged; run its recipe again as far as evaluate_{model}")
    return {key: record[key] for key in (*keys, "equivalence", "weights") if key in record}


def _same(settings: Mapping[str, Any]) -> Equivalence:
    """What tells distinct responses apart, as the evaluation had it."""
    return function(settings.get("equivalence", EQUIVALENCE), "evaluate.equivalence")
