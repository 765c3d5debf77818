"""The questions of a comparison: the evaluation's own, or a user's set of samples.

Where the models' runs have a folder of pictures as their vertical, what they hold out of it is asked in place of the
in-car corpus.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open4ov.errors import UserError
from open4ov.evaluate import bias, held_out, items
from open4ov.evaluate.items import Question
from open4ov.evaluate.versus.pairs import Asked
from open4ov.formats.convert import located
from open4ov.recipe_images import CORPUS
from open4ov.run_dir import read_json
from open4ov.sample import Sample
from open4ov.store import ImageError, ImageStore, iter_samples, read_samples


@dataclass(frozen=True)
class HeldOut:
    """What a comparison's models hold out of a folder of pictures: the samples, and the store with their images."""

    samples: list[Sample]
    store: ImageStore


def built_in(count: int, seed: int, own: HeldOut | None = None) -> list[Asked]:
    """`count` questions, drawn in turn from the suites on general ability, the vertical (`own`, or the in-car corpus),
    text and reasoning."""
    other = (*items.GENERAL, *items.TEXT, "reasoning")
    languages = sorted({sample.language for sample in own.samples}) if own else ["en", "zh"]
    each = -(-count // (len(other) + len(languages)))
    if own is None:
        vertical = [question for language in ("en", "zh") for question in items.vertical(language, each, seed)]
    else:
        vertical = list(held_out.as_asked(own.samples, each, own.store.get))
        each = max(each, -(-(count - len(vertical)) // len(other)))  # where few are held out, more of the others
    found = [question for task in other for question in items.general(task, each, seed)] + vertical
    return [_asked(question) for question in bias.spread(found, count, f"versus/{seed}")]


def held_out_of(models: Mapping[str, Path]) -> HeldOut | None:
    """What is to be asked about the vertical of these models' runs. `models`: option -> a model's folder.

    None where no run has a folder of pictures of its own. Of two that have one, the questions of the first about
    pictures that the other holds out, too: of others it may have been trained on. Raises UserError where the two are of
    different verticals, or nothing is held out that both could be asked.
    """
    runs = {name: run for name, model in models.items() if (run := _run(model)) is not None}
    own = {name: run for name, run in runs.items() if _folder(run) is not None}
    if not own:
        return None
    if others := [name for name in runs if name not in own]:
        one, other = next(iter(own)), others[0]
        raise UserError(
            f"{one} and {other} are of different verticals: {runs[one]} has pictures of its own (images.vertical: "
            f"{_folder(runs[one])}), and {runs[other]} was trained on a corpus; say what both are to be asked: "
            "--questions DIR"
        )
    given = {name: _samples(name, run) for name, run in own.items()}
    (first, samples), *rest = given.items()
    for name, theirs in rest:
        pictures = {sha for sample in theirs for sha in sample.images}
        samples = [sample for sample in samples if pictures.issuperset(sample.images)]
        if not samples:
            raise UserError(
                f"{own[first]} and {own[name]} hold out no picture in common, so that each may be trained on what the "
                "other one is asked; say what both are to be asked: --questions DIR"
            )
    return HeldOut(samples, ImageStore(own[first] / "image-store"))


def _run(model: Path) -> Path | None:
    """The run directory that a model lies in, if any."""
    place = model.absolute()
    return next((one for one in (place, *list(place.parents)[:2]) if (one / "run.json").is_file()), None)


def _folder(run: Path) -> str | None:
    """The folder of pictures that is a run's vertical; None for a corpus."""
    told: Any = read_json(run / "run.json") or {}
    vertical = told.get("recipe", {}).get("images", {}).get("vertical", CORPUS)
    return None if str(vertical).startswith(CORPUS) else str(vertical)


def _samples(name: str, run: Path) -> list[Sample]:
    path = run / "held_out" / "samples.parquet"
    if not path.is_file():
        raise UserError(
            f"{name}: {run} was trained on pictures of its own ({_folder(run)}), and holds none of them out "
            "(data.hygiene.test); say what it is to be asked: --questions DIR"
        )
    return read_samples(path)


def of_set(folder: Path, count: int, seed: int) -> list[Asked]:
    """`count` samples of an import or a run, in a seeded order: what comes up to the user's last turn. Raises UserError
    for a folder without samples, and where none asks anything."""
    path, store = located(folder)
    chosen = [sample for sample in iter_samples(path) if any(message.role == "user" for message in sample.messages)]
    if not chosen:
        raise UserError(f"{path}: no sample in it asks anything")
    random.Random(f"versus/{seed}").shuffle(chosen)
    return [_of_sample(sample, store) for sample in chosen[:count]]


def _asked(question: Question) -> Asked:
    return Asked(question.id, question.suite, question.language, question.messages, question.images)


def _of_sample(sample: Sample, store: ImageStore) -> Asked:
    last = max(place for place, message in enumerate(sample.messages) if message.role == "user")
    messages = sample.messages[: last + 1]
    needed = max((place for message in messages for part in message.content for place in part.shows), default=-1) + 1
    try:
        images = [store.get(sha) for sha in sample.images[:needed]]
    except ImageError as error:
        raise UserError(str(error)) from None
    return Asked(sample.id, sample.task, sample.language, messages, images)
