"""The offline provider: answers from the annotations that ship with a corpus. No model is asked.

It can answer only about images whose scene is known, and says so for every other: unannotated images need an
endpoint. Its three judges rest on different evidence: `rules` on the annotation, `pixels` on matching the drawing
with the symbol library, `embedding` on the picture's nearest neighbours and the likeness of texts. The last two never
see the annotation, so an annotation that is wrong can be outvoted.
"""

from __future__ import annotations

import random
from collections import defaultdict
from functools import cached_property
from typing import Any

from open4ov.corpora import QA
from open4ov.mllm import rules
from open4ov.mllm.ask import AnswerError, Picture, Prompt, Request
from open4ov.mllm.embedding_judge import EmbeddingJudge
from open4ov.mllm.known import known, tags
from open4ov.mllm.library import Library, library
from open4ov.mllm.pixels import Seen
from open4ov.mllm.retrieval import Neighbours
from open4ov.mllm.weights import due, weigh
from open4ov.sample import content_id

OTHERS = "Others"
LOOKS = 16384
"""Pictures of which it is kept what was seen in them"""
NO_SCENE = (
    "the image has no annotation: the catalog answers from annotations only; unannotated images need an endpoint "
    "(data.providers with kind: openai)"
)
_EVIDENCE = {"judge_1": "rules", "judge_2": "pixels", "judge_3": "embedding"}


class CatalogProvider:
    """Single-threaded; what it finds out about the last pictures is kept."""

    concurrency = 1
    offline = True
    """Reads no prompt: roles that need a model are not its own (`Asker.require_model`)"""

    def __init__(self) -> None:
        self._looks: dict[str, tuple[Seen, Neighbours | None]] = {}  # the last ones; in the order of their first look

    def identity(self, role: str) -> str:
        return _EVIDENCE.get(role, "catalog")

    def answer(self, request: Request) -> dict[str, Any]:
        prompt = request.prompt
        match request.role:
            case "topics":
                return {"topics": _topics(prompt)}
            case "rank":
                return _rank(_scene(request), prompt.values["labels"])
            case "density":
                return _density(_scene(request))
            case "synthesize":
                return {"pairs": _pairs(_scene(request), request.images[0].sha, prompt.values)}
            case "verify":
                return _worst([rules.verify(_scene(request), values) for values in _turns(request)])
            case "rl_pool":
                score, reason = rules.task(_known_scene(request), prompt.values)
                return {"score": score, "reason": reason}
            case "judge_1" | "judge_2" | "judge_3":
                score, reason = self._vote(request)
                return {"score": score, "reason": reason}
            case role:
                raise AnswerError(f"the catalog does not play the role {role!r}")

    def _vote(self, request: Request) -> rules.Verdict:
        """A judge's verdict; on a conversation, no if it says no to a turn, and yes only if it does to all of them."""
        if len(request.images) != 1:
            return None, "the catalog knows single images only"
        found = [self._verdict(request.role, request.images[0], values) for values in _turns(request)]
        for wanted in (0, None):
            for number, (score, reason) in enumerate(found, start=1):
                if score == wanted:
                    return score, reason if len(found) == 1 else f"turn {number}: {reason}"
        return found[0]

    def _verdict(self, role: str, picture: Picture, values: dict[str, Any]) -> rules.Verdict:
        if role == "judge_2":
            return self._by_pixels(picture, values)
        if role == "judge_3":
            return self._embedding.vote(self._look(picture)[1], values)
        if picture.scene is None:
            return None, "the image has no annotation"
        return rules.judge(picture.scene, values, "the annotation", abilities=True)

    def _by_pixels(self, picture: Picture, values: dict[str, Any]) -> rules.Verdict:
        seen, _ = self._look(picture)
        if seen.symbol is None:
            return None, "the pixels match no symbol of the library clearly"
        scene = self._library.scenes[seen.symbol]
        if seen.colour is not None and seen.colour != scene["colour"]:
            return None, f"the shape is {seen.symbol}'s but the colour is {seen.colour}"
        return rules.judge(scene, values, "the pixels", abilities=False)

    def _look(self, picture: Picture) -> tuple[Seen, Neighbours | None]:
        """What both judges see of a picture: its pixels, loaded once; never its annotation."""
        if picture.sha not in self._looks:
            image = picture.image
            if len(self._looks) >= LOOKS:
                del self._looks[next(iter(self._looks))]
            self._looks[picture.sha] = self._library.pixels.look(image), self._library.index.nearest(image)
        return self._looks[picture.sha]

    @cached_property
    def _library(self) -> Library:
        return library()

    @cached_property
    def _embedding(self) -> EmbeddingJudge:
        return EmbeddingJudge(self._library)


def _turns(request: Request) -> list[dict[str, Any]]:
    """What is asked of a judge or a verifier: a conversation's turns one by one, or the one question."""
    return request.prompt.values.get("turns") or [request.prompt.values]


