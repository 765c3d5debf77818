"""Do two questions ask the same thing in other words? By rules, in English and Chinese, without a model.

Two questions are compared by the weighted overlap (Dice) of what they are about (`paraphrase_reading.py`); words of
one root count in part. How much is needed depends on the answers: an equal answer that says something is evidence of
its own, an equal yes or 4 less so, different ones ask for the same wording. Some things are never overruled: different
numbers or signs, words that turn a question round (left for right, 最大 for 最小, a "not" on one side), and a word of
content exchanged for another in a sentence that is otherwise the same: that is how a new question is made of an old
one, while who says the same in other words changes more than one place.

What it cannot see: synonyms outside its list, and questions in another language. See docs/data.md for what it catches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from open4ov.answers import normalise, number, same, words
from open4ov.data.paraphrase_reading import LIGHT, TURNS, TWO, WEAK, read

SAME_ANSWER, WEAK_ANSWER, UNKNOWN_ANSWER, OTHER_ANSWER = 0.4, 0.5, 0.62, 0.9
"""Overlap from which two questions are one, by what is known of their answers."""

EXCHANGED = 0.7
"""Overlap from which two questions of one weak answer are one although each has a word of content of its own."""

REPLY = 8
"""Words of an answer beyond which it is a reply, in which a short answer may stand."""

LONG = 5
"""Words of content from which equal wording is enough."""

FRAME = 0.5
"""Share of the tokens that stand equal and in order, from which an exchanged word makes another question."""

ROOT = 5, 0.6
"""Letters that two words of one root have in common at the front, at least, and their share of the longer word."""

_NO_OTHERS = (frozenset[str](), frozenset([TWO]), frozenset([TWO, "2"]))  # in what the numbers may differ


@dataclass(frozen=True)
class Question:
    """A question as `alike` compares it. `tokens` in order, `bag` their counts. `answer` None: not known."""

    tokens: tuple[str, ...]
    bag: Mapping[str, int]
    numbers: frozenset[str]
    signs: tuple[str, ...]
    answer: str | None
    plain: str


def question(text: str, answer: str | None = None, options: Sequence[str] = ()) -> Question:
    """Reads a question. A letter as the answer stands for its option (A is the first)."""
    if answer is not None and len(answer.strip()) == 1 and answer.strip().isalpha() and options:
        place = ord(answer.strip().upper()) - ord("A")
        answer = options[place] if 0 <= place < len(options) else answer
    tokens, numbers, signs, plain = read(text)
    return Question(tokens, dict(Counter(tokens)), numbers, signs, answer, plain)


def alike(left: Question, right: Question) -> tuple[bool, float]:
    """Whether they ask the same, and the overlap of their bags in [0, 1]; equal long ones need no equal answers."""
    if left.plain and left.plain == right.plain and left.signs == right.signs:
        return len(left.bag) >= LONG or _answers(left, right) is not False, 1.0
    overlap = _overlap(left.bag, right.bag)
    if contradictory(left, right):
        return False, overlap
    agreed = _answers(left, right)
    if agreed is None:
        needed = UNKNOWN_ANSWER
    elif agreed:
        needed = WEAK_ANSWER if _weak(left.answer or "") else SAME_ANSWER
    elif left.tokens != right.tokens:  # the same words in another order: is a larger than b, is b larger than a
        return False, overlap
    else:
        needed = OTHER_ANSWER
    if needed == WEAK_ANSWER and _own(left.bag, right.bag) and _own(right.bag, left.bag):
        needed = EXCHANGED
    return overlap >= needed, overlap


def contradictory(left: Question, right: Question) -> bool:
    """Whether their numbers, signs, turning words or an exchanged word say that they ask for different things."""
    if left.numbers ^ right.numbers not in _NO_OTHERS or left.signs != right.signs:
        return True
    return _turned(left.bag, right.bag) or _exchanged(left.tokens, right.tokens)


def _weight(token: str) -> float:
    return LIGHT.get(token, 1.0)


def _overlap(left: Mapping[str, int], right: Mapping[str, int]) -> float:
    total = sum(_weight(token) * (left.get(token, 0) + right.get(token, 0)) for token in left.keys() | right.keys())
    if not total:
        return 0.0
    shared = sum(2 * _weight(token) * min(count, right.get(token, 0)) for token, count in left.items())
    rest = sorted(right.keys() - left.keys())
    for token in sorted(left.keys() - right.keys()):
        near = next((other for other in rest if _root(token, other)), None)
        if near is not None:
            rest.remove(near)
            shared += 1.6 * min(_weight(token), _weight(near))
    return shared / total


def _root(one: str, other: str) -> bool:
    """Whether two English words begin alike enough to be forms of one (diagnosis, diagnose)."""
    if not (one.isascii() and other.isascii() and one.isalpha() and other.isalpha()):
        return False
    shared = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return shared >= ROOT[0] and shared >= ROOT[1] * max(len(one), len(other))


def _own(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether it has a word of full weight that the other has not, nor one of its root."""
    return any(
        token not in other and _weight(token) == 1 and not any(_root(token, known) for known in other) for token in one
    )


def _answers(left: Question, right: Question) -> bool | None:
    """Whether the answers are one; None where that is not known. A long reply is one with the short answer that it
    gives, and says nothing when it does not give it: it may be an explanation."""
    if not left.answer or not right.answer:
        return None
    if same(left.answer, right.answer):
        return True
    short, reply = sorted((words(left.answer), words(right.answer)), key=len)
    if len(reply) <= REPLY:
        return False
    return True if short and _gives(reply, short) else None


def _gives(reply: list[str], answer: list[str]) -> bool:
    """Whether the words of the answer stand in the reply, one after the other; numbers as words or digits."""
    ends = range(len(answer), len(reply) + 1)
    return any(all(map(same, reply[end - len(answer) : end], answer)) for end in ends)


def _weak(answer: str) -> bool:
    """Whether many questions have this answer: yes, no, a small number, a letter."""
    plain = normalise(answer)
    value = number(plain)
    return plain in WEAK or len(plain) == 1 or (value is not None and value.denominator == 1 and abs(value) <= 12)


def _exchanged(left: Sequence[str], right: Sequence[str]) -> bool:
    """Whether one sentence becomes the other by putting other words of content in the place of some."""
    equal = exchanged = 0
    for kind, begin, end, from_, to in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        ours, theirs = left[begin:end], right[from_:to]
        if kind == "equal":
            equal += end - begin
            continue
        here = [token for token in ours if _weight(token) == 1 and token not in right]
        there = [token for token in theirs if _weight(token) == 1 and token not in left]
        if here and there and not any(_root(a, b) for a in here for b in there):
            exchanged += 1
        elif any(_weight(token) == 1 for token in (*ours, *theirs)):
            return False  # something was added, left out or moved: not the same sentence
    return exchanged > 0 and equal >= FRAME * max(len(left), len(right))


def _turned(left: Mapping[str, int], right: Mapping[str, int]) -> bool:
    if ("<not>" in left) != ("<not>" in right):
        return True
    for one, other in TURNS:
        for a, b in ((one, other), (other, one)):
            if a in left and b not in left and b in right and a not in right:
                return True
    return False
