"""What preference samples are made of: single questions, about one picture or without any, each asked once.

Where the given samples hold few questions without a picture, or none in one language, some are derived: the sums and
instructions of the shipped corpora are asked in Chinese too, and what an annotation knows of a thing is asked by its
name (`scene["names"]` beside `meaning`, `severity` or `action`, each {"en": ..., "zh": ...}).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from open4ov.answers import INSTRUCTION, normalise, plainly
from open4ov.corpora import in_chinese
from open4ov.sample import Sample, assistant, content_id, user

LANGUAGES = ("en", "zh")
BOXABLE = 4
"""Most words (or eight times as many Chinese characters) of an answer that is asked for in a box."""
_SHOWS = re.compile(
    r"\b(?:picture|image|photo|shown|drawing|screenshot)\b|[图照]片|图中|图里|这张图|画面", re.IGNORECASE
)

Group = list[Sample]


@dataclass
class Pool:
    """`pictures[language]`: the questions about each picture; `texts[language]`: those without one, `named[language]`:
    those of them that ask for one thing by its name, together. `left_out`: what was not taken, by reason."""

    pictures: dict[str, list[Group]] = field(default_factory=lambda: {name: [] for name in LANGUAGES})
    texts: dict[str, Group] = field(default_factory=lambda: {name: [] for name in LANGUAGES})
    named: dict[str, list[Group]] = field(default_factory=lambda: {name: [] for name in LANGUAGES})
    left_out: Counter[str] = field(default_factory=Counter[str])


@dataclass(frozen=True)
class Turn:
    """One question and its response, as it will stand in a conversation; `boxed`: whether it asks for a box."""

    sample: Sample
    question: str
    response: str
    boxed: bool


def gather(samples: Sequence[Sample]) -> Pool:
    """The usable samples; of a conversation its first question. Left out, and counted: several pictures, an empty
    answer or response, a question that is there already, and all of those that are answered in two ways, of which one
    must be wrong."""
    pool = Pool()
    usable: dict[tuple[str, ...], Sample] = {}
    contradictory: set[tuple[str, ...]] = set()
    for given in samples:
        sample = _first(given)
        fault = _fault(sample)
        if fault:
            pool.left_out[fault] += 1
            continue
        key = (*sample.images, _plain(sample.messages[0].text))
        first = usable.setdefault(key, sample)
        if first is sample:
            continue
        pool.left_out["a question that is there already"] += 1
        if not _agree(first, sample):
            contradictory.add(key)
    for key in contradictory:
        del usable[key]
        pool.left_out["answered in two ways"] += 1
    about: dict[tuple[str, ...], Group] = {}
    for sample in usable.values():
        if sample.images:
            about.setdefault((sample.language, *sample.images), []).append(sample)
        else:
            pool.texts[sample.language].append(sample)
    for key in sorted(about):
        pool.pictures[key[0]].append(about[key])
    _derive(pool, usable.values())
    return pool


def turns(sample: Sample) -> list[Turn]:
    """The sample as it is, and the other way about a box: with the instruction to give a short answer in one, or
    without it and then with the bare answer."""
    question, response, answer = sample.messages[0].text, sample.messages[1].text, sample.answer
    asked = "\\boxed" in question
    found = [Turn(sample, question, response, asked)]
    bare = plainly(question)
    if asked:
        if bare and answer:
            found.append(Turn(sample, bare, answer, False))
    elif answer and "\n" not in question and _short(answer):
        space = "" if sample.language == "zh" else " "
        found.append(Turn(sample, question + space + INSTRUCTION[sample.language], f"\\boxed{{{answer}}}", True))
    return found


def _short(answer: str) -> bool:
    fits = len(answer.split()) <= BOXABLE and len(answer) <= 8 * BOXABLE
    return fits and not set(answer) & set("\n{}\\") and answer[-1] not in ".。!！?？"


def thing(sample: Sample) -> str | None:
    """What a picture or a question is about, where its annotation has a name for it: two of one thing are no
    unrelated pair."""
    names = (sample.scene or {}).get("names")
    if isinstance(names, dict):
        one = next(iter(cast("dict[str, Any]", names).values()), None)
        return str(one)
    return None


def _first(sample: Sample) -> Sample:
    """The first question and response of a conversation: what needs nothing that was said before."""
    if [m.role for m in sample.messages[:3]] != ["user", "assistant", "user"]:
        return sample
    changes = {"messages": sample.messages[:2], "answer": None, "aliases": [], "lineage": [sample.id]}
    return sample.model_copy(update={"id": content_id("first question", sample.id), **changes})


def _fault(sample: Sample) -> str | None:
    if [m.role for m in sample.messages] != ["user", "assistant"]:
        return "not a single question with a response"
    if len(sample.images) > 1 or any(part.type == "video" for part in sample.messages[0].content):
        return "several pictures, or a video"
    if not sample.messages[0].text.strip() or not sample.messages[1].text.strip():
        return "an empty question or response"
    if sample.answer is not None and not sample.answer.strip():
        return "an empty answer"
    shows = sum(part.type == "image" for part in sample.messages[0].content)
    if shows != len(sample.images):
        return "a picture that is not shown once"
    if not sample.images and _SHOWS.search(sample.messages[0].text):
        return "speaks of a picture and has none"
    return None


def _plain(question: str) -> str:
    return normalise(question)


def _agree(one: Sample, other: Sample) -> bool:
    if one.answer is None or other.answer is None:
        return normalise(one.messages[1].text) == normalise(other.messages[1].text)
    given = [{normalise(text) for text in (s.answer or "", *s.aliases)} for s in (one, other)]
    return normalise(one.answer) in given[1] or normalise(other.answer) in given[0]


def _derive(pool: Pool, samples: Iterable[Sample]) -> None:
    """Questions without a picture that follow from the samples' annotations."""
    there = {_plain(s.messages[0].text) for texts in pool.texts.values() for s in texts}
    seen: dict[str, dict[str, Group]] = {}
    for sample in samples:
        if sample.scene is None:
            continue
        if not sample.images:
            made = _translated(sample)
            if made is not None and _plain(made.messages[0].text) not in there:
                there.add(_plain(made.messages[0].text))
                pool.texts["zh"].append(made)
            continue
        name = thing(sample)
        if name is not None and name not in seen:
            seen[name] = {language: _named(sample, language) for language in LANGUAGES}
            for language, group in seen[name].items():
                fresh = [s for s in group if _plain(s.messages[0].text) not in there]
                there |= {_plain(s.messages[0].text) for s in fresh}
                if fresh:
                    pool.texts[language] += fresh
                    pool.named[language].append(fresh)


