"""Adversarial hallucination pairs (paper §4.1.2), with the controls that keep refusing from spreading.

- missing_image: an image question without its image. Chosen: an honest refusal; rejected: what the model made up
- blank_image, unrelated_image, hidden_evidence: with a picture that does not show what is asked (`ablated.py`).
  Chosen: to say so
- image_normal: the same questions with their picture. Chosen: the model's own right answer; rejected: a refusal
- text_normal, mismatch: questions that need no picture, without one or beside an unrelated one (`controls.py`).
  Rejected: a refusal
- context: an image question after an unrelated exchange. Rejected: a distracted answer
- brevity: `brevity.py`

Nothing but the picture tells which question is refused: what is asked without its picture is asked with it too, in the
same words, and only what the model can answer is asked at all. A question that it never gets right with the picture
would else be learnt as one to refuse.

Leakage: where the model's answer without the picture is right all the same, language alone gave it away. Such a sample
is excluded, counted and named; `survives` decides.

Where the model's own greedy answer is right, it is the chosen one: pairs then move what must change and little else.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from open4ov.engine import Request
from open4ov.recipe_dpo import ABLATED, MADE, MIX
from open4ov.refusals import denies, refuses
from open4ov.rl import ablated, brevity
from open4ov.rl.answers import agrees
from open4ov.rl.controls import Texts
from open4ov.rl.refusal_phrases import Case, refusal
from open4ov.rollouts import Answers
from open4ov.sample import Message, Part, Sample, assistant, content_id

Progress = Callable[[str, int, int], None]
Survives = Callable[[Sample, str], bool]
"""A sample, and what the model answered without its picture -> whether it is consistent with the reference"""
KINDS = MADE
MAX_TOKENS = 64
ASKED = 2.0
"""Most pictured questions that are tried, as a multiple of the pairs that are wanted of them"""


@dataclass
class Draft:
    """A pair under construction. What is None is filled from the model's own answer to the prompt. `sample`: whose
    reference holds; `about`: the pictures that the question was made for, shown or not."""

    kind: str
    sample: Sample
    prompt: list[Message]
    images: list[str]
    chosen: str | None
    rejected: str | None
    about: list[str] = field(default_factory=list[str])


@dataclass
class Made:
    """The pairs; `counts`: by kind, and `leakage`, `not_known` (the model cannot answer the question with its picture,
    which is not what these pairs are to teach), `already_right` (the model needed no such pair), `cannot` (the
    annotation does not say what a picture shows). `leaked`: ids of samples that language alone answers."""

    pairs: list[Sample]
    counts: dict[str, int]
    leaked: list[str]


def right_without_picture(sample: Sample, answer: str) -> bool:
    """The leakage screen's rule unless the run has another: the answer is right."""
    return sample.answer is not None and agrees(answer, sample.answer, sample.aliases)


def build(
    samples: Sequence[Sample],
    count: int,
    engine: Answers,
    get: Callable[[str], Image.Image],
    seed: int,
    progress: Progress | None = None,
    *,
    put: Callable[[Image.Image], str] | None = None,
    mix: Mapping[str, float] = MIX,
    texts: Sequence[Sample] | None = None,
    survives: Survives = right_without_picture,
) -> Made:
    """About `count` pairs of single-question samples with references.

    A pair is a Sample: `messages` end with the chosen response, `rejected` holds the other, `extra["pair"]` the kind.
    get, put: pictures from and into the run's store (changed pictures need `put`). texts: the questions without a
    picture; else those among the samples.
    """
    usable = [s for s in samples if s.answer and [m.role for m in s.messages] == ["user", "assistant"]]
    pictured = [s for s in usable if s.images]
    bare = [s for s in (usable if texts is None else texts) if s.answer and not s.images]
    maker = _Maker(pictured, bare, mix, count, seed, get, put)
    answer = _Answering(engine, get, seed, progress)
    counts: Counter[str] = Counter()
    found: dict[str, Sample] = {}
    leaked: dict[str, None] = {}
    wanted = maker.wanted("image_normal")
    known: list[Sample] = []
    controls: list[Sample] = []
    # first what the model sees rightly: the other kinds are made of these
    for drafts in maker.normal(known):
        for each, own in answer(drafts):
            verdict = complete(each, own, survives)
            if verdict == "not_known":
                counts[verdict] += 1
            elif verdict is None:
                known.append(each.sample)
                controls.append(_pair(each))
    for pair in controls[:wanted]:
        found[pair.id] = pair
    drafts, cannot = maker.others(known)
    counts["cannot"] += cannot
    for each, own in answer(drafts):
        verdict = complete(each, own, survives)
        if verdict == "leakage":
            leaked[each.sample.id] = None
        if verdict:
            counts[verdict] += 1
        else:
            pair = _pair(each)
            found.setdefault(pair.id, pair)
    kinds = Counter(str(pair.extra["pair"]) for pair in found.values())
    told = {name: number for name, number in (counts + kinds).items() if number}
    return Made(list(found.values()), dict(sorted(told.items())), list(leaked))


