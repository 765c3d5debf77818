"""Drafts of hallucination pairs: which samples, in which kind, with which pictures and refusals (paper §4.1.2)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from open4ov.recipe_dpo import ABLATED
from open4ov.rl.preference import ablated, brevity
from open4ov.rl.preference.controls import Texts, variants
from open4ov.rl.preference.refusal_phrases import Case, refusal
from open4ov.sample import Message, Part, Sample, without_images

ASKED = 2.0
"""Most questions that are tried, as a multiple of the pairs that are wanted of them"""


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


class Maker:
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
        wordings: int | None = None,
    ) -> None:
        self.pictured = list(in_turn(pictured, len(pictured), random.Random(f"drawn {seed}")))
        self.bare = list(texts)
        self.seed = seed
        self.mix, self.count, self.get, self.put, self.wordings = mix, count, get, put, wordings
        self.rng = random.Random(f"pairs {seed}")
        wanted = {kind: self.wanted(kind) for kind in ABLATED}
        missing: list[Case] = ["missing"] * wanted.pop("missing_image")
        unseen: list[Case] = ["unseen"] * sum(wanted.values())
        self.case = missing + unseen

    def wanted(self, kind: str) -> int:
        """How many pairs of a kind there are to be."""
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
            prompt = [without_images(question)]
            return Draft(kind, sample, prompt, [], self._refusal(sample, "missing"), None, sample.images)
        if kind == "unrelated_image":
            other = ablated.unrelated(sample, self.pictured, self.rng)
            images = list(other.images) if other else []
        else:
            picture = ablated.change(kind, sample, self.get, self.rng)
            assert self.put is not None, "a changed picture needs a place"
            images = [self.put(picture)] if picture else []
        if not images:
            return None
        return Draft(kind, sample, [question], images, self._refusal(sample, "unseen"), None, sample.images)

    def bare_drafts(self) -> list[Draft]:
        """Questions that need no picture, twice as many as are wanted, each as it is or the other way about a box."""
        wanted = round(ASKED * (self.wanted("text_normal") + self.wanted("mismatch")))
        asked = [self.rng.choice(variants(s)) for s in in_turn(self.bare, wanted, self.rng)]
        return [Draft("text_normal", s, [s.messages[0]], [], None, self._refusal(s)) for s in asked]

    def alike(self, known: Sequence[Sample], bare: Sequence[Draft]) -> tuple[list[Draft], list[Draft]]:
        """Of the questions that need no picture and that the model knows, one with the surface of each pictured one
        that is refused: finished ones without a picture, and those that are to be asked beside an unrelated one."""
        by_id = {each.sample.id: each for each in bare}
        models = known or [each.sample for each in bare]
        found: dict[str, list[Draft]] = {"text_normal": [], "mismatch": []}
        for kind, drafts in found.items():
            texts = Texts([each.sample for each in bare], f"{kind} {self.seed}")  # each may take the same question
            for number in range(self.wanted(kind) if models else 0):
                sample = texts.like(models[number % len(models)])
                if sample is not None:
                    drafts.append(by_id[sample.id])
        beside = [self._mismatch(each) for each in found["mismatch"]] if self.pictured else []
        return found["text_normal"], beside

    def _mismatch(self, each: Draft) -> Draft:
        question, images = each.prompt[0], self.rng.choice(self.pictured).images[:1]
        shown = question.model_copy(update={"content": [Part(type="image", index=0), *question.content]})
        return Draft("mismatch", each.sample, [shown], images, None, each.rejected)

    def _context(self, sample: Sample) -> Draft:
        same = [text for text in self.bare if text.language == sample.language]
        other = self.rng.choice(same or self.bare)
        return Draft("context", sample, [*other.messages, sample.messages[0]], sample.images, None, other.answer)

    def _refusal(self, sample: Sample, case: Case | None = None) -> str:
        """In the sample's language. Without a case there is nothing to refuse, and it is worded as it is elsewhere."""
        return refusal(case or self.rng.choice(self.case or ["missing"]), sample.language, self.rng, self.wordings)
