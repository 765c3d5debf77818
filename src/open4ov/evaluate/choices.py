"""Which option a response chooses, and whether it says yes or no.

Where a response does not decide, nothing is guessed: it is undecided, and counts as wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from open4ov.answers import boxed, normalise

_SAID = re.compile(
    r"(?:\b(?:answer|option|choice|choose|select)\b(?:\s+(?:is|are|would be|should be|letter))?|答案|选项|选择|应选|选)"
    r"\s*(?:是|为)?\s*[:：]?\s*[*_$\"'“(（\[{\\a-z]{0,12}?([A-Z])(?![A-Za-z'’])",
)
"""A letter after the words that announce an answer; emphasis, brackets and \\text{ may stand before it"""
_ALONE = re.compile(r"(?<![A-Za-z'’\d])([A-Z])(?![A-Za-z'’\d])")
_GOES_ON = re.compile(r"\s+(?!(?:and|or|nor|is|are|was|but|because|since|as|seems|looks|would)\b)[a-z]")
"""What follows an article or the pronoun; "A or B", "A is wrong" are about letters"""
_REASONED = re.compile(r"^.*</think>", re.DOTALL)
_YES = re.compile(r"\b(?:yes|true|correct)\b", re.IGNORECASE)
_NO = re.compile(r"\b(?:no|not|false|incorrect)\b|n't\b", re.IGNORECASE)
_ZH_NO = re.compile(r"不是|没有|不对|错误|否|不")
_ZH_YES = re.compile(r"是|对|正确|有")


def answer_part(response: str) -> str:
    """A response without the reasoning of thinking models before it."""
    return _REASONED.sub("", response).strip()


def chosen(response: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that a response chooses; None where it does not decide.

    In this order: the last box; a response that begins with a letter and its full stop, bracket or end; the last letter
    that is announced ("the answer is B"); the only letter that stands alone; the only option whose text the response
    is, or holds. `options` may be empty where they stand in the picture: then every letter is one.
    """
    text = answer_part(response)
    inner = boxed(text)
    if inner is not None:
        text = re.sub(r"^\\(?:text|mathrm|mathbf|textbf)\s*\{(.*)\}$", r"\1", inner).strip()
    letters = set(options) or set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    bare = text.strip(" \n\t*_`\"'“”.")
    first = re.match(r"[(（\[]?([A-Z])(?:[)）\]]?(?:[.,、:：)）*]|\s*\n|\s*$))", bare)
    if first and first[1] in letters and len(set(_standing(bare, letters))) <= 1:
        return first[1]
    said = [found[1] for found in _SAID.finditer(text) if found[1] in letters and not _article(text, found)]
    if said:
        return said[-1]
    alone = set(_standing(text, letters))
    if len(alone) == 1:
        return alone.pop()
    return None if alone else _by_text(text, options)


def _standing(text: str, letters: set[str]) -> list[str]:
    """Letters of options that stand alone, but for the words "A" and "I"."""
    return [found[1] for found in _ALONE.finditer(text) if found[1] in letters and not _article(text, found)]


def _article(text: str, found: re.Match[str]) -> bool:
    """Whether the letter is the article or the pronoun of a sentence: "A man", "I see"."""
    return found[1] in "AI" and _GOES_ON.match(text, found.end(1)) is not None


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    given = normalise(text)
    known = {letter: normalise(option) for letter, option in options.items()}
    alike = [letter for letter, option in known.items() if option == given]
    if len(alike) == 1:
        return alike[0]
    if len(given) > 2 * sum(map(len, known.values())) + 80:
        return None  # who repeats everything has not chosen
    held = [letter for letter, option in known.items() if option and _holds(given, option)]
    longest = [a for a in held if not any(a != b and _holds(known[b], known[a]) for b in held)]
    return longest[0] if len(longest) == 1 else None


def _holds(text: str, part: str) -> bool:
    """Whether `part` stands in `text` as whole words."""
    return re.search(rf"(?<![a-z0-9]){re.escape(part)}(?![a-z0-9])", text) is not None


def says_yes(response: str) -> bool | None:
    """Whether a response says yes (True) or no (False); None where it says neither, or both.

    Its first word decides, if it is one of them; else yes without any no, and the other way round.
    """
    text = answer_part(response)
    inner = boxed(text)
    text = (text if inner is None else inner).strip(" *_`\"'“”")
    first = re.match(r"(yes|no|true|false)\b", text, re.IGNORECASE)
    if first:
        return first[1].lower() in ("yes", "true")
    if re.match(r"(不|没|否|错)", text):
        return False
    if re.match(r"(是|对|正确|有)", text) and not re.match(r"(是否|有没有)", text):
        return True
    yes, no = _YES.search(text), _NO.search(text)
    if yes or no:
        return None if yes and no else yes is not None
    denies = _ZH_NO.search(text)
    if denies:
        return False
    return True if _ZH_YES.search(text) else None
