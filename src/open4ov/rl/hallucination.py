"""Preference pairs for offline RL (paper §4.1.2): adversarial hallucination data, and brevity.

- missing_image: an image question without its image. Chosen: an honest refusal; rejected: what the model made up. Where
  its answer is right all the same, language alone gave it away: such a sample is leakage, excluded and counted.
- context: an image question after an unrelated exchange. Rejected: a distracted answer.
- image_normal, text_normal: answerable questions with and without image. Rejected: a refusal, so that refusing does
  not spread. The ones with image are those of missing_image: the same words, and only the picture tells the two apart.
  Half of the text-only ones are shown an unrelated picture, and half of those that ask for a box ask for none.
- brevity: a concise worked answer over a redundant one with the same result.

Denying an object that the picture does not show is not among them: it spread " no" to where it does not belong
(docs/results.md).

Where the model's own greedy answer is right, it is the chosen one: pairs then move what must change and little else.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from open4ov.answers import plainly
from open4ov.engine import Engine, Request
from open4ov.refusals import refuses
from open4ov.rl.answers import agrees, boxed
from open4ov.sample import Message, Part, Sample, assistant, content_id, user

KINDS = {
    "missing_image": 0.3,
    "context": 0.05,
    "image_normal": 0.45,
    "text_normal": 0.15,
    "brevity": 0.05,
}

REFUSALS = {
    "en": (
        "There is no picture here. Please send one.",
        "I cannot see a picture. Please send one.",
        "No picture was sent, so I cannot tell. Please send one.",
    ),
    "zh": ("这里没有图片，请发送图片。", "我没有看到图片，请发送图片。", "没有图片，我无法回答，请发送图片。"),
}

Progress = Callable[[str, int, int], None]


@dataclass
class Draft:
    """A pair under construction. What is None is filled from the model's own answer to the prompt."""

    kind: str
    sample: Sample
    prompt: list[Message]
    images: list[str]
    chosen: str | None
    rejected: str | None


def build(
    samples: Sequence[Sample],
    count: int,
    engine: Engine,
    image: Callable[[str], Image.Image],
    seed: int,
    progress: Progress | None = None,
) -> tuple[list[Sample], dict[str, int]]:
    """About `count` pairs from single-question samples with references, and what was counted on the way.

    A pair is a Sample: `messages` end with the chosen response, `rejected` holds the other, `extra["pair"]` the kind.
    The counts name pairs by kind, `leakage`, `not_known` (the model cannot answer the question, which is not what these
    pairs are to teach), and `already_right` (the model needed no such pair).
    """
    drafts = draft(samples, count, seed)
    requests = [
        Request(
            messages=each.prompt,
            images=[image(sha) for sha in each.images],
            max_tokens=64,
            temperature=1.0 if each.kind == "missing_image" else 0.0,
            seed=random.Random(f"pairs {seed} {each.kind} {each.sample.id}").getrandbits(31),
        )
        for each in drafts
    ]

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress("answering for pairs", done, total)

    counts: Counter[str] = Counter()
    pairs: dict[str, Sample] = {}
    for each, completions in zip(drafts, engine.generate(requests, tell), strict=True):
        verdict = complete(each, completions[0].text)
        if verdict:
            counts[verdict] += 1
            continue
        pair = _pair(each)
        if pair.id not in pairs:
            pairs[pair.id] = pair
            counts[each.kind] += 1
    return list(pairs.values()), dict(sorted(counts.items()))


def complete(pair: Draft, own: str) -> str | None:
    """Fills a draft from the model's own answer; gives the reason when it makes no pair."""
    answer, reference = pair.sample.answer, pair.sample.messages[-1].text
    assert answer is not None
    right = agrees(own, answer, pair.sample.aliases)
    if pair.kind == "missing_image":
        if refuses(own):
            return "already_right"
        if right:
            return "leakage"
        pair.rejected = own
    elif pair.kind == "context":
        pair.chosen = own if right else reference
        pair.rejected = pair.rejected if right else own
    elif pair.kind == "text_normal":
        pair.chosen = own if right else reference
    elif pair.kind == "image_normal":
        if not right:
            return "not_known"
        pair.chosen = own
    if not pair.rejected or pair.rejected == pair.chosen:
        return "already_right"
    return None


