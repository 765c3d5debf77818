"""Against single-modal spurious correlations (paper §3.2.3): when a question needs the picture, and when not.

- text_only: an image-free question, answered normally
- unrelated_image: a picture is shown, the question needs none of it
- related_image: a picture is shown and the question needs it
- unrelated_dialogue: two to five turns; some are about the picture, others are not, and it may come in any of them

What decides is the sense of the question, and nothing on its surface may tell the same: for every question about a
picture, its counterpart without one is drawn from the questions in the same language, with or without a box alike, and
of like length; in dialogues both take every place equally often (the patterns come with their complements).
Refusing to answer about a picture that is missing is not taught here but by DPO (`rl/hallucination.py`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from itertools import product

from open4ov.answers import plainly
from open4ov.sample import Message, Sample, assistant, user
from open4ov.sft.preference.draft import Draft
from open4ov.sft.preference.pool import LANGUAGES, Group, Pool, Turn, thing, turns

TURNS = (2, 5)
"""Fewest and most turns of a dialogue."""
EARLY = 0.5
"""Share of the dialogues that show the picture as early as can be; in the others it comes anywhere."""
LENGTH_STEP = {"en": 10, "zh": 4}
"""Questions whose lengths (characters, without the instruction to box) fall into one step of so many are alike."""
BACK = {
    "en": ("Back to the picture: ", "About the picture: ", "Now the picture: "),
    "zh": ("回到图片：", "关于图片：", "再看图片："),
}
AWAY = {
    "en": ("Something else: ", "Another question: ", "Leaving that: "),
    "zh": ("换个话题：", "另一个问题：", "换一件事："),
}

Cell = tuple[str, bool, int]


class Relevance:
    """Draws from a pool. `missing`: why a kind cannot be made at all."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.texts: dict[Cell, list[Turn]] = {}
        for language in LANGUAGES:
            for sample in pool.texts[language]:
                for turn in turns(sample):
                    self.texts.setdefault(cell(turn), []).append(turn)
        self.pictures = {language: self._matched(pool.pictures[language]) for language in LANGUAGES}
        self.languages = [name for name in LANGUAGES if self.pictures[name]]
        self.everything = [group[0] for groups in pool.pictures.values() for group in groups]
        self.worded = [name for name in LANGUAGES if pool.texts[name]]

    def missing(self, kind: str) -> str | None:
        if not self.worded:
            return "there is no question without a picture"
        if kind != "text_only" and not self.everything:
            return "there is no question about one picture"
        if kind != "text_only" and not self.languages:
            return "no question without a picture is like one about a picture in language, box and length"
        return None

    def draw(self, kind: str, rng: random.Random) -> Draft | None:
        """One sample of a kind that is not missing; None when the draw does not fit together."""
        if kind == "text_only":
            turn = rng.choice(turns(rng.choice(self.pool.texts[rng.choice(self.worded)])))
            return _single(kind, turn, [])
        group = rng.choice(self.pictures[rng.choice(self.languages)])
        if kind == "related_image":
            turn = rng.choice(group)
            return _single(kind, turn, turn.sample.images)
        if kind == "unrelated_image":
            other = self._other(group, thing(group[0].sample), rng)
            shown = rng.choice(self.everything) if thing(other.sample) is None else group[0].sample
            return _single(kind, other, shown.images, beside=shown)
        return self._dialogue(group, rng)

    def _matched(self, groups: Sequence[Group]) -> list[list[Turn]]:
        """Of each picture, the questions that have a counterpart without one."""
        found = ([t for sample in group for t in turns(sample) if cell(t) in self.texts] for group in groups)
        return [group for group in found if group]

    def _other(self, group: Sequence[Turn], name: str | None, rng: random.Random) -> Turn:
        """A question without a picture, like one of the group's, and not about what the picture shows."""
        alike = self.texts[cell(rng.choice(group))]
        for _ in range(8):
            turn = rng.choice(alike)
            if name is None or thing(turn.sample) != name:
                break
        else:
            turn = next((t for t in alike if thing(t.sample) != name), alike[0])
        return turn

    def _dialogue(self, group: Sequence[Turn], rng: random.Random) -> Draft | None:
        picture, name = group[0].sample, thing(group[0].sample)
        own = _distinct(group, rng)
        count = rng.randint(*TURNS)
        places = [place for place in range(count) if _patterns(count - place, place == 0, len(own))]
        at = places[0] if rng.random() < EARLY else rng.choice(places)
        pattern = [False] * at + list(rng.choice(_patterns(count - at, at == 0, len(own))))
        said: list[Turn] = []
        for about in pattern:
            turn = own.pop() if about else self._other(group, name, rng)
            for _ in range(8):
                if not any(turn.sample.id == t.sample.id for t in said):
                    break
                turn = self._other(group, name, rng)
            else:
                return None
            said.append(turn)
        language, messages = picture.language, list[Message]()
        for place, (turn, about) in enumerate(zip(said, pattern, strict=True)):
            question = turn.question
            if place > at and about != pattern[place - 1]:
                question = rng.choice((BACK if about else AWAY)[language]) + question
            messages += [user(question, images=int(place == at)), assistant(turn.response)]
        answers = [turn.sample.answer or turn.response for turn in said]
        parts = [picture, *(turn.sample for turn in said if turn.sample is not picture)]
        about_it: dict[str, object] = {
            "turns": ["related" if about else "unrelated" for about in pattern],
            "picture_at": at,
        }
        return Draft("unrelated_dialogue", parts, messages, list(picture.images), answers, about=about_it)


def cell(turn: Turn) -> Cell:
    """What can be seen on a question's surface: language, box, and length in steps."""
    language = turn.sample.language
    bare = (plainly(turn.question) or turn.question) if turn.boxed else turn.question
    return language, turn.boxed, len(bare) // LENGTH_STEP[language]


@cache
def _patterns(count: int, mixed: bool, most: int) -> list[tuple[bool, ...]]:
    """Which of `count` turns are about the picture, at most `most` of them and as many that are not: all patterns, or
    those with both kinds. Either way each turn is about it in half of them."""
    every = product((False, True), repeat=count)
    fit = (one for one in every if one.count(True) <= most and one.count(False) <= most)
    return [one for one in fit if not mixed or len(set(one)) == 2]


def _distinct(group: Sequence[Turn], rng: random.Random) -> list[Turn]:
    """The turns in random order, of those with the same answer one."""
    return list({turn.sample.answer or turn.response: turn for turn in rng.sample(group, len(group))}.values())


def _single(kind: str, turn: Turn, images: Sequence[str], beside: Sample | None = None) -> Draft:
    sample = turn.sample
    messages = [user(turn.question, images=len(images)), assistant(turn.response)]
    parts = [sample] if beside is None else [sample, beside]
    return Draft(kind, parts, messages, list(images), [sample.answer or turn.response], sample)