def complete(pair: Draft, own: str, survives: Survives = right_without_picture) -> str | None:
    """Fills a draft from the model's own answer; gives the reason when it makes no pair."""
    answer, reference = pair.sample.answer, pair.sample.messages[-1].text
    assert answer is not None
    right = agrees(own, answer, pair.sample.aliases)
    if pair.kind in ABLATED:
        if refuses(own) if pair.kind == "missing_image" else refuses(own) or denies(own):
            return "already_right"
        if survives(pair.sample, own):
            return "leakage"
        pair.rejected = own
    elif pair.kind == "context":
        pair.chosen = own if right else reference
        pair.rejected = pair.rejected if right else own
    elif pair.kind in ("image_normal", "text_normal", "mismatch"):
        if not right:
            return "not_known"
        pair.chosen = own
    if not pair.rejected or pair.rejected.strip() == (pair.chosen or "").strip():
        return "already_right"
    return None


class _Maker:
    """Drafts by kind. Kinds that are made of pictured questions take the same ones first."""

    def __init__(
        self,
        pictured: Sequence[Sample],
        texts: Sequence[Sample],
        mix: Mapping[str, float],
        count: int,
        seed: int,
        get: Callable[[str], Image.Image],
        put: Callable[[Image.Image], str] | None,
    ) -> None:
        self.pictured = list(in_turn(pictured, len(pictured), random.Random(f"drawn {seed}")))
        self.bare = list(texts)
        self.texts = Texts(texts, seed)
        self.mix, self.count, self.get, self.put = mix, count, get, put
        self.rng = random.Random(f"pairs {seed}")
        wanted = {kind: self.wanted(kind) for kind in ABLATED}
        missing: list[Case] = ["missing"] * wanted.pop("missing_image")
        unseen: list[Case] = ["unseen"] * sum(wanted.values())
        self.case = missing + unseen

    def wanted(self, kind: str) -> int:
        return round(self.count * self.mix.get(kind, 0))

    def normal(self, known: Sequence[Sample]) -> Iterator[list[Draft]]:
        """Pictured questions as they are, in batches, as long as fewer are `known` than kinds are to be made of; at
        most `ASKED` times as many as that."""
        wanted = max(self.wanted(kind) for kind in ("image_normal", "context", *ABLATED))
        asked, most = 0, min(round(ASKED * wanted), len(self.pictured))
        while len(known) < wanted and asked < most:
            rate = max(len(known) / asked, 0.1) if asked else 1.0
            size = min(round((wanted - len(known)) / rate) + 1, most - asked)
            batch = self.pictured[asked : asked + size]
            asked += size
            yield [Draft("image_normal", s, [s.messages[0]], s.images, None, self._refusal(s)) for s in batch]

    def others(self, known: Sequence[Sample]) -> tuple[list[Draft], int]:
        """The drafts of the other kinds, of the pictured questions that the model knows; and how many could not be
        made."""
        drafts: list[Draft] = []
        cannot = 0
        for kind in ABLATED:
            made = 0
            for sample in known:
                if made == self.wanted(kind):
                    break
                draft = self._ablated(kind, sample)
                if draft is not None:
                    made += 1
                    drafts.append(draft)
            cannot += self.wanted(kind) - made
        for kind in ("text_normal", "mismatch"):
            drafts += self._bare(kind, known)
        if self.bare:
            drafts += [self._context(s) for s in known[: self.wanted("context")]]
        short = [s for s in in_turn([*known, *self.bare], len(known) + len(self.bare), self.rng) if brevity.concise(s)]
        for s in short[: self.wanted("brevity")]:
            drafts.append(Draft("brevity", s, [s.messages[0]], s.images, brevity.concise(s), brevity.redundant(s)))
        return drafts, cannot

    def _ablated(self, kind: str, sample: Sample) -> Draft | None:
        question = sample.messages[0]
        if len(sample.images) > 1 and kind != "missing_image":
            return None
        if kind == "missing_image":
            words = [part for part in question.content if part.type == "text"]
            prompt = [question.model_copy(update={"content": words})]
            return Draft(kind, sample, prompt, [], refusal("missing", sample.language, self.rng), None, sample.images)
        if kind == "unrelated_image":
            other = ablated.unrelated(sample, self.pictured, self.rng)
            images = list(other.images) if other else []
        else:
            picture = ablated.change(kind, sample, self.get, self.rng)
            assert self.put is not None, "a changed picture needs a place"
            images = [self.put(picture)] if picture else []
        if not images:
            return None
        return Draft(
            kind, sample, [question], images, refusal("unseen", sample.language, self.rng), None, sample.images
        )

    def _bare(self, kind: str, known: Sequence[Sample]) -> list[Draft]:
        """Questions that need no picture, each with the surface of a pictured one."""
        drafts: list[Draft] = []
        for number in range(self.wanted(kind) if known or self.bare else 0):
            model = known[number % len(known)] if known else self.bare[number % len(self.bare)]
            sample = self.texts.like(model)
            if sample is None:
                continue
            question, images = sample.messages[0], list[str]()
            if kind == "mismatch":
                images = self.rng.choice(self.pictured).images[:1] if self.pictured else []
                if not images:
                    break
                question = question.model_copy(update={"content": [Part(type="image", index=0), *question.content]})
            drafts.append(Draft(kind, sample, [question], images, None, self._refusal(sample)))
        return drafts

    def _context(self, sample: Sample) -> Draft:
        same = [text for text in self.bare if text.language == sample.language]
        other = self.rng.choice(same or self.bare)
        return Draft("context", sample, [*other.messages, sample.messages[0]], sample.images, None, other.answer)

    def _refusal(self, sample: Sample) -> str:
        """A refusal where there is nothing to refuse, worded as it is elsewhere."""
        return refusal(self.rng.choice(self.case or ["missing"]), sample.language, self.rng)


