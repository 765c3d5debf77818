"""The recipe's questions put to a folder's annotations (`images.questions`): more `qa` for each picture.

The answer is what the annotation has under the key that the recipe names, and the wording is drawn by the picture's
content, so that a renamed file is asked the same. Nothing is made up: a picture whose annotation lacks the key is not
asked that question, and is listed.
"""

from __future__ import annotations

import hashlib
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, cast

from open4ov.annotation import texts
from open4ov.data.labels import LabelTree
from open4ov.errors import UserError, nearest
from open4ov.recipe import DataSection
from open4ov.recipe_images import Language, QuestionSection
from open4ov.sample import Sample

SHOWN = 12
"""Keys of annotations that an error lists"""


def asked(
    images: Iterable[Sample], questions: Sequence[QuestionSection], skipped: list[dict[str, str]]
) -> list[Sample]:
    """The images with the entries in `qa`, after those that their annotations bring. Images without an annotation stay
    as they are.

    Raises `UserError` for a key that no annotation has, or where `qa` is no list.
    """
    if not questions:
        return list(images)
    found: list[Sample] = []
    lacking: Counter[tuple[int, str]] = Counter()
    there: Counter[str] = Counter()
    annotated = 0
    for image in images:
        if not image.scene:
            found.append(image)
            continue
        annotated += 1
        there.update(list(image.scene))
        made, missing = _entries(image, questions)
        for place, key in missing.items():
            lacking[place, key] += 1
            what = f"its annotation has no '{key}', so that '{questions[place].task}' is not asked"
            skipped.append({"file": str(image.extra.get("file", image.id)), "reason": what})
        own: Any = image.scene.get("qa", [])
        if not isinstance(own, list):
            raise UserError(f"images: the `qa` of {image.extra.get('file', image.id)} is no list of questions")
        scene = {**image.scene, "qa": [*cast("list[Any]", own), *made]}
        found.append(image.model_copy(update={"scene": scene}))
    _check(questions, lacking, there, annotated, len(found))
    return found


def check_tasks(questions: Sequence[QuestionSection], data: DataSection, tree: LabelTree) -> None:
    """Raises `UserError` for a task that no ability label knows, where the catalog ranks labels (by tags)."""
    name = data.roles.get("rank") or data.roles.get("default") or "default"
    if (one := data.providers.get(name)) is None or one.kind != "catalog":
        return
    tags = [tag for l1 in tree.axis("ability") for l2 in l1.l2 for tag in l2.tags if tag.startswith("task:")]
    known = {tag.removeprefix("task:").partition("/")[0] for tag in tags}
    for place, question in enumerate(questions):
        if question.task not in known:
            raise UserError(
                f"images.questions.{place}.task: no ability label has the tag 'task:{question.task}', by which the "
                f"catalog knows what a question is for{nearest(question.task, known)} Or add a label with it "
                "(data.labels.ability)"
            )


def _check(
    questions: Sequence[QuestionSection],
    lacking: Counter[tuple[int, str]],
    there: Counter[str],
    annotated: int,
    images: int,
) -> None:
    if not annotated:
        raise UserError(
            f"images.questions: none of the {images} pictures has an annotation (NAME.json beside NAME.png), out of "
            "which the answers are taken; write annotations, or remove images.questions and name an endpoint that "
            "writes questions (data.providers)"
        )
    for (place, key), count in lacking.items():
        if count == annotated:
            common = sorted(there, key=lambda name: (-there[name], name))[:SHOWN]
            raise UserError(
                f"images.questions.{place} ('{questions[place].task}'): none of the {annotated} annotations has the "
                f"key '{key}' with a text in it{nearest(key, there)}. They have "
                f"{', '.join(f'{name} ({there[name]})' for name in common)}"
            )


def _entries(image: Sample, questions: Sequence[QuestionSection]) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """(the entries of `qa`, place of a question that is not asked -> the key that is missing)."""
    scene = image.scene or {}
    made: list[dict[str, Any]] = []
    missing: dict[int, str] = {}
    for place, one in enumerate(questions):
        for language in sorted(one.ask):
            key = one.key("answer", language)
            assert key is not None, "the recipe was checked"
            answer = _text(scene, key, language)
            if not answer:
                missing.setdefault(place, key)
                continue
            response = answer
            if (pattern := one.said(language)) is not None:
                needed = [field for _, field, _, _ in string.Formatter().parse(pattern) if field]
                values = {field: _text(scene, field, language) for field in needed}
                if empty := next((field for field, value in values.items() if not value), None):
                    missing.setdefault(place, empty)
                    continue
                response = "".join(
                    text + (values[field] if field else "") for text, field, _, _ in string.Formatter().parse(pattern)
                )
            made.append(
                {
                    "task": one.task,
                    "language": language,
                    "question": _wording(one.ask[language], image.images[0], one.task, language),
                    "answer": answer,
                    "aliases": _aliases(scene, one.key("aliases", language), language),
                    "response": response,
                    "rule": one.rule,
                }
            )
    return made, missing


def _text(scene: dict[str, Any], key: str, language: Language) -> str:
    return texts(scene.get(key), language)[0].strip()


def _aliases(scene: dict[str, Any], key: str | None, language: Language) -> list[str]:
    held = scene.get(key) if key else None
    given = cast("list[Any]", held) if isinstance(held, list) else [held]
    return [text for one in given if (text := texts(one, language)[0].strip())]


def _wording(wordings: Sequence[str], sha: str, task: str, language: Language) -> str:
    digest = hashlib.blake2b(f"{sha}/{task}/{language}".encode(), digest_size=4).digest()
    return wordings[int.from_bytes(digest) % len(wordings)]
