"""A set that `open4ov data import` made, as the start of construction: open data managed like the vertical (§3.2.2).

As the vertical it gives an image each, and what was asked about it goes word for word into the `qa` of its annotation,
each entry with the id of the sample it stood in; so it is labelled, judged and verified like what is newly written. A
sample with several turns or images, or a system message, comes as it is and is judged as a whole (conversations.py). As
the general set it gives its conversations as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from open4ov.errors import UserError
from open4ov.formats.convert import SAMPLES, located
from open4ov.formats.pairs import single_question
from open4ov.sample import Sample, content_id
from open4ov.store import ImageError, ImageStore, check_finished, iter_samples

Skipped = list[dict[str, str]]


def is_set(path: Path) -> bool:
    """Whether a folder holds imported samples and not image files. Raises UserError for a half-made set, whose image
    store would else be taken for a folder of images."""
    check_finished(path)
    return (path / SAMPLES).is_file()


def vertical(path: Path, store: ImageStore, skipped: Skipped) -> Iterator[Sample]:
    """A sample without messages for each image that is asked single questions, in the order in which the images come
    first; then the conversations with their messages.

    What has no image or no answer is listed. Raises UserError when nothing is left.
    """
    file, theirs = located(path)
    found: dict[str, Sample] = {}
    conversations: list[Sample] = []
    for sample in iter_samples(file):
        asked = single_question(sample)
        if reason := _unfit(sample, asked):
            skipped.append({"file": sample.id, "reason": reason})
            continue
        if len(sample.images) != 1 or (sample.messages and asked is None):
            if not _taken(sample, theirs, store, skipped):
                continue
            answer = sample.answer if sample.answer is not None else sample.messages[-1].text
            conversations.append(sample.model_copy(update={"answer": answer}))
            continue
        sha = sample.images[0]
        if sha not in found:
            if not _taken(sample, theirs, store, skipped):
                continue
            found[sha] = sample.model_copy(
                update={
                    "id": content_id("imported", sha),
                    "task": "image",
                    "messages": [],
                    "answer": None,
                    "aliases": [],
                    "scene": dict(sample.scene) if sample.scene else None,
                    "lineage": [],
                    "steps": [step for step in sample.steps if step.stage == "import"],
                }
            )
        _add(found[sha], sample, asked)
    if not found and not conversations:
        raise UserError(f"images: no sample in {path} has an image and an answer")
    yield from found.values()
    yield from conversations


def general(path: Path, store: ImageStore, skipped: Skipped) -> Iterator[Sample]:
    """The conversations of the set that have an answer, as they are."""
    file, theirs = located(path)
    for sample in iter_samples(file):
        answers = [message.text for message in sample.messages if message.role == "assistant"]
        if not answers or not answers[-1].strip():
            skipped.append({"file": sample.id, "reason": "no answer in it, which the general set needs"})
            continue
        if not _taken(sample, theirs, store, skipped):
            continue
        yield sample if sample.answer is not None else sample.model_copy(update={"answer": answers[-1]})


def _taken(sample: Sample, theirs: ImageStore, store: ImageStore, skipped: list[dict[str, str]]) -> bool:
    """Copies a sample's images into our store; one that cannot be read is listed, and the sample is not taken."""
    try:
        for sha in sample.images:
            store.put(theirs.get(sha))
    except ImageError as error:
        skipped.append({"file": sample.id, "reason": str(error)})
        return False
    return True


def _unfit(sample: Sample, asked: tuple[str, str | None] | None) -> str | None:
    """Why a sample cannot be labelled and judged; None when it can."""
    if not sample.images:
        return "text alone: construction looks at images; as images.general it comes as it is"
    if not sample.messages:
        return None if len(sample.images) == 1 else f"{len(sample.images)} images without a question; give one a sample"
    if any(at >= len(sample.images) for message in sample.messages for part in message.content for at in part.shows):
        return "its messages show an image that it does not have"
    if asked is not None and len(sample.images) == 1:
        answered = bool(asked[0].strip() and (asked[1] or sample.answer or "").strip())
        return None if answered else "its question or its answer is empty"
    if sample.messages[-1].role != "assistant" or not sample.messages[-1].text.strip():
        return "its last turn has no answer"
    return None if any(message.role == "user" for message in sample.messages) else "it asks nothing"


def _add(image: Sample, sample: Sample, asked: tuple[str, str | None] | None) -> None:
    """Links a sample to its image, and puts its question and its annotation there."""
    image.lineage.append(sample.id)
    scene: dict[str, Any] = image.scene or {}
    if sample.scene and any(scene.get(key) != value for key, value in sample.scene.items()):
        scene.setdefault("also", []).append(sample.scene)
    if asked is not None:
        question, response = asked
        entry: dict[str, Any] = {
            "question": question,
            "answer": sample.answer if sample.answer is not None else response,
            "language": sample.language,
            "task": sample.task,
            "sample": sample.id,
        }
        if response is not None and response != entry["answer"]:
            entry["response"] = response
        if sample.aliases:
            entry["aliases"] = sample.aliases
        scene["qa"] = [*scene.get("qa", []), entry]
    image.scene = scene or None