class _Answering:
    """The model's own answers to drafts: greedy, but for what it makes up without its picture."""

    def __init__(
        self, engine: Answers, get: Callable[[str], Image.Image], seed: int, progress: Progress | None
    ) -> None:
        self.engine, self.get, self.seed, self.progress = engine, get, seed, progress

    def __call__(self, drafts: Sequence[Draft]) -> Iterator[tuple[Draft, str]]:
        requests = [
            Request(
                messages=each.prompt,
                images=[self.get(sha) for sha in each.images],
                max_tokens=MAX_TOKENS,
                temperature=1.0 if each.kind in ABLATED else 0.0,
                seed=random.Random(f"pairs {self.seed} {each.kind} {each.sample.id}").getrandbits(31),
            )
            for each in drafts
        ]

        def tell(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress("answering for pairs", done, total)

        for each, completions in zip(drafts, self.engine.generate(requests, tell), strict=True):
            yield each, completions[0].text


def in_turn(samples: Sequence[Sample], count: int, rng: random.Random) -> list[Sample]:
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
    about = {"pair_about": list(each.about)} if each.about else {}
    return each.sample.model_copy(
        update={
            "id": content_id("pair", each.kind, [m.model_dump() for m in each.prompt], each.images, each.chosen),
            "images": list(each.images),
            "messages": [*each.prompt, assistant(each.chosen)],
            "rejected": [assistant(each.rejected)],
            "lineage": [*each.sample.lineage, each.sample.id],
            "extra": {**each.sample.extra, "pair": each.kind, **about},
        }
    )