def _translated(sample: Sample) -> Sample | None:
    """A sum or instruction of the shipped corpora in Chinese."""
    scene = sample.scene or {}
    if sample.language != "en" or scene.get("kind") != "none":
        return None
    qa = in_chinese.ask(scene, random.Random(f"in chinese {sample.id}"))
    return None if qa is None else _text(sample, "zh", qa.task, qa.question, qa.answer, qa.response)


_ASKED: dict[str, dict[str, tuple[str, str, str]]] = {
    "en": {
        "tell_tale": (
            'What does the dashboard symbol "{}" mean?',
            'How urgent is the dashboard symbol "{}"?',
            'What should I do when "{}" lights up?',
        ),
        "road_sign": (
            'What does the road sign "{}" mean?',
            'What kind of road sign is "{}"?',
            'What should I do at the road sign "{}"?',
        ),
        "": ('What does "{}" mean?', 'How serious is "{}"?', 'What should I do about "{}"?'),
    },
    "zh": {
        "tell_tale": ("仪表符号“{}”是什么意思？", "仪表符号“{}”有多紧急？", "“{}”亮起时我该怎么办？"),
        "road_sign": ("路牌“{}”是什么意思？", "路牌“{}”属于哪一类？", "看到路牌“{}”该怎么办？"),
        "": ("“{}”是什么意思？", "“{}”有多严重？", "遇到“{}”该怎么办？"),
    },
}


def _named(sample: Sample, language: str) -> Group:
    """What the annotation knows of the thing, asked by its name, without the picture."""
    scene = sample.scene or {}
    names = scene["names"].get(language) if isinstance(scene.get("names"), dict) else None
    if not names:
        return []
    kind = str(scene.get("symbol_kind", ""))
    asked = _ASKED[language].get(kind, _ASKED[language][""])
    made: Group = []
    for field_name, question in zip(("meaning", "severity", "action"), asked, strict=True):
        told = scene.get(field_name)
        answer = cast("dict[str, Any]", told).get(language) if isinstance(told, dict) else None
        if isinstance(answer, str) and answer.strip():
            made.append(_text(sample, language, f"{sample.source}_{field_name}", question.format(names[0]), answer))
    return made


def _text(sample: Sample, language: str, task: str, question: str, answer: str, response: str = "") -> Sample:
    return Sample.model_validate(
        {
            "id": content_id("preference in words", sample.id, language, question),
            "source": sample.source,
            "split": sample.split,
            "task": task,
            "language": language,
            "messages": [user(question), assistant(response or answer)],
            "answer": answer,
            "labels": sample.labels,
            "scene": sample.scene,
            "lineage": [sample.id],
        }
    )
