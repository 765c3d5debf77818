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

Where the model's one answer without the picture is right all the same, there is nothing made up to reject: the sample
makes no pair, is counted (`guessed_blind`) and named. Whether language gave it away or it was a guess one answer does
not tell; that is the leakage screen's question (`leakage.py`), which asks several times.

Where the model's own greedy answer is right, it is the chosen one: pairs then move what must change and little else.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from open4ov.answers import agrees
from open4ov.engine import Request
from open4ov.recipe_dpo import ABLATED, MADE, MIX
from open4ov.refusals import denies, refuses
from open4ov.rl.preference.drafting import Draft, Maker
from open4ov.rl.preference.human import make_pair
from open4ov.rollouts import Answers
from open4ov.sample import Sample

Progress = Callable[[str, int, int], None]
KINDS = MADE
MAX_TOKENS = 64


@dataclass
class Made:
    """The pairs; `counts`: by kind, and `guessed_blind` (the answer without the picture is right), `not_known` (the
    model cannot answer the question with its picture, which is not what these pairs are to teach), `already_right` (the
    model needed no such pair), `said_nothing` (its answer is empty), `cannot` (the annotation does not say what a
    picture shows). `guessed`: ids of samples that were answered rightly without their picture."""

    pairs: list[Sample]
    counts: dict[str, int]
    guessed: list[str]


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
    wordings: int | None = None,
) -> Made:
    """About `count` pairs of single-question samples with references.

    A pair is a Sample: `messages` end with the chosen response, `rejected` holds the other, `extra["pair"]` the kind.
    get, put: pictures from and into the run's store (changed pictures need `put`). texts: the questions without a
    picture; else those among the samples. wordings: of a refusal, the first so many; None: all.
    """
    usable = [s for s in samples if s.answer and [m.role for m in s.messages] == ["user", "assistant"]]
    pictured = [s for s in usable if s.images]
    bare = [s for s in (usable if texts is None else texts) if s.answer and not s.images]
    maker = Maker(pictured, bare, mix, count, seed, get, put, wordings)
    answer = _Answering(engine, get, seed, progress)
    kept = _Kept()
    known = _known(maker, answer, kept)  # first what the model sees rightly: the other kinds are made of these
    bare_known = [*kept.completed(answer(maker.bare_drafts()))]
    chosen, drafts = maker.alike(known, bare_known)
    for each in chosen:
        kept.take(each)
    others, cannot = maker.others(known)
    kept.counts["cannot"] += cannot
    for each in kept.completed(answer([*drafts, *others])):
        kept.take(each)
    return kept.made()


def _known(maker: Maker, answer: _Answering, kept: _Kept) -> list[Sample]:
    """The samples that the model answers rightly with their picture; of as many as are wanted the pairs are kept."""
    known: list[Sample] = []
    controls: list[Sample] = []
    for drafts in maker.normal(known):
        for each in kept.completed(answer(drafts)):
            known.append(each.sample)
            controls.append(_pair(each))
    kept.pairs.update((pair.id, pair) for pair in controls[: maker.wanted("image_normal")])
    return known


class _Kept:
    """The pairs, by id, and what became of the other drafts (see `Made`)."""

    def __init__(self) -> None:
        self.pairs: dict[str, Sample] = {}
        self.counts: Counter[str] = Counter()
        self.guessed: dict[str, None] = {}

    def completed(self, answered: Iterable[tuple[Draft, str]]) -> Iterator[Draft]:
        """The drafts that the model's own answers make pairs of; the others are counted."""
        for each, own in answered:
            verdict = complete(each, own)
            if verdict == "guessed_blind":
                self.guessed[each.sample.id] = None
            if verdict is None:
                yield each
            else:
                self.counts[verdict] += 1

    def take(self, each: Draft) -> None:
        pair = _pair(each)
        self.pairs.setdefault(pair.id, pair)

    def made(self) -> Made:
        kinds = Counter(str(pair.extra["pair"]) for pair in self.pairs.values())
        told = {name: number for name, number in (self.counts + kinds).items() if number}
        return Made(list(self.pairs.values()), dict(sorted(told.items())), list(self.guessed))


def complete(pair: Draft, own: str) -> str | None:
    """Fills a draft from the model's own answer; gives the reason when it makes no pair."""
    answer, reference = pair.sample.answer, pair.sample.messages[-1].text
    assert answer is not None
    right = agrees(own, answer, pair.sample.aliases)
    if pair.kind in ABLATED:
        if refuses(own) if pair.kind == "missing_image" else refuses(own) or denies(own):
            return "already_right"
        if right:
            return "guessed_blind"
        pair.rejected = own
    elif pair.kind == "context":
        pair.chosen = own if right else reference
        pair.rejected = pair.rejected if right else own
    elif pair.kind in ("image_normal", "text_normal", "mismatch"):
        if not right:
            return "not_known"
        pair.chosen = own
    if not (pair.rejected or "").strip():
        return "said_nothing"
    if (pair.rejected or "").strip() == (pair.chosen or "").strip():
        return "already_right"
    return None


class _Answering:
    """The model's own answers to drafts: greedy, but for what it makes up without its picture. Brevity pairs want
    none."""

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
            if each.kind != "brevity"
        ]

        def tell(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress("answering for pairs", done, total)

        said = iter(self.engine.generate(requests, tell) if requests else ())
        for each in drafts:
            yield each, "" if each.kind == "brevity" else next(said)[0].text


def _pair(each: Draft) -> Sample:
    assert each.chosen is not None
    assert each.rejected is not None
    said, about = (each.chosen, each.rejected), list(each.about)
    return make_pair(each.sample, *said, each.kind, prompt=each.prompt, images=each.images, pair_about=about)
