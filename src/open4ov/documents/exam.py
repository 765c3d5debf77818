"""Questions that a document prints: stem, options, figures and answers, recognised by rule.

A question begins with its number ("3.", "Question 3", "第 3 题") and reaches to the next one. Answers stand behind the
question ("Answer: B", "【答案】B") or in a key ("Answer key: 1. B 2. C", "参考答案 1-5 BCADA"). A numbered line is a
question only if it has options, asks something, or is answered: lists and numbered headings are neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from open4ov.documents.blocks import Block
from open4ov.documents.captions import mentions

_START = re.compile(
    r"^\s*(?:(?:question|problem|exercise|q\.?)\s*(?P<a>\d{1,3})\s*[.:)]?|\(?(?P<b>\d{1,3})\s*(?:[.)](?!\d)|[、．）])"
    r"|第\s*(?P<c>\d{1,3})\s*题\s*[.:：、]?)\s*(?P<rest>\S.*)?$",
    re.IGNORECASE | re.DOTALL,
)
_OPTION = re.compile(r"(?<![A-Za-z0-9])[(（]?([A-H])\s*[)）.．、:：](?!\d)\s*")
_ANSWER = re.compile(
    r"(?:[【\[](?:参考)?答案[】\]]\s*[:：]?|(?<![一-鿿])(?:参考)?答案\s*[:：]"
    r"|(?<![A-Za-z])(?:correct )?answer\s*(?:is\s*)?[:：])\s*",
    re.IGNORECASE,
)
_SOLUTION = re.compile(
    r"[【\[](?:解析|分析|解答|点评)[】\]]|(?<![一-鿿])(?:解析|分析|解)\s*[:：]|\b(?:solution|explanation)\s*[:：]",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"^\s*(?:answer key|answers?(?: to .{0,60})?|key to .{0,60}|solutions|(?:参考)?答案(?:与解析|及解析)?)\s*[:：]?\s*",
    re.IGNORECASE,
)
_KEY_RUN = re.compile(r"(\d{1,3})\s*[-–—~～至]\s*(\d{1,3})\s*[.:：、]?\s*([A-H](?:\s*[A-H])+)(?![a-z])")
_KEY_ITEM = re.compile(
    r"(?<![\d.])(\d{1,3})\s*[.)、．:：）]\s*(.+?)(?=\s*[;；,，]?\s*(?<![\d.])\d{1,3}\s*(?:[.)](?!\d)|[、．:：）])\s*|$)",
    re.DOTALL,
)
_ASKS = re.compile(
    r"[?？]|_{2,}|[（(]\s*[)）]|(?:^|[.!?]\s+)(?:calculate|determine|find|name|state|identify|estimate|"
    r"work out|explain)\b|多少|哪|什么|求|写出",
    re.IGNORECASE,
)
_CUE = re.compile(
    r"\b(?:figures?|fig\.|diagrams?|graphs?|charts?|pictures?|images?|maps?|photos?|photographs?|illustrations?|drawings?|"
    r"plots?|sketch|shown|pictured|depicted|circuit below|shaded)\b|如图|图中|下图|上图|右图|左图|图示"
    r"|所示|图\s*\d|看图|据图|由图|读图|示意图|图形|阴影",
    re.IGNORECASE,
)  # fmt: skip
_ABOVE = re.compile(r"\babove\b|上图|preceding|previous figure", re.IGNORECASE)


@dataclass
class Printed:
    """A question as it stands in a document. `options` by letter; `answer` as printed; `figures` in reading order."""

    number: int
    blocks: list[Block]
    text: str = ""
    options: dict[str, str] = field(default_factory=dict[str, str])
    answer: str | None = None
    figures: list[Block] = field(default_factory=list[Block])

    @property
    def language(self) -> Literal["en", "zh"]:
        return "zh" if re.search(r"[\u3400-\u9fff]", self.text) else "en"

    @property
    def asks(self) -> bool:
        return len(self.options) >= 2 or _ASKS.search(self.text) is not None or self.answer is not None

    @property
    def points_at_picture(self) -> bool:
        """Whether the words say that there is something to look at."""
        return _CUE.search(self.text) is not None


def printed(blocks: Iterable[Block]) -> Iterator[Printed]:
    """The questions among a document's blocks, in order, with their answers where the document gives them."""
    found: list[Printed] = []
    before: list[Block] = []
    key = False
    labelled: dict[str, Block] = {}
    for block in blocks:
        if block.kind == "margin":
            continue
        if block.kind == "figure":
            if block.label:
                labelled[block.label] = block
            (found[-1].figures if found and not key else before).append(block)
            continue
        if block.kind in ("caption", "table", "equation") and not _START.match(block.text):
            continue
        opens = _KEY.match(block.text)
        if (
            opens
            and found
            and (block.kind == "heading" or opens.end() == len(block.text) or _is_key(block.text[opens.end() :]))
        ):
            key = True
            _apply(block.text[opens.end() :], found)
            continue
        start = _START.match(block.text)
        if key and not (start and _begins(block.text, start, found)):
            _apply(block.text, found)
            continue
        if start:
            key = False
            number = int(next(value for value in (start["a"], start["b"], start["c"]) if value))
            question = Printed(number, [block], start["rest"] or "")
            if not found:
                question.figures, before = [*before] if _ABOVE.search(question.text) else [], []
            found.append(question)
        elif found and block.kind == "text":
            found[-1].blocks.append(block)
            found[-1].text += "\n" + block.text
        elif found and block.kind == "heading":
            key = False
    _settle(found, labelled)
    yield from (question for question in found if question.asks)


