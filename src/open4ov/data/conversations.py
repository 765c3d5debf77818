"""Conversations that came whole: open data with several turns, several images or a system message (paper §3.2.2).

Open data is labelled by the same matching as the vertical and managed with it. Where a set asks one question about one
image, the image goes the way of all others and its question with it (imported.py). What is more than that stays as it
is, turns and images: it is ranked and matched as one, its density is the mean of its images', each of its questions
gets the nearest of its topics, and judges and verification see all of it. Nothing is written for it, and it takes no
share of the budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

from open4ov.data import match
from open4ov.data.labels import LabelTree
from open4ov.data.topics import Topic
from open4ov.mllm.answers import Judgement, Ranking, Verification
from open4ov.mllm.ask import JUDGES, Picture, Prompt, Request
from open4ov.mllm.embedding import embed_texts
from open4ov.sample import Label, Part, Sample

TEMPLATES = {
    "rank": "rank_conversation",
    "judge_1": "judge_conversation",
    "judge_2": "judge_conversation",
    "judge_3": "judge_conversation",
    "verify": "verify_conversation",
}
"""Roles whose prompt is another one for conversations."""


def whole(sample: Sample) -> bool:
    """Whether a sample is more than one question about one image."""
    roles = [message.role for message in sample.messages]
    return bool(roles) and not (len(sample.images) == 1 and roles in (["user"], ["user", "assistant"]))


def rank(
    sample: Sample, pictures: Sequence[Picture], tree: LabelTree, annotation: str, labels: match.Named | None = None
) -> Request:
    """Asks for a conversation's ranking of all L1 labels. `labels`: as for `match.request`."""
    values = {"labels": match.named(tree) if labels is None else labels, "annotation": annotation, **_shown(sample)}
    prompt = Prompt(TEMPLATES["rank"], values)
    return Request("rank", prompt, pictures, Ranking, lambda answer: match.objection(answer, tree))


def judge(role: str, sample: Sample, pictures: Sequence[Picture], tree: LabelTree) -> Request:
    """Asks for a judge's vote on a conversation."""
    values = {"topics": sample.topics, "turns": _turns(sample, tree), **_shown(sample)}
    return Request(role, Prompt(TEMPLATES[role], values), pictures, Judgement)


def verify(sample: Sample, pictures: Sequence[Picture], tree: LabelTree) -> Request:
    """Asks for the five dimensions over all replies of a conversation."""
    values = {"topics": sample.topics, "turns": _turns(sample, tree), **_shown(sample)}
    return Request("verify", Prompt(TEMPLATES["verify"], values), pictures, Verification)


def density(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """The scores of a sample's images as one: their mean."""
    if len(scores) == 1:
        return scores[0]
    return {name: sum(one[name] for one in scores) / len(scores) for name in scores[0]}


def labelled(sample: Sample, near: Sequence[tuple[Topic, float]]) -> Sample:
    """The conversation under its topics: of those that fine matching found, the nearest to each of its questions.

    `topics` has each once, in the order of the questions; `extra["turn_topics"]` has one for each question; `labels`
    are the topics' places in the tree with the topic's likeness. `near` must not be empty.
    """
    asked = [question for question, _ in questions(sample)]
    rows = embed_texts([*asked, *(topic.text for topic, _ in near)])
    likeness = rows[: len(asked)] @ rows[len(asked) :].T
    chosen = cast("list[int]", likeness.argmax(axis=1).tolist())
    labels: dict[tuple[str, str, str | None], Label] = {}
    for at in dict.fromkeys(chosen):
        topic, score = near[at]
        for label in topic.labels(round(score, 4)):
            labels.setdefault((label.axis, label.l1, label.l2), label)
    paths = [near[at][0].path for at in chosen]
    update = {
        "topics": list(dict.fromkeys(paths)), "labels": list(labels.values()),
        "extra": {**sample.extra, "turn_topics": paths},
    }  # fmt: skip
    return sample.model_copy(update=update)


def template(role: str, *, whole: bool, came: bool) -> str:
    """The prompt by which a role is asked about such samples."""
    if role in TEMPLATES and (came if role == "rank" else whole):
        return TEMPLATES[role]
    return "judge" if role in JUDGES else role


def came(sample: Sample) -> bool:
    """Whether a labelled sample came with its conversation, and was not written here."""
    return "turn_topics" in sample.extra


def count(given: Sequence[Sample]) -> dict[str, Any]:
    """What the report says of conversations that were given; adds up over chunks."""
    whole = [sample for sample in given if sample.messages]
    return {
        "given": len(whole),
        "images": Counter(str(len(sample.images)) for sample in whole),
        "questions": Counter(str(len(questions(sample))) for sample in whole),
    }


def figures(counts: Mapping[str, Any], judged: int, kept: int) -> dict[str, Any]:
    """The part `conversations` of the report: what `count` counted, and how many of them were judged and kept."""
    return {
        "given": counts["given"],
        "judged": judged,
        "kept": kept,
        "images": dict(sorted(counts["images"].items())),
        "questions": dict(sorted(counts["questions"].items())),
    }


def questions(sample: Sample) -> list[tuple[str, str | None]]:
    """Each question with the reply that follows it, if one does."""
    return [
        (turn.text, after.text if after is not None and after.role == "assistant" else None)
        for turn, after in pairwise([*sample.messages, None])
        if turn is not None and turn.role == "user"
    ]


def _shown(sample: Sample) -> dict[str, Any]:
    """The conversation as prompts show it: images by their numbers, in the order in which they are sent."""
    turns = [
        {"role": message.role, "text": " ".join(filter(None, map(_part, message.content)))}
        for message in sample.messages
    ]
    return {"conversation": turns, "images": len(sample.images)}


def _part(part: Part) -> str:
    places = [str(at + 1) for at in part.shows]
    if not places:
        return part.text or ""
    return f"[image {places[0]}]" if part.type == "image" else f"[video, images {places[0]} to {places[-1]}]"


def _turns(sample: Sample, tree: LabelTree) -> list[Mapping[str, Any]]:
    """What a provider without a model reads: each question as a triplet of its own."""
    asked = questions(sample)
    paths = sample.extra.get("turn_topics") or [sample.topics[0]] * len(asked)
    tags = tree.tags(sample.labels)
    last = len(asked) - 1
    return [
        {
            "topic": path, "question": question, "response": reply or "", "tags": tags, "language": sample.language,
            "answer": sample.answer if at == last and sample.answer is not None else reply or "",
        }
        for at, ((question, reply), path) in enumerate(zip(asked, paths, strict=True))
    ]  # fmt: skip