def draft(samples: Sequence[Sample], count: int, seed: int) -> list[Draft]:
    """The pairs to make, before the model is asked: kinds by their shares, samples from every task in turn.

    Kinds that draw from the same pool draw the same samples first.
    """
    rng = random.Random(f"pairs {seed}")
    usable = [s for s in samples if s.answer is not None and [m.role for m in s.messages] == ["user", "assistant"]]
    pictured, text = [s for s in usable if s.images], [s for s in usable if not s.images]
    drafts: list[Draft] = []
    for kind, share in KINDS.items():
        wanted = round(count * share)
        pool = _pool(kind, pictured, text)
        for sample in _in_turn(pool, wanted, random.Random(f"drawn {seed}")):
            drafts.append(_draft(kind, sample, pictured, text, rng))
    return drafts


def _pool(kind: str, pictured: list[Sample], text: list[Sample]) -> list[Sample]:
    if kind == "text_normal":
        return text
    if kind == "context":
        return pictured if text else []
    if kind == "brevity":
        return [s for s in (*pictured, *text) if _concise(s) is not None]
    return pictured


def _draft(kind: str, sample: Sample, pictured: list[Sample], text: list[Sample], rng: random.Random) -> Draft:
    question, language = sample.messages[0], sample.language
    refusal = rng.choice(REFUSALS[language])
    if kind == "missing_image":
        words = [part for part in question.content if part.type == "text"]
        return Draft(kind, sample, [question.model_copy(update={"content": words})], [], refusal, None)
    if kind == "context":
        other = rng.choice([t for t in text if t.language == language] or text)
        return Draft(kind, sample, [*other.messages, question], sample.images, None, other.answer)
    if kind == "text_normal":
        bare = plainly(question.text) if rng.random() < 0.5 else None
        if bare is not None:
            question = user(bare)
            sample = sample.model_copy(update={"messages": [question, assistant(sample.answer or "")]})
        if pictured and rng.random() < 0.5:
            with_picture = [Part(type="image", index=0), *question.content]
            shown = rng.choice(pictured).images[:1]
            return Draft(kind, sample, [question.model_copy(update={"content": with_picture})], shown, None, refusal)
        return Draft(kind, sample, [question], [], None, refusal)
    if kind == "brevity":
        return Draft(kind, sample, [question], sample.images, _concise(sample), _redundant(sample))
    return Draft(kind, sample, [question], sample.images, None, refusal)


def _concise(sample: Sample) -> str | None:
    """The sample's worked response if it is short and to the point, else None."""
    response = sample.messages[-1].text
    if boxed(response) is None or "final answer" in response or response.startswith("Let me"):
        return None
    return response


def _redundant(sample: Sample) -> str:
    """The same working with an announcement, said twice, and a restated conclusion."""
    working, _, _ = sample.messages[-1].text.rpartition("\\boxed")
    subject = "picture" if sample.images else "question"
    return (
        f"Let me look at the {subject} carefully. {working.strip()} Let me check this again. {working.strip()} "
        f"So the final answer is \\boxed{{{sample.answer}}}"
    )


def _in_turn(samples: Sequence[Sample], count: int, rng: random.Random) -> list[Sample]:
    """`count` samples at random, one of each language and task in turn; fewer if there are not so many."""
    tasks: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        tasks.setdefault((sample.language, sample.task), []).append(sample)
    queues = [tasks[key] for key in sorted(tasks)]
    for queue in queues:
        rng.shuffle(queue)
    chosen: list[Sample] = []
    for depth in range(max(map(len, queues), default=0)):
        chosen += [queue[depth] for queue in queues if depth < len(queue)]
        if len(chosen) >= count:
            break
    return chosen[:count]


def _pair(each: Draft) -> Sample:
    assert each.chosen is not None
    assert each.rejected is not None
    return each.sample.model_copy(
        update={
            "id": content_id("pair", each.kind, [m.model_dump() for m in each.prompt], each.images, each.chosen),
            "images": list(each.images),
            "messages": [*each.prompt, assistant(each.chosen)],
            "rejected": [assistant(each.rejected)],
            "lineage": [*each.sample.lineage, each.sample.id],
            "extra": {**each.sample.extra, "pair": each.kind},
        }
    )
