"""Stage `held_out`: the vertical's suites of a run whose pictures are the user's own folder (paper §6).

What is asked are the samples of split `test`: pictures that construction set aside by their content
(`data.hygiene.test`; with `data.hygiene.groups` whole patients, vehicles, symbols), so that a renamed file stays where
it was. They are taken before anything is trained, so that too few are found at once. Their references are as good as
the data: the annotations' where they answer (`images.questions`, `qa`), else what a model wrote and judges let through.

    samples.parquet     the held-out samples, one question each, in a fixed order: any first few are a fair draw
    held_out.json       by language: questions, pictures, tasks; and what was left out
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import Image

from open4ov.errors import UserError
from open4ov.evaluate.items import Question
from open4ov.evaluate.metrics import RULES
from open4ov.picture_groups import names
from open4ov.recipe import Recipe
from open4ov.sample import Sample
from open4ov.store import iter_samples, read_samples, write_json, write_samples

if TYPE_CHECKING:
    from open4ov.graph import StageRun

LANGUAGES = ("en", "zh")
SENTENCE = {"en": 4, "zh": 8}
"""Words (en) or characters (zh) from which an answer without a rule of its own is compared as a sentence"""
OTHERS = 64
"""Most answers about other pictures that a sentence is held against"""


def run(run: StageRun) -> None:
    """Raises UserError for too few questions in a language of the data."""
    data = run.inputs["data"]
    held: list[Sample] = []
    trained: set[str] = set()
    answers: dict[tuple[str, str], dict[str, None]] = {}
    for sample in iter_samples(data / "samples.parquet"):
        if sample.split == "test":
            held.append(sample)
        else:
            trained.update(names(sample))
        if sample.answer:
            answers.setdefault((sample.task, sample.language), {})[sample.answer] = None
    for sample in iter_samples(data / "general.parquet"):
        if sample.split != "test":
            trained.update(names(sample))
    asked, left_out = _askable(held, trained)
    told = {language: _told([s for s in asked if s.language == language]) for language in LANGUAGES}
    _enough(told, run.recipe, len(held), left_out)
    ordered = [sample for language in LANGUAGES for sample in in_turn(asked, language, run.seed)]
    write_samples(run.out / "samples.parquet", [_with_others(sample, answers) for sample in ordered])
    summary = {language: row for language, row in told.items() if row["questions"]}
    write_json(run.out / "held_out.json", {**summary, "left_out": left_out})
    write_json(
        run.out / "summary.json", {f"{language} questions": row["questions"] for language, row in summary.items()}
    )
    if shared := left_out.get(_SHARED):
        run.note(f"{shared} held-out questions have a picture that is trained on, and are not asked")


_SHARED = "a picture that is trained on"


def _askable(held: Sequence[Sample], trained: set[str]) -> tuple[list[Sample], dict[str, int]]:
    """(what can be asked, why the others cannot -> how many)."""
    left_out: Counter[str] = Counter()
    found: list[Sample] = []
    for sample in held:
        if not trained.isdisjoint(names(sample)):
            left_out[_SHARED] += 1
        elif not sample.answer or not sample.answer.strip():
            left_out["no reference answer"] += 1
        elif len(sample.messages) < 2 or sample.messages[-1].role != "assistant" or not sample.images:
            left_out["no picture, or no question with an answer at the end"] += 1
        else:
            found.append(sample)
    return found, dict(left_out)


def _told(samples: Sequence[Sample]) -> dict[str, Any]:
    pictures = {sha for sample in samples for sha in sample.images}
    tasks = Counter(sample.task for sample in samples)
    return {"questions": len(samples), "pictures": len(pictures), "tasks": dict(sorted(tasks.items()))}


def _enough(told: Mapping[str, Mapping[str, Any]], recipe: Recipe, held: int, left_out: Mapping[str, int]) -> None:
    least, share = recipe.evaluate.min_items, recipe.data.hygiene.test
    present = [language for language, row in told.items() if row["questions"]]
    few = [language for language in present or recipe.data.languages if told[language]["questions"] < least]
    if not few:
        return
    counts = ", ".join(f"{told[one]['questions']} in {one} about {told[one]['pictures']} pictures" for one in few)
    why = f" ({'; '.join(f'{count} have {reason}' for reason, count in left_out.items())})" if left_out else ""
    raise UserError(
        f"held_out: too few questions are held out to tell models apart: {counts}, where evaluate.min_items is "
        f"{least}. {held} samples are of split test{why}. Bring more pictures; or raise data.hygiene.test (now "
        f"{share:g}), with smaller data.hygiene.groups, if any; or ask more of each picture (images.questions, "
        "data.min_pairs); or lower evaluate.min_items, for wider intervals"
    )


def in_turn(samples: Iterable[Sample], language: str, seed: int) -> list[Sample]:
    """The language's samples, every picture once before any comes again, tasks in turn."""
    mine = sorted((sample for sample in samples if sample.language == language), key=lambda sample: sample.id)
    random.Random(f"held out/{language}/{seed}").shuffle(mine)
    by_picture: dict[tuple[str, ...], dict[str, list[Sample]]] = {}
    for sample in mine:
        by_picture.setdefault(tuple(sample.images), {}).setdefault(sample.task, []).append(sample)
    tasks = sorted({sample.task for sample in mine})
    order: list[Sample] = []
    place = 0
    while by_picture:
        for picture in list(by_picture):
            left = by_picture[picture]
            wanted = [tasks[(place + turn) % len(tasks)] for turn in range(len(tasks))]
            task = next(name for name in wanted if name in left)
            place = (tasks.index(task) + 1) % len(tasks)
            order.append(left[task].pop())
            if not left[task]:
                del left[task]
            if not left:
                del by_picture[picture]
    return order


