"""The SFT-Preference set (paper §3.2.3, stage 3), built from samples that are at hand.

- unrelated_image: an image is shown, the question needs none of it (against unimodal spurious correlations)
- related_image: an image is shown and the question, boxed like those of unrelated_image, needs it: without these a
  model learns that boxed questions beside a picture are not about it
- unrelated_dialogue: the dialogue leaves the picture for another subject and comes back
- text_only: an image-free question, answered normally
- format: the same facts as a markdown list, or as short as can be, because the user asks for it; a sum that nobody
  wants in a box, answered without one
- long_context: several pictures, each with its questions, in one conversation

Refusing to answer about a picture that is missing is not taught here but by DPO (`rl/hallucination.py`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from open4ov.answers import plainly
from open4ov.sample import Message, Sample, assistant, content_id, user
from open4ov.sft.curriculum import with_offset, without_images

KINDS = {
    "unrelated_image": 0.2,
    "related_image": 0.2,
    "unrelated_dialogue": 0.1,
    "text_only": 0.1,
    "format": 0.2,
    "long_context": 0.2,
}
"""Share of each kind; kinds whose ingredients are missing fall out and the others take their place."""

LONG_IMAGES = 4
"""Most pictures of a long conversation."""

_AS_LIST = {"en": "Answer as a markdown list.", "zh": "请用 Markdown 列表回答。"}
_AS_SHORT = {"en": "Answer as briefly as you can.", "zh": "请尽量简短地回答。"}


def build(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """`count` preference samples made of single-question samples with and without images (fewer only if none fit).

    Ingredients keep their wording; `lineage` names them, `extra["preference"]` the kind.
    """
    rng = random.Random(f"preference {seed}")
    single = [s for s in samples if [m.role for m in s.messages] == ["user", "assistant"]]
    text = {lang: [s for s in single if not s.images and s.language == lang] for lang in ("en", "zh")}
    about: dict[tuple[str, ...], list[Sample]] = {}
    for sample in single:
        if len(sample.images) == 1:
            about.setdefault((sample.language, *sample.images), []).append(sample)
    pictures = [about[key] for key in sorted(about)]
    boxed = [group for group in pictures if any(map(_boxed, group))]
    if not any(text.values()):
        kinds = {k: v for k, v in KINDS.items() if k in ("format", "long_context")}
    elif not pictures:
        kinds = {k: v for k, v in KINDS.items() if k in ("text_only", "format")}
    else:
        kinds = KINDS
    if not single:
        return []
    made: dict[str, Sample] = {}
    for _ in range(4 * count):
        if len(made) == count:
            break
        kind = rng.choices(list(kinds), weights=list(kinds.values()))[0]
        sample = _make(kind, boxed if kind == "related_image" else pictures, text, rng)
        if sample is not None:
            made.setdefault(sample.id, sample)
    return list(made.values())


def _make(kind: str, pictures: list[list[Sample]], text: dict[str, list[Sample]], rng: random.Random) -> Sample | None:
    """One sample of a kind; None when the ingredients that were drawn do not fit together."""
    without = [s for samples in text.values() for s in samples]
    if kind == "text_only":
        return _as_it_is(kind, rng.choice(without))
    sums = [s for s in without if _boxed(s)] if kind == "format" else []
    if sums and (not pictures or rng.random() < 0.5):
        return _without_box(rng.choice(sums))
    if not pictures:
        return None
    group = rng.choice(pictures)
    if kind == "related_image":
        return _as_it_is(kind, rng.choice([sample for sample in group if _boxed(sample)]))
    first = rng.choice(group)
    words = text[first.language]
    if kind == "long_context":
        others = rng.sample(pictures, min(len(pictures), rng.randint(2, LONG_IMAGES)))
        return _long(others, rng)
    if kind == "format":
        return _list(group, rng) if len(group) > 1 and rng.random() < 0.5 else _brief(first)
    if not words:
        return None
    other = rng.choice(words)
    if kind == "unrelated_image":
        question = user(other.messages[0].text, images=1)
        return _sample(kind, [first, other], [question, other.messages[1]], first.images, other)
    later = rng.choice(group)
    messages = [*first.messages, *other.messages]
    if later is not first:
        messages += [without_images(message) for message in later.messages]
    return _sample(kind, [first, other, later], messages, first.images)


def _as_it_is(kind: str, sample: Sample) -> Sample:
    return _sample(kind, [sample], sample.messages, sample.images, sample)


def _boxed(sample: Sample) -> bool:
    return "\\boxed" in sample.messages[1].text


def _without_box(sample: Sample) -> Sample | None:
    """The question without the instruction to box its answer, and the bare answer."""
    bare = plainly(sample.messages[0].text)
    if bare is None or not sample.answer:
        return None
    return _sample("format", [sample], [user(bare), assistant(sample.answer)], [], sample)


def _list(group: list[Sample], rng: random.Random) -> Sample:
    chosen = rng.sample(group, min(len(group), rng.randint(2, 3)))
    language = chosen[0].language
    question = " ".join([*(s.messages[0].text for s in chosen), _AS_LIST[language]])
    answer = "\n".join(f"- {s.messages[1].text}" for s in chosen)
    return _sample("format", chosen, [user(question, images=1), assistant(answer)], chosen[0].images)


def _brief(sample: Sample) -> Sample | None:
    """The bare reference answer, where the usual response says more than that."""
    if not sample.answer or sample.answer == sample.messages[1].text or _boxed(sample):
        return None
    question = user(f"{sample.messages[0].text} {_AS_SHORT[sample.language]}", images=1)
    return _sample("format", [sample], [question, assistant(sample.answer)], sample.images, sample)


def _long(groups: list[list[Sample]], rng: random.Random) -> Sample:
    messages: list[Message] = []
    images: list[str] = []
    used: list[Sample] = []
    for group in groups:
        chosen = rng.sample(group, min(len(group), rng.randint(1, 2)))
        messages += [with_offset(message, len(images)) for message in chosen[0].messages]
        for sample in chosen[1:]:
            messages += [without_images(message) for message in sample.messages]
        images += chosen[0].images
        used += chosen
    return _sample("long_context", used, messages, images)


def _sample(
    kind: str,
    parts: Sequence[Sample],
    messages: Sequence[Message],
    images: Sequence[str],
    answered: Sample | None = None,
) -> Sample:
    """A new sample; `answered` is the ingredient whose reference answer still holds for a single question."""
    return Sample(
        id=content_id("preference", kind, [part.id for part in parts]),
        source=parts[0].source,
        task=answered.task if answered else parts[0].task,
        language=parts[0].language,
        images=list(images),
        messages=list(messages),
        answer=answered.answer if answered else None,
        aliases=answered.aliases if answered else [],
        topics=answered.topics if answered else [],
        lineage=[part.id for part in parts],
        extra={"preference": kind},
    )
