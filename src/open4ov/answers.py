"""The verifier: what a response answers, and whether that is right (paper §4.1.1, eq. 1).

Training rewards only what stands in the last \\boxed{}; `agrees` also reads unboxed short answers, for grading the
difficulty of ordinary question-answer samples and for the leakage screen.

Most answers are compared as texts and numbers, in microseconds. What is left is read, in `answers_reading.py`, as a
choice, a date, a quantity, a collection or an equation, and as mathematics last, in a process of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from open4ov import answers_chinese, answers_numbers, answers_reading
from open4ov.answers_text import normalise, tidy, words
from open4ov.sample import Message, Part

__all__ = ["INSTRUCTION", "SENTENCE_F1", "SENTENCE_WORDS", "agrees", "boxed", "boxed_prompt", "correct", "normalise",
           "number", "plainly", "same", "words"]  # fmt: skip

INSTRUCTION = {
    "en": "The final answer MUST BE put in \\boxed{}.",
    "zh": "最终答案必须放在 \\boxed{} 中。",
}
"""The end of a question whose answer is to be verified (paper §4.1.1)."""

SENTENCE_WORDS = 5
"""References of at least this many words are sentences: they agree by word overlap, not letter by letter."""

SENTENCE_F1 = 0.7

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|[^\s\\{}]")


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{...}, nested braces kept; None without one, or when the last is never closed.

    An unclosed last box is an answer cut off by the token limit: an earlier, intermediate box is not the answer.
    An empty box is None too. A box without braces holds one token, as in TeX (\\boxed7, \\boxed\\pi); of a box in a box
    the inner one counts.
    """
    starts = list(_BOX.finditer(text))
    if not starts:
        return None
    begin = starts[-1].end()
    if text[begin : begin + 1] != "{":
        token = _TOKEN.match(text, begin)
        return token[0] if token else None
    depth, escaped = 0, False
    for position in range(begin, len(text)):
        character = text[position]
        if escaped:
            escaped = False  # \{ and \} are letters, not groups
        elif character == "\\":
            escaped = True
        else:
            depth += (character == "{") - (character == "}")
            if depth == 0:
                return text[begin + 1 : position].strip() or None
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


def number(text: str) -> Fraction | None:
    """The number a whole normalised text stands for: digits, fractions, English and Chinese number words; else None."""
    compact = text.replace(" ", "")
    if ", " not in text and re.fullmatch(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", compact):
        compact = compact.replace(",", "")
    if re.fullmatch(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:/\d+)?", compact) and not re.search(r"\d \d", text):
        top, _, bottom = compact.partition("/")
        return None if bottom and int(bottom) == 0 else Fraction(top.rstrip(".")) / (int(bottom) if bottom else 1)
    if text.isascii():
        return answers_numbers.words(text) if compact.replace("-", "").isalpha() else None
    return _chinese(compact)


def same(given: str, reference: str) -> bool:
    """Whether an answer says the same as a reference: as a normalised text, as a number, or as what else the two are
    (`answers_reading.py`)."""
    left, right = normalise(given), normalise(reference)
    if left == right:
        return bool(left) and not answers_reading.contradict(given, reference)
    if not left or not right:  # brackets around nothing are the empty set
        return "∅" in (tidy(given), tidy(reference)) and tidy(given) == tidy(reference)
    left_number, right_number = number(left), number(right)
    if left_number is not None and left_number == right_number:
        return not answers_reading.contradict(given, reference)
    if left_number is not None and right_number is not None and "." not in left + right:
        return False
    return answers_reading.alike(given, reference, same)


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


def _reads_as(response: str, reference: str) -> bool:
    if same(response, reference):
        return True
    given, wanted = Counter(words(response)), Counter(words(reference))
    if wanted.total() < SENTENCE_WORDS or not given:
        return False
    return 2 * (given & wanted).total() / (given.total() + wanted.total()) >= SENTENCE_F1


def _chinese(text: str) -> Fraction | None:
    """Chinese numerals, and digits with a trailing classifier ("7个"); None for anything else."""
    if len(text) > 1 and text[-1] in answers_chinese.CLASSIFIERS and text[-1] not in answers_chinese.CHARACTERS:
        text = text[:-1]
        if text.isascii():
            return number(text)
    return answers_chinese.numeral(text)
