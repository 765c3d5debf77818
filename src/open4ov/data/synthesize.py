"""QA synthesis guided by topics, up to the image's budget (paper §2.2.4).

The candidate topics say what to ask, the information density how much at most. Types and languages are planned ahead,
so that they spread over the data (question_types.py). What an annotation says travels along in the prompt and stays in
`Sample.scene`; questions that it brings (`qa`) become samples word for word, linked by `extra["annotation"]`, beside
the budget of new ones.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from open4ov.annotation import texts
from open4ov.data.labels import LabelTree
from open4ov.data.language import answers_in, written_in
from open4ov.data.question_types import MEANING, misfit, plan
from open4ov.data.topics import Topic
from open4ov.data.wording import key
from open4ov.mllm.answers import Pairs
from open4ov.mllm.ask import Picture, Prompt, Request
from open4ov.mllm.embedding import embed_texts
from open4ov.mllm.weights import weigh
from open4ov.sample import Sample, Step, assistant, content_id, user

NEAR = 0.93
"""Cosine (embedded n-grams) from which two questions of one answer about one image count as the same. High, since one
other word may be what is asked for: "How many red dogs?" and "How many dogs?" have 0.89."""
NOT_AGAIN = "feedback: not to be used again"
"""Why a pair is left out that a feedback file wants made anew"""
_FILLING = frozenset(
    ["there", "image", "picture", "photo", "see", "you", "do", "doe", "can", "could", "show", "shown", "here",
     "visible", "please", "tell", "me"]
)  # fmt: skip
_FILLING_ZH = re.compile("请问|请|图片|图像|照片|图|这张|这个|这|中|里|上|的|表示|是|你|看到|能|一共|总共|有")


def annotation(scene: dict[str, Any] | None) -> str:
    """The scene as a prompt shows it; empty for an image without one."""
    return json.dumps(scene, ensure_ascii=False, sort_keys=True) if scene else ""


def languages_of(image: Sample, languages: Sequence[str], per_image: bool) -> list[str]:
    """The languages to ask about an image in: all, or with `per_image` the one of its annotation (`language`) if that
    is among them, else one drawn by the image."""
    if not per_image:
        return list(languages)
    named = str((image.scene or {}).get("language"))
    return [named] if named in languages else [languages[_turn(image.images[0]) % len(languages)]]


def request(
    picture: Picture,
    tree: LabelTree,
    topics: Sequence[Topic],
    budget: int,
    languages: Sequence[str],
    seed: int,
    wished: Mapping[str, Any] | None = None,
) -> Request:
    """Asks for up to `budget` question-answer pairs of a picture under its topics. `wished`: by `Wishes.asked`."""
    wished = wished or {}
    weights = wished.get("weights", ())
    planned = plan(topics, tree, budget, languages, _turn(picture.sha), lambda path, kind: weigh(weights, path, kind))
    values = {
        "topics": [{"path": topic.path, "tags": tree.tags(topic.labels())} for topic in topics],
        "plan": [{"topic": one.topic, "type": one.type, "language": one.language} for one in planned],
        "types": {name: text for name, text in MEANING.items() if any(one.type == name for one in planned)},
        "budget": budget,
        "languages": list(languages),
        "annotation": annotation(picture.scene),
        "annotated": [entry["question"] for _, entry in _entries(picture.scene)],
        "seed": seed,
        **wished,
    }
    return Request("synthesize", Prompt("synthesize", values), (picture,), Pairs)


def samples(
    image: Sample,
    topics: Sequence[tuple[Topic, float]],
    pairs: Sequence[dict[str, Any]],
    dropped: Counter[str] | None = None,
    barred: Collection[str] = (),
) -> list[Sample]:
    """One sample a pair, at most `image.budget` of them, then the annotation's own questions, each question once.

    `dropped` counts the pairs left out by reason: a topic that was not offered, an empty part, a wrong language, an
    answer that is none of its type, a near-duplicate, a contradiction of the annotation, beyond the budget. Questions
    of the annotation that cannot be used are counted as `annotated: ...`. `barred`: ids of samples that are not to be
    used again, nor what an annotation has from them.
    """
    dropped = Counter() if dropped is None else dropped
    offered = {topic.path: (topic, score) for topic, score in topics}
    entries = _entries(image.scene, dropped)
    linked: set[int] = set()
    made: dict[str, Sample] = {}
    asked: list[_Asked] = []
    for pair in pairs:
        why = _unusable(pair, offered)
        mine = _Asked(pair["question"], pair["answer"])
        number = next((n for n, entry in entries if _words(entry["question"]) == mine.words), None)
        if not why and number is not None and number not in linked:
            right = dict(entries)[number]
            if _words(pair["answer"]) not in {_words(text) for text in (right["answer"], *right["aliases"])}:
                why = "contradicts the annotation"
        if not why and any(mine.same(other) for other in asked):
            why = "near-duplicate question"
        if not why and len(made) >= (image.budget or 0):
            why = "beyond the budget"
        if why:
            dropped[why] += 1
            continue
        topic, score = offered[pair["topic"]]
        stripped = {name: pair[name].strip() for name in ("question", "answer", "response")}
        sample = _sample(image, topic, score, {**pair, **stripped})
        if sample.id in barred:
            dropped[NOT_AGAIN] += 1
            continue
        if number is not None:
            sample.extra["annotation"] = {"qa": number}
            linked.add(number)
        asked.append(mine)
        made.setdefault(sample.id, sample)
    for number, entry in entries:
        if number in linked:
            continue
        if not topics:
            dropped["annotated: no topic under the image's labels"] += 1
            continue
        topic, score = _nearest(entry, topics)
        sample = _sample(image, topic, score, entry)
        sample.extra["annotation"] = {"qa": number}
        if sample.id in barred or entry["sample"] in barred:
            dropped[NOT_AGAIN] += 1
            continue
        sample.steps = [*image.steps, Step(stage="annotation", note="question and answer are the annotation's own")]
        if sample.id in made:
            dropped["annotated: a question that is there already"] += 1
            continue
        made[sample.id] = sample
    return list(made.values())


def _unusable(pair: dict[str, Any], offered: dict[str, tuple[Topic, float]]) -> str:
    if pair["topic"] not in offered:
        return "topic not offered"
    if not all(pair[name].strip() for name in ("question", "answer", "response")):
        return "empty question, answer or response"
    if pair["type"]:  # from a model: the catalog's questions are as their corpus has them
        if (written_in(pair["question"]) or pair["language"]) != pair["language"]:
            return "question in another language"
        if not answers_in(pair["response"], pair["language"]):
            return "response in another language"
        return misfit(pair["type"], pair["answer"], pair["options"]) or ""
    return ""


def _sample(image: Sample, topic: Topic, score: float, pair: dict[str, Any]) -> Sample:
    question = pair["question"]
    if pair["options"]:
        letters = (f"{chr(65 + n)}. {option.strip()}" for n, option in enumerate(pair["options"]))
        question = "\n".join((question, *letters))
    sample = image.model_copy(update={"extra": dict(image.extra)})
    sample.id = content_id(image.id, question)
    sample.task = pair["task"]
    sample.language = pair["language"]
    sample.messages = [user(question, images=1), assistant(pair["response"])]
    sample.answer = pair["answer"]
    sample.aliases = pair["aliases"]
    sample.topics = [topic.path]
    sample.labels = topic.labels(round(score, 4))
    sample.lineage = [*image.lineage, image.id]
    if pair["type"]:
        sample.extra["type"] = pair["type"]
    if pair["options"]:
        sample.extra["options"] = list(pair["options"])
    return sample


class _Asked:
    """A question of an image, to be compared with the others."""

    def __init__(self, question: str, answer: str) -> None:
        self.text, self.words, self.answer = question, _words(question), _words(answer)
        bare = " ".join(word for word in key(question).split() if word not in _FILLING)
        self.key = _FILLING_ZH.sub("", bare)
        self.numbers = re.findall(r"\d+", question)

    def same(self, other: _Asked) -> bool:
        """The same words in the same order; or one answer, the same numbers, and the same words in any order or nearly
        the same."""
        if self.words == other.words:
            return True
        if self.answer != other.answer or self.numbers != other.numbers:
            return False
        if self.key == other.key:
            return True
        a, b = embed_texts([self.text, other.text])
        return float(a @ b) >= NEAR


def _entries(scene: dict[str, Any] | None, dropped: Counter[str] | None = None) -> list[tuple[int, dict[str, Any]]]:
    """The usable entries of an annotation's `qa` with their numbers, in the form of a pair; their text as it is.

    `dropped` counts the others by reason.
    """
    found: list[tuple[int, dict[str, Any]]] = []
    listed: Any = (scene or {}).get("qa", [])
    for number, entry in enumerate(cast("list[Any]", listed) if isinstance(listed, list) else [listed]):
        read = _entry(entry)
        if isinstance(read, dict):
            found.append((number, read))
        elif dropped is not None:
            dropped[f"annotated: {read}"] += 1
    return found


def _entry(entry: object) -> dict[str, Any] | str:
    """An annotation's question as a pair, or why it cannot be one."""
    if not isinstance(entry, dict):
        return "no object with a question and an answer"
    given = cast("dict[str, Any]", entry)
    question = given.get("question")
    if not isinstance(question, str) or not question.strip():
        return "no question"
    language = given.get("language") or written_in(question) or "en"
    if language not in ("en", "zh"):
        return "in a language other than en and zh"
    answer, *also = texts(given.get("answer"), language)
    if not answer.strip():
        return "no answer, or one that is neither text, number, true nor false"
    response, *_ = texts(given.get("response"), language)
    aliases = given.get("aliases")
    more = [texts(alias, language)[0] for alias in cast("list[Any]", aliases)] if isinstance(aliases, list) else []
    return {
        "task": str(given.get("task", "annotated")), "type": "", "options": [], "language": language,
        "question": question, "answer": answer, "response": response if response.strip() else answer,
        "aliases": [alias for alias in (*more, *also) if alias.strip()], "sample": given.get("sample"),
    }  # fmt: skip


def _nearest(entry: dict[str, Any], topics: Sequence[tuple[Topic, float]]) -> tuple[Topic, float]:
    rows = embed_texts([f"{entry['task']} {entry['question']}", *(topic.text for topic, _ in topics)])
    return topics[int((rows[1:] @ rows[0]).argmax())]


def _words(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" .?!。？！")


def _turn(sha: str) -> int:
    """A number that differs from image to image, the same each time."""
    return int.from_bytes(hashlib.blake2b(sha.encode(), digest_size=4).digest(), "big")