def _is_key(text: str) -> bool:
    return bool(_KEY_RUN.search(text)) or len(_KEY_ITEM.findall(text)) >= 2


def _begins(text: str, start: re.Match[str], found: list[Printed]) -> bool:
    """In a key: whether a numbered line is a new question and not a further answer: long, or with options."""
    rest = start["rest"] or ""
    return len(_options(rest)[1]) >= 2 or (bool(re.search(r"[?？]", rest)) and len(rest) > 15)


def _settle(found: list[Printed], labelled: dict[str, Block]) -> None:
    """Options, answers and figures, when all of the text is there."""
    for question in found:
        if question.answer is None:
            parts = _ANSWER.split(question.text, maxsplit=1)
            if len(parts) == 2:
                question.text, said = parts
                question.answer = _SOLUTION.split(said)[0].strip().rstrip("。.").strip() or None
        question.text = _SOLUTION.split(question.text)[0]
        question.text, question.options = _options(question.text)
        question.text = re.sub(r"\s+", " ", question.text).strip()
        named = [labelled[label] for label in sorted(mentions(question.text)) if label in labelled]
        if named:
            question.figures = named
    for earlier, question in pairwise(found):
        # figure first, question after: the figure that ended the question before, which has no use for it
        wants = question.points_at_picture and not question.figures
        if wants and earlier.figures and (_ABOVE.search(question.text) or not earlier.points_at_picture):
            question.figures = [earlier.figures[-1]]
            if not earlier.points_at_picture:
                earlier.figures = earlier.figures[:-1]


def _options(text: str) -> tuple[str, dict[str, str]]:
    """The stem, and the options that follow it as A, B, C, ... by letter; none if there is no run from A."""
    marks = list(_OPTION.finditer(text))
    for first, mark in enumerate(marks):
        if mark[1] != "A":
            continue
        run: list[re.Match[str]] = []
        for candidate in marks[first:]:
            if candidate[1] == chr(ord("A") + len(run)):
                run.append(candidate)
        if len(run) < 2:
            continue
        ends = [*(other.start() for other in run[1:]), len(text)]
        options = {
            one[1]: re.sub(r"\s+", " ", text[one.end() : end]).strip(" ;；") for one, end in zip(run, ends, strict=True)
        }
        return text[: mark.start()], options
    return text, {}


def _apply(text: str, found: list[Printed]) -> None:
    """Answers of a key, each to the latest unanswered question of its number."""
    answers: list[tuple[int, str]] = []
    for match in _KEY_RUN.finditer(text):
        first, last, letters = int(match[1]), int(match[2]), re.sub(r"\s", "", match[3])
        if last - first + 1 == len(letters):
            answers += [(first + i, letter) for i, letter in enumerate(letters)]
    rest = _KEY_RUN.sub(" ", text)
    answers += [(int(match[1]), match[2].strip().rstrip(";；,，。.")) for match in _KEY_ITEM.finditer(rest)]
    for number, answer in answers:
        question = next((one for one in reversed(found) if one.number == number and one.answer is None), None)
        if question is not None and answer:
            question.answer = answer
