"""Answers that choose: yes or no, and the letters of multiple choice.

Yes and no agree across English and Chinese, as one word and no more. A letter may stand in brackets, behind "option" or
选项, or before the text of its option ("B. 12 cm"); where both sides have such a text, it must agree too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_YES = {"yes", "true", "correct", "是", "是的", "对", "对的", "正确"}
_NO = {"no", "false", "incorrect", "不是", "不", "否", "不对", "错", "错误", "错的", "不正确"}

_LEAD = (
    r"(?:(?:the )?(?:correct |right |best )?(?:answer|option|choice)s?(?: is| are)?:?|(?:正确)?答案(?:是|为)?:?"
    r"|选项?|应选)"
)
_LETTER = re.compile(
    rf"(?:{_LEAD} ?)?(?:\(([A-Ja-j])\)|\[([A-Ja-j])\]|([A-Ja-j])(?=[).\]、:,]| ?$))[).\]、:,]? ?(.*)", re.IGNORECASE
)
_LETTERS = re.compile(rf"(?:(?i:{_LEAD}) ?)?\(?([A-J](?:(?: ?[,、和及;] ?| and | ?, and )?[A-J])+)\)?\.?")


@dataclass(frozen=True)
class Choice:
    """The letters chosen, capital, and what is written beside a single one."""

    letters: frozenset[str]
    text: str = ""


def yes(text: str) -> bool | None:
    """Whether a normalised, simplified text is a yes or a no; None for anything else."""
    return True if text in _YES else False if text in _NO else None


def choice(text: str) -> Choice | None:
    """The letters that a tidy text names, if that is all it does."""
    if len(text) > 200:
        return None
    if found := _LETTERS.fullmatch(text):
        letters = re.findall(r"[A-J]", found[1])
        return Choice(frozenset(letters)) if len(set(letters)) == len(letters) else None
    if found := _LETTER.fullmatch(text):
        letter = found[1] or found[2] or found[3]
        return Choice(frozenset(letter.upper()), found[4].strip())
    return None


def agree(given: str, reference: str, same: Callable[[str, str], bool]) -> bool | None:
    """Whether two tidy texts choose alike; None where the reference is no choice, or neither looks like one.
    `same` compares the texts beside letters."""
    wanted = choice(reference)
    if wanted is None:
        return None
    said = choice(given)
    if said is None:
        return same(given, wanted.text) if wanted.text else None
    if said.letters != wanted.letters:
        return False
    return not (said.text and wanted.text) or same(said.text, wanted.text)
