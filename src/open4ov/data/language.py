"""Which language a text is written in, English or Chinese, by its script; None where it does not tell."""

from __future__ import annotations

import re
from typing import Literal

_HAN = re.compile(r"[\u3400-\u9fff]")
_LATIN = re.compile(r"[A-Za-z]+")
SENTENCE = 6  # words, or twice as many Han characters: shorter texts may be quoted from the image


def written_in(text: str) -> Literal["en", "zh"] | None:
    """`zh` where Han characters are at least half as many as Latin words, `en` where there are Latin words and few Han
    characters; None for digits and signs alone."""
    han, latin = len(_HAN.findall(text)), len(_LATIN.findall(text))
    if han and han >= latin / 2:
        return "zh"
    return "en" if latin else None


def answers_in(text: str, language: str) -> bool:
    """Whether a response may be one in `language`: a whole sentence in the other language alone may not. A word or two
    may be read from the image and stay in its language."""
    han, latin = len(_HAN.findall(text)), len(_LATIN.findall(text))
    if language == "zh":
        return han > 0 or latin < SENTENCE
    return latin > 0 or han < 2 * SENTENCE
