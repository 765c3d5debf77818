"""The questions of a comparison: the evaluation's own, or a user's set of samples."""

from __future__ import annotations

import random
from pathlib import Path

from open4ov.errors import UserError
from open4ov.evaluate import bias, items
from open4ov.evaluate.items import Question
from open4ov.evaluate.versus.pairs import Asked
from open4ov.formats.convert import located
from open4ov.sample import Sample
from open4ov.store import ImageError, ImageStore, iter_samples


def built_in(count: int, seed: int) -> list[Asked]:
    """`count` questions, drawn in turn from the suites on general ability, the vertical, text and reasoning."""
    suites = len(items.GENERAL) + len(items.TEXT) + 3
    each = -(-count // suites)
    found = [
        question for task in (*items.GENERAL, *items.TEXT, "reasoning") for question in items.general(task, each, seed)
    ]
    found += [question for language in ("en", "zh") for question in items.vertical(language, each, seed)]
    return [_asked(question) for question in bias.spread(found, count, f"versus/{seed}")]


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
