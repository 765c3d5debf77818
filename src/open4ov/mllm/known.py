"""What an annotation can be asked: every question of a scene with its right answers, and the scene's tags.

Scenes of the shipped corpora are asked with the corpora's own question code; a scene under a user's image may carry
`qa`, a list of {question, answer} objects (with task, language, aliases, response if wished), which is then what is
known of it.
"""

from __future__ import annotations

import json
import random
from collections import OrderedDict
from functools import lru_cache
from typing import Any, cast

from open4ov import corpora
from open4ov.annotation import texts
from open4ov.corpora import QA, in_car
from open4ov.mllm.ask import AnswerError

DRAWS = 40  # of the corpora's question code; wordings are drawn at random, so this bounds how many are found

LATEST = 512  # scenes whose text is at hand

Known = dict[str, list[QA]]
"""Question → its right answers (more than one where the wording fits several facts)."""


def known(scene: dict[str, Any], language: str) -> Known:
    """Every question that the scene answers in a language. Raises `AnswerError` for a scene that cannot be read."""
    return _known(_text(scene), language, str(scene.get("split", "train")))


_texts: OrderedDict[int, tuple[dict[str, Any], str]] = OrderedDict()
"""The latest scenes, by what they are in memory, with their text: judges ask about the same one many times, and nobody
changes a scene that is asked about"""


def _text(scene: dict[str, Any]) -> str:
    """A scene without its split: what its questions depend on."""
    held = _texts.get(id(scene))
    if held is None or held[0] is not scene:
        bare = {key: value for key, value in scene.items() if key != "split"}
        held = _texts[id(scene)] = scene, json.dumps(bare, sort_keys=True, ensure_ascii=False)
        if len(_texts) > LATEST:
            _texts.popitem(last=False)
    return held[1]


@lru_cache(maxsize=8192)
def _known(text: str, language: str, split: str) -> Known:
    scene: dict[str, Any] = {**json.loads(text), "split": split}
    found: dict[tuple[str, str, str], QA] = {}
    try:
        if "qa" in scene:
            here = [entry for entry in scene["qa"] if entry.get("language", "en") == language]
            pairs = [qa for entry in here if (qa := _annotated(entry, language)).answer]
        else:
            ask = in_car.questions if scene.get("kind") == "in_car" else corpora.questions
            pairs = [
                qa for draw in range(DRAWS) for qa in ask(scene, random.Random(f"known/{draw}"), cast(Any, language))
            ]
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise AnswerError(
            f"the annotation is none that the catalog can read ({type(error).__name__}: {error}); it needs the fields "
            "of a shipped corpus, or a `qa` list; or use an endpoint"
        ) from None
    for qa in pairs:
        found.setdefault((qa.task, qa.question, qa.answer), qa)
    questions: Known = {}
    for qa in found.values():
        questions.setdefault(qa.question, []).append(qa)
    return questions


def _annotated(entry: dict[str, Any], language: str) -> QA:
    answer, *also = texts(entry["answer"], language)
    return QA(
        str(entry.get("task", "annotated")),
        str(entry["question"]),
        answer,
        [*(texts(alias, language)[0] for alias in entry.get("aliases", [])), *also],
        texts(entry.get("response"), language)[0] or answer,
    )


def right(qa: QA, answer: str) -> bool:
    """Whether an answer is the reference or an alias, up to case, spaces and a final stop."""
    return plain(answer) in {plain(text) for text in (qa.answer, *qa.aliases)}


def plain(text: str) -> str:
    """A text without case, extra spaces and a final stop."""
    return " ".join(text.casefold().split()).rstrip(".。！!")


def tags(scene: dict[str, Any]) -> set[str]:
    """What label trees may refer to: kind:, category:, object: and task: (also task:NAME/CATEGORY) of a scene.

    Raises `AnswerError` as `known`.
    """
    found = {f"kind:{scene.get('kind', 'unknown')}"}
    kind = category(scene)
    if kind:
        found.add(f"category:{kind}")
    try:
        found |= {f"object:{thing['name']}" for thing in scene.get("objects", []) if "name" in thing}
    except TypeError:
        raise AnswerError("the annotation's `objects` is no list of objects, each with a name") from None
    for language in ("en", "zh"):
        for pairs in known(scene, language).values():
            found |= {tag for qa in pairs for tag in task_tags(qa, kind)}
    return found


def category(scene: dict[str, Any]) -> str | None:
    """The kind of thing that a scene shows: `symbol_kind` of the shipped corpora, `category` of a user's annotation."""
    found = scene.get("symbol_kind") or scene.get("category")
    return found if isinstance(found, str) else None


def task_tags(qa: QA, category: str | None) -> set[str]:
    """The tags task:NAME and task:NAME/CATEGORY of a question."""
    return {f"task:{qa.task}"} | ({f"task:{qa.task}/{category}"} if category else set())