def _worst(found: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Of each dimension the first turn that fails it, or the first turn."""
    return {name: next((one[name] for one in found if not one[name]["ok"]), found[0][name]) for name in found[0]}


def _scene(request: Request) -> dict[str, Any]:
    if len(request.images) != 1:
        raise AnswerError("the catalog knows single images only; a conversation about several needs an endpoint")
    scene = request.images[0].scene
    if not scene:
        raise AnswerError(NO_SCENE)
    return scene


def _known_scene(request: Request) -> dict[str, Any] | None:
    """Of the one picture, or of a question without one; None where nothing is known."""
    if len(request.images) > 1:
        return None
    return request.images[0].scene if request.images else request.prompt.values.get("scene")


def _topics(prompt: Prompt) -> list[str]:
    """The ability's templates over the domain's things."""
    domain, ability = prompt.values["domain"], prompt.values["ability"]
    return [pattern.replace("{thing}", thing) for thing in domain["things"] for pattern in ability["patterns"]]


def _rank(scene: dict[str, Any], labels: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Labels by how many of their L2 labels share a tag with the scene; none shared puts a label below Others."""
    there = tags(scene)
    ranking: dict[str, Any] = {"description": _description(scene)}
    for axis, entries in labels.items():
        shared = {entry["name"]: sum(bool(there & set(l2)) for l2 in entry["tags"]) for entry in entries}
        order = sorted(shared, key=lambda name: -shared[name])
        above = sum(count > 0 for count in shared.values())
        ranking[axis] = [*order[:above], OTHERS, *order[above:]]
    return ranking


def _description(scene: dict[str, Any]) -> str:
    if scene.get("kind") == "in_car":
        what = "Dashboard tell-tale light" if scene["symbol_kind"] == "tell_tale" else "Road sign"
        names = ", ".join(scene["names"]["en"])
        kind, asked = ("light", "urgency") if scene["symbol_kind"] == "tell_tale" else ("sign", "sorting by kind")
        severity = f"{scene['severity']['en']} {kind}"
        return f"{what}: {names}. {severity}. {scene['meaning']['en']} Naming, meaning, {asked}, what to do about it."
    objects = ", ".join(
        f"{thing.get('colour', '')} {thing.get('name', '')}".strip() for thing in scene.get("objects", [])
    )
    text = " ".join(str(line) for line in scene.get("lines", []))
    asked = sorted({qa.task for pairs in known(scene, "en").values() for qa in pairs})
    if "qa" in scene:  # a user's annotation
        told = ", ".join(text for key in ("name", "title", "category") if isinstance(text := scene.get(key), str))
        return f"{told or scene.get('kind', 'picture')}. {objects} {text} To ask: {', '.join(asked)}."
    return f"{scene.get('kind', 'picture')} of {objects or text or 'values'} {text}. To ask: {', '.join(asked)}."


def _density(scene: dict[str, Any]) -> dict[str, float]:
    """Subjects: kinds and colours of objects; space: objects beside others; OCR: characters shown; knowledge: words of
    the facts that the picture alone does not show. Each saturates at 1."""
    objects = scene.get("objects", [])
    kinds = {thing.get("name") for thing in objects} | {thing["colour"] for thing in objects if "colour" in thing}
    text = "".join(str(part) for key in ("lines", "labels", "values") for part in scene.get(key, []))
    text += "".join(str(thing["name"]) for thing in objects if thing.get("type") == "character")
    facts = " ".join(
        str(scene[key]["en"]) for key in ("meaning", "action", "names") if isinstance(scene.get(key), dict)
    )
    return {
        "subjects": min(1.0, len(kinds) / 8),
        "space": min(1.0, max(0, len(objects) - 1) / 8),
        "ocr": min(1.0, len(text) / 12),
        "knowledge": min(1.0, len(facts.split()) / 40),
    }


def _pairs(scene: dict[str, Any], sha: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Up to the budget: the kinds of question that fit a topic in turn, their order, wording and language drawn anew
    for each image. `weights`, where given: a kind has turns in proportion to its weight, and topics are drawn by
    theirs; of `barred` samples (by their ids) the questions are not asked."""
    rng = random.Random(f"synthesize/{values['seed']}/{sha}")
    kinds: dict[tuple[str, str], list[tuple[str, QA, list[str]]]] = defaultdict(list)
    for language in values["languages"]:
        for pairs in known(scene, language).values():
            for qa in pairs:
                fitting = [topic["path"] for topic in values["topics"] if rules.fits(qa, scene, topic["tags"])]
                if fitting:
                    kinds[qa.task, language].append((language, qa, fitting))
    order = sorted(kinds)
    rng.shuffle(order)
    for key in order:
        rng.shuffle(kinds[key])
    wished, barred = values.get("weights", ()), frozenset(values.get("barred", ()))
    shares = {key: _weight(wished, key[0], kinds[key]) for key in order}
    turns, places = dict.fromkeys(order, 0), {key: place for place, key in enumerate(order)}
    made: list[dict[str, Any]] = []
    asked: set[str] = set()
    while len(made) < values["budget"] and (left := [key for key in order if kinds[key]]):
        key = min(left, key=lambda key: due(shares[key], turns[key], places[key], len(order)))
        turns[key] += 1
        language, qa, fitting = kinds[key].pop()
        if qa.question in asked or (barred and content_id(values["image"], qa.question) in barred):
            continue
        asked.add(qa.question)
        topic = rng.choice(fitting)
        if wished:
            (topic,) = rng.choices(fitting, [weigh(wished, path, qa.task) for path in fitting])
        made.append({
            "topic": topic, "task": qa.task, "language": language, "question": qa.question,
            "answer": qa.answer, "aliases": list(qa.aliases), "response": qa.response,
        })  # fmt: skip
    return made


def _weight(wished: list[dict[str, Any]], task: str, kind: list[tuple[str, QA, list[str]]]) -> float:
    """Of a kind of question: the mean over its questions and the topics that each fits."""
    every = [weigh(wished, path, task) for _, _, fitting in kind for path in fitting] if wished else []
    return sum(every) / len(every) if every else 1.0
