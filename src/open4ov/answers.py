"""The verifier: what a response answers, and whether that is right (paper §4.1.1, eq. 1).

Training rewards only what stands in the last \\boxed{}; `agrees` also reads unboxed short answers, for grading the
difficulty of ordinary question-answer samples and for the leakage screen.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from open4ov.sample import Message, Part

INSTRUCTION = {
    "en": "The final answer MUST BE put in \\boxed{}.",
    "zh": "最终答案必须放在 \\boxed{} 中。",
}
"""The end of a question whose answer is to be verified (paper §4.1.1)."""

SENTENCE_WORDS = 5
"""References of at least this many words are sentences: they agree by word overlap, not letter by letter."""

SENTENCE_F1 = 0.7

_CJK = "\u3400-\u9fff\uf900-\ufaff"
_OUTER = " ,;:!?\"'`*()[]{}。、，；：！？「」“”《》"
_UNITS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = {
    word: 10 * tens
    for tens, word in enumerate(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), start=2)
}
_ZH_DIGITS = {**{digit: value for value, digit in enumerate("零一二三四五六七八九")}, "〇": 0, "两": 2}
_ZH_CLASSIFIERS = "个只辆块张条颗根本件位"
_LATEX_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{...}, nested braces kept; None without one, or when the last is never closed.

    An unclosed last box is an answer cut off by the token limit: an earlier, intermediate box is not the answer.
    An empty box is None too.
    """
    starts = list(re.finditer(r"\\(?:boxed|fbox)\s*\{", text))
    if not starts:
        return None
    begin = starts[-1].end()
    depth = 1
    for position in range(begin, len(text)):
        character = text[position]
        if text[position - 1] == "\\" and character in "{}":
            continue  # \{ and \} are letters, not groups
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[begin:position].strip() or None
    return None


def plainly(question: str) -> str | None:
    """A question without the instruction to box its answer; None when it has none."""
    for instruction in INSTRUCTION.values():
        if instruction in question:
            return question.replace(instruction, "").strip()
    return None


def boxed_prompt(messages: Sequence[Message], language: str = "en") -> list[Message]:
    """The messages with the \\boxed{} instruction at the end of the last one, unless they ask for it already (paper
    §4.1.1)."""
    prompt = list(messages)
    if any("\\boxed" in message.text for message in prompt):
        return prompt
    last = prompt[-1]
    text = " " + INSTRUCTION[language] if language == "en" else INSTRUCTION[language]
    prompt[-1] = last.model_copy(update={"content": [*last.content, Part(type="text", text=text)]})
    return prompt


def normalise(text: str) -> str:
    """One spelling of an answer: no LaTeX dress, width, case, outer punctuation, leading article or extra spaces."""
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-").replace("’", "'")
    for pattern, replacement in ((_LATEX_WRAPPER, r"\1"), (_FRACTION, r"\1/\2")):
        while (shorter := pattern.sub(replacement, text)) != text:
            text = shorter
    text = re.sub(r"\\(?:left|right|displaystyle|!|,|;|:|quad|qquad)(?![a-zA-Z])", " ", text)
    text = re.sub(r"\\([%$&#_{}])", r"\1", text)
    text = re.sub(r"\s+", " ", text.replace("$", " ").casefold()).strip()
    text = text.lstrip(_OUTER).rstrip(_OUTER + ".")
    text = re.sub(r"^(?:a|an|the) (?=\S)", "", text)
    return re.sub(rf"(?<=[{_CJK}]) | (?=[{_CJK}])", "", text)


def number(text: str) -> Fraction | None:
    """The number a whole normalised text stands for: digits, fractions, English and Chinese number words; else None."""
    compact = text.replace(" ", "")
    if re.fullmatch(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", compact):
        compact = compact.replace(",", "")
    if re.fullmatch(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:/\d+)?", compact) and not re.search(r"\d \d", text):
        top, _, bottom = compact.partition("/")
        return None if bottom and int(bottom) == 0 else Fraction(top.rstrip(".")) / (int(bottom) if bottom else 1)
    return _english(text) if text.isascii() else _chinese(compact)


def same(given: str, reference: str) -> bool:
    """Whether two answers are equal as normalised texts, or as numbers when both are numbers."""
    left, right = normalise(given), normalise(reference)
    if left == right:
        return bool(left)
    left_number, right_number = number(left), number(right)
    return left_number is not None and left_number == right_number


def correct(response: str, answer: str, aliases: Sequence[str] = ()) -> bool:
    """Whether the response's last \\boxed{} holds the answer or one of its aliases."""
    given = boxed(response)
    return given is not None and any(same(given, reference) for reference in (answer, *aliases))


def agrees(response: str, answer: str, aliases: Sequence[str] = ()) -> bool:
    """Whether a response is right: by its \\boxed{} if it has one, else as a whole.

    A short reference must be equal; one of `SENTENCE_WORDS` words or more needs a word F1 of `SENTENCE_F1`.
    """
    if "\\boxed" in response:
        return correct(response, answer, aliases)
    return any(_reads_as(response, reference) for reference in (answer, *aliases))


def words(text: str) -> list[str]:
    """Latin words and numbers of a normalised text, and each Chinese character on its own."""
    return re.findall(rf"[{_CJK}]|[^\W_{_CJK}]+", normalise(text))


def _reads_as(response: str, reference: str) -> bool:
    if same(response, reference):
        return True
    given, wanted = Counter(words(response)), Counter(words(reference))
    if wanted.total() < SENTENCE_WORDS or not given:
        return False
    return 2 * (given & wanted).total() / (given.total() + wanted.total()) >= SENTENCE_F1


def _english(text: str) -> Fraction | None:
    parts = text.replace("-", " ").split()
    if len(parts) == 1 and parts[0] in _UNITS:
        return Fraction(_UNITS.index(parts[0]))
    if len(parts) == 1 and parts[0] in _TENS:
        return Fraction(_TENS[parts[0]])
    if len(parts) == 2 and parts[0] in _TENS and parts[1] in _UNITS[1:10]:
        return Fraction(_TENS[parts[0]] + _UNITS.index(parts[1]))
    return None


def _chinese(text: str) -> Fraction | None:
    """Numbers up to 999 in Chinese, and digits with a trailing classifier ("7个"); None for anything else."""
    if len(text) > 1 and text[-1] in _ZH_CLASSIFIERS:
        text = text[:-1]
        if text.isascii():
            return number(text)
    match = re.fullmatch(
        r"(?:([一二两三四五六七八九])百)?(?:零|〇)?(?:([一二三四五六七八九])?(十))?([零〇一二两三四五六七八九])?", text
    )
    if not match or not text:
        return None
    hundreds, tens, ten, ones = match.groups()
    return Fraction(
        100 * _ZH_DIGITS.get(hundreds or "零", 0)
        + (10 * _ZH_DIGITS.get(tens or "一", 1) if ten else 0)
        + _ZH_DIGITS.get(ones or "零", 0)
    )