def _with_others(sample: Sample, answers: Mapping[tuple[str, str], Mapping[str, None]]) -> Sample:
    """The sample with its scoring rule, and for a sentence with what is answered about other pictures."""
    rule = _rule(sample)
    others: list[str] = []
    if rule == "sentence":
        right = {sample.answer, *sample.aliases}
        others = [one for one in answers.get((sample.task, sample.language), {}) if one not in right]
        if len(others) > OTHERS:
            others = random.Random(f"others/{sample.id}").sample(others, OTHERS)
    return sample.model_copy(update={"extra": {**sample.extra, "asked": {"rule": rule, "others": others}}})


def _rule(sample: Sample) -> str:
    """Of an annotation's question its own rule; else a sentence is compared as one, and anything shorter exactly."""
    about = cast("dict[str, Any]", sample.extra.get("annotation") or {})
    held: Any = (sample.scene or {}).get("qa")
    entries = cast("list[Any]", held) if isinstance(held, list) else []
    number = about.get("qa")
    if isinstance(number, int) and number < len(entries) and isinstance(entries[number], dict):
        rule = cast("dict[str, Any]", entries[number]).get("rule")
        if rule in RULES:
            return str(rule)
    answer = sample.answer or ""
    size = len(answer.replace(" ", "")) if sample.language == "zh" else len(answer.split())
    return "sentence" if size > SENTENCE[sample.language] else "exact"


def suite(language: str) -> str:
    """The suite of a language's questions."""
    return f"vertical_{language}"


def questions(folder: Path, count: int, picture: Callable[[str], Image.Image]) -> tuple[Question, ...]:
    """The first `count` of each language, as they are asked. `folder`: the stage's; `picture`: an image by digest."""
    return as_asked(read_samples(folder / "samples.parquet"), count, picture)


def as_asked(every: Sequence[Sample], count: int, picture: Callable[[str], Image.Image]) -> tuple[Question, ...]:
    """As `questions`, of samples that the stage has written."""
    found: list[Question] = []
    for language in LANGUAGES:
        for sample in [one for one in every if one.language == language][:count]:
            assert sample.answer is not None
            about = sample.extra["asked"]
            found.append(
                Question(
                    id=f"{suite(language)}/{sample.id}",
                    suite=suite(language),
                    task=sample.task,
                    language=language,
                    messages=tuple(sample.messages[:-1]),
                    images=tuple(picture(sha) for sha in sample.images),
                    answers=(sample.answer, *sample.aliases),
                    rule=about["rule"],
                    others=tuple(about["others"]),
                    with_picture=about["rule"],
                )
            )
    return tuple(found)
