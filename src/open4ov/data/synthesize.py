"""QA synthesis guided by topics, up to the image's budget (paper §2.2.4).

The candidate topics say what to ask, the information density how much at most. What an annotation says travels along
in the prompt and stays in `Sample.scene`, so that nothing of it is lost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from open4ov.data.labels import LabelTree
from open4ov.data.topics import Topic
from open4ov.mllm.answers import Pairs
from open4ov.mllm.ask import Picture, Prompt, Request
from open4ov.sample import Sample, assistant, content_id, user


def annotation(scene: dict[str, Any] | None) -> str:
    """The scene as a prompt shows it; empty for an image without one."""
    return json.dumps(scene, ensure_ascii=False, sort_keys=True) if scene else ""


def request(
    picture: Picture, tree: LabelTree, topics: Sequence[Topic], budget: int, languages: Sequence[str], seed: int
) -> Request:
    """Asks for up to `budget` question-answer pairs of a picture under its topics."""
    values = {
        "topics": [{"path": topic.path, "tags": tree.tags(topic.labels())} for topic in topics],
        "budget": budget,
        "languages": list(languages),
        "annotation": annotation(picture.scene),
        "seed": seed,
    }
    return Request("synthesize", Prompt("synthesize", values), (picture,), Pairs)


def samples(image: Sample, topics: Sequence[tuple[Topic, float]], pairs: Sequence[dict[str, Any]]) -> list[Sample]:
    """One sample a pair, at most `image.budget`, each question once.

    A pair under a topic that was not offered, or with an empty question, answer or response, is left out.
    """
    offered = {topic.path: (topic, score) for topic, score in topics}
    made: dict[str, Sample] = {}
    for pair in pairs:
        question, response = pair["question"].strip(), pair["response"].strip()
        if pair["topic"] not in offered or not question or not response or not pair["answer"].strip():
            continue
        topic, score = offered[pair["topic"]]
        name = content_id(image.id, question)
        sample = image.model_copy(update={"extra": dict(image.extra)})
        sample.id = name
        sample.task = pair["task"]
        sample.language = pair["language"]
        sample.messages = [user(question, images=1), assistant(response)]
        sample.answer = pair["answer"].strip()
        sample.aliases = pair["aliases"]
        sample.topics = [topic.path]
        sample.labels = topic.labels(round(score, 4))
        sample.lineage = [*image.lineage, image.id]
        made.setdefault(name, sample)
        if len(made) == image.budget:
            break
    return list(made.values())
