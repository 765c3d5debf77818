"""The second pass: what went wrong on the way from paper to text (paper §4.1.1), by rule.

Each finding is `drop` (the text cannot be trusted) or `flag` (kept, with the reason beside it). A model that reads the
picture goes over what the rules let pass; see `questions.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal


@dataclass(frozen=True)
class Defect:
    """What is wrong, how bad it is, and the piece of text that shows it."""

    kind: Literal["mojibake", "broken_words", "confusion", "reordered", "repeated", "self_talk", "markup"]
    verdict: Literal["drop", "flag"]
    piece: str

    @property
    def reason(self) -> str:
        return f"{self.kind}: {self.piece!r}"


_MOJIBAKE = re.compile(
    r"\ufffd|[\ue000-\uf8ff]|\(cid:\d+\)|锟斤拷|烫烫烫|屯屯屯"
    r"|[ÃÂ][\u0080-\u00bf]|â€[\u0080-\u00bf\u2018-\u203a™œ¦]?|Ã[A-Za-z©±¼¶¤§ª]|ï¿½|ï»¿"
    r"|[æçèéåä][\u0080-\u00bf\u2018-\u203a]{1,2}[æçèéåä]"
)
_SELF_TALK = re.compile(
    r"\bas an? (?:AI|(?:large )?language model|assistant)\b"
    r"|\blet me (?:re-?read|re-?check|look (?:again|at|closer)|re-?examine|"
    r"zoom|transcribe|see(?: the| if)|think)\b"
    r"|\bthe (?:text|image|picture|page) (?:says|reads|appears to (?:say|read|be|show)|seems to (?:say|read))\b"
    r"|\bI (?:can(?:no|')t|am (?:unable|not able) to) (?:read|see|make out|view|transcribe)\b"
    r"|\bI(?:'m| am) (?:sorry|not sure)\b"
    r"|\b(?:here is|here's|below is) the (?:transcri\w+|extracted|markdown|text|content|ocr)\b"
    r"|\bwait,|\bhmm\b|\bactually, (?:looking|re-?reading|it)\b"
    r"|\bI (?:will|need to|should|'ll) (?:transcribe|extract|output|re-?read)\b"
    r"|\b(?:sure|certainly)[,!] here\b|</?think>|<\|[a-z_]+\|>"
    r"|作为(?:一个|一名)?(?:AI|人工智能|语言模型|大模型)|让我(?:再|重新)?(?:看|读|仔细|检查|确认|想)"
    r"|(?:图片|图像|文本|文字)(?:中)?(?:写着|似乎|看起来|显示的是|内容如下)"
    r"|(?:以下|下面)是.{0,8}(?:提取|识别|转写|转录)|我(?:无法|不能)(?:看清|识别|读取|辨认)|抱歉，我|好的，(?:以下|下面|我)",
    re.IGNORECASE,
)
_SPACED = re.compile(r"(?<![\w'])(?:[A-Za-z] ){4,}[A-Za-z](?!\w)")
_HYPHEN = re.compile(r"\b[a-z]{3,}- [a-z]{2,}\b")
_SPACED_ZH = re.compile(r"(?:[\u4e00-\u9fff] ){5,}[\u4e00-\u9fff]")
_DIGIT_IN_WORD = re.compile(r"\b(?:[a-z]{2,}[01][a-z]{2,}|[a-z]?[01][a-z]{3,}|[a-z]{3,}[01][a-z])\b")
_LETTER_IN_NUMBER = re.compile(r"(?<![\w.])(?:\d+[OolIS](?=\d)[\dOolIS]*|\d{2,}[Ool](?!\w)|[Ol]\d[.,]\d+)(?![A-Za-z])")
_UNITS = re.compile(r"^\d+[lI]$")
_MIXED = re.compile(r"\b(?=\w*[A-Za-z])(?=\w*[\u0370-\u03ff\u0400-\u04ff])[A-Za-z\u0370-\u03ff\u0400-\u04ff]{4,}\b")
_LETTERS = re.compile(r"\bl{3,}\b|\b[A-Z]?[a-z]*vv[a-z]+\b")
_REPEAT = re.compile(r"(.{8,80}?[\s.,。，;；])\1{2,}|(\b\w+\b)(?:\s+\2\b){3,}|([\u4e00-\u9fff]{2,8})\3{3,}")
_END = re.compile(r"[.!?。！？…:：;；)\]）】”\"'’]\s*$")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^\s])|(?<=[。！？])")
_ABBREVIATIONS = re.compile(
    r"\b(?:e\.g|i\.e|etc|fig|figs|no|vs|cf|al|approx|dr|mr|mrs|ms|prof|eq|sec|ch|vol|pp?|st)\.$", re.IGNORECASE
)
_DANGLING = re.compile(r"\b(?:the|an|and|or)\s*[.!?]$")
# a command's or a variable's name may begin a sentence in lower case; these words do not
_GOES_ON = re.compile(
    r"(?:and|or|but|which|that|the|an?|of|in|is|are|was|were|when|where|then|to|for|with|from|by|its?|this|these|as|at|on|"
    r"than|so|because|if|while|who|whose|has|have|had|be|been|into|over|under|after|before|between|not|also|only)\s"
)


def text_defects(text: str) -> list[Defect]:
    """The defects of a text, worst first. No finding does not mean that it is right."""
    found: list[Defect] = []

    def add(kind: str, verdict: str, match: re.Match[str] | str) -> None:
        piece = match if isinstance(match, str) else match[0]
        found.append(Defect(kind, verdict, piece.strip()[:60]))  # pyright: ignore[reportArgumentType]

    if match := _MOJIBAKE.search(text):
        add("mojibake", "drop", match)
    if match := _SELF_TALK.search(text):
        add("self_talk", "drop", match)
    if match := _SPACED.search(text) or _SPACED_ZH.search(text):
        add("broken_words", "drop", match)
    elif match := _HYPHEN.search(text):
        add("broken_words", "flag", match)
    confused = [*_DIGIT_IN_WORD.finditer(text), *_MIXED.finditer(text), *_LETTERS.finditer(text)]
    confused += [match for match in _LETTER_IN_NUMBER.finditer(text) if not _UNITS.match(match[0])]
    if confused:
        add("confusion", "drop", confused[0])
    if match := _REPEAT.search(text):
        add("repeated", "drop", match)
    if piece := _reordered(text):
        add("reordered", "drop", piece)
    if text.count("{") != text.count("}") or len(re.findall(r"(?<!\\)\$", text)) % 2:
        add("markup", "flag", "braces or dollar signs that do not pair")
    return sorted(found, key=lambda defect: defect.verdict)


def _reordered(text: str) -> str | None:
    """The place where sentences do not follow one another: one that starts in the middle, or ends on a small word.

    Chinese says neither by its letters: there, only a sentence that begins with a comma or stop, and one given twice.
    """
    if re.match(r"[a-z]{2,}\s", text) and not _END.search(text):
        return text  # it starts and ends in the middle of a sentence
    sentences = [part.strip() for line in text.split("\n") for part in _SENTENCE.split(line) if part.strip()]
    for before, sentence in pairwise(sentences):
        if re.match(r"[,，、。;；](?!\d)", sentence):
            return sentence
        starts_low = _GOES_ON.match(sentence)
        if starts_low and re.search(r"[.!?]$", before) and not _ABBREVIATIONS.search(before):
            return sentence
    for sentence in sentences:
        if len(sentence) > 12 and _DANGLING.search(sentence):
            return sentence
    long = [sentence for sentence in sentences if len(sentence) > 25]
    twice = [sentence for sentence, count in Counter(long).items() if count > 1]
    return twice[0] if twice else None
