"""The options that a question lists, found in its text: on lines of their own or behind one another, lettered in any of
the usual ways, or as a plain list behind "Choices:"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_FORMS: tuple[tuple[re.Pattern[str], bool, int], ...] = (
    (re.compile(r"(?m)^[ \t]*(?:[-*•][ \t]*)?[(（\[]?([A-Ha-h])[ \t]*[)）\].．、:：][ \t]*"), True, 2),
    (re.compile(r"(?m)^[ \t]*([A-H])[ \t]+(?=\S)"), True, 3),
    (re.compile(r"(?<![A-Za-z0-9∠])[(（\[]?([A-H])\s*[)）\].．、:：](?!\d)\s*"), False, 2),
    (re.compile(r"(?<![A-Za-z0-9])[(（]?([a-h])[)）]\s*"), False, 2),
    (re.compile(r"(?:^|(?<=\s))([A-H])[.．、](?=\d)"), False, 3),
)
"""How options are marked, whether on lines of their own, and how many there must be: `A.1` may be a figure's number"""
_WIDE = {0xFF21 + i: 0x41 + i for i in range(8)}
"""Ａ to Ｈ"""
_NUMBERED = re.compile(r"(?m)^[ \t]*[(（\[]?(\d)[ \t]*[)）\].．、:：](?!\d)[ \t]*")
_HEADER = re.compile(
    r"(?:^|(?<=[\s?？.。!：:]))(?:the )?(?:answer )?(?:options?|choices?|选项|备选答案)\s*(?:are)?\s*[:：][ \t]*", re.I
)
_BULLET = re.compile(r"(?m)^[ \t]*[-*•][ \t]+")
_ASK = re.compile(r"[?？]")
LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Listed:
    """`stem`: the text before the options; `options` by letter; `after`: what stands behind them on lines of its own;
    `numbered`: the options had numbers, so that an answer "2" may be a number or a place."""

    stem: str
    options: dict[str, str]
    after: str = ""
    numbered: bool = False


def listed(question: str) -> Listed | None:
    """The options of a question; None where it lists none."""
    question = question.translate(_WIDE)
    for marks, lines, least in _FORMS:
        if (found := _lettered(question, list(marks.finditer(question)), lines, least)) is not None:
            return found
    return _headed(question)


def numbered(question: str) -> Listed | None:
    """Lines numbered 1, 2, ... at the end of a question."""
    return _lettered(question, list(_NUMBERED.finditer(question)), lines=True, least=2, names="12345678")


def given(options: object) -> dict[str, str] | None:
    """Options that came beside the question: a mapping by letter, or a list in the order of the letters."""
    if isinstance(options, dict):
        found = {str(key): str(value).strip() for key, value in options.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return found if len(found) > 1 and all(key in LETTERS for key in found) else None
    if isinstance(options, Sequence) and not isinstance(options, str):
        texts = [str(one).strip() for one in options]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return dict(zip(LETTERS, texts, strict=False)) if 1 < len(texts) <= len(LETTERS) else None
    return None


def _lettered(
    text: str, marks: Sequence[re.Match[str]], lines: bool, least: int, names: str = LETTERS
) -> Listed | None:
    """The last run of at least so many marks A, B, ... that reaches the end: what is asked stands before it."""
    for first in range(len(marks) - 1, -1, -1):
        if marks[first][1].upper() != names[0]:
            continue
        run: list[re.Match[str]] = []
        for mark in marks[first:]:
            if len(run) < len(names) and mark[1].upper() == names[len(run)]:
                run.append(mark)
        if len(run) < least:
            continue
        ends = [*(mark.start() for mark in run[1:]), len(text)]
        options = {mark[1].upper(): text[mark.end() : end] for mark, end in zip(run, ends, strict=True)}
        last, after = run[-1][1].upper(), ""
        if lines:  # an instruction may stand on the lines below
            options[last], _, after = options[last].partition("\n")
        plain = {key: _plain(value) for key, value in options.items()}
        if _ASK.search(options[last]) or (not lines and not all(map(_said, plain.values()))):
            continue  # "In pictures (A) and (B), how many ...?", "points A、B、C": no options
        stem = _HEADER.sub("", text[: run[0].start()])
        return Listed(stem.strip(), plain, after.strip(), names != LETTERS)
    return None


def _headed(text: str) -> Listed | None:
    """A plain list behind "Options:"."""
    headers = list(_HEADER.finditer(text))
    if not headers:
        return None
    rest = text[headers[-1].end() :].strip()
    body, _, after = rest.partition("\n\n")
    if _BULLET.search(body):
        items = [part for part in _BULLET.split(body) if part.strip()]
    elif "\n" in body:
        items = body.split("\n")
    else:
        items = re.split(r"\s*[,，;；、|/]\s*", body.strip("[]()"))
    texts = [_plain(item.strip().strip("'\"")) for item in items]
    if not 2 <= len(texts) <= len(LETTERS) or not all(texts) or _ASK.search(body):
        return None
    return Listed(text[: headers[-1].start()].strip(), dict(zip(LETTERS, texts, strict=False)), after.strip())


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip(" ;；,，、")


def _said(option: str) -> bool:
    """Whether something stands behind a mark, and not only what joins it to the next."""
    return bool(option) and option not in ("and", "or", "和", "与", "及")
