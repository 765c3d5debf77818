"""Two answers that are not the same letters or the same plain number: what are they, and do they agree?

Tried in order, the first kind that the reference is decides: yes or no, letters of multiple choice, dates and times,
quantities, intervals, collections, equations, and mathematics last (`answers_symbolic.py`). A reference that is a whole
number or a fraction wants a number: arithmetic that is left to do (3+4, √16) is no answer. The rules of each kind stand
in its file.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from open4ov import answers_calendar, answers_choices, answers_collections, answers_quantities, answers_symbolic
from open4ov.answers_collections import brackets, collection, intervals, sides, solution, unknown_of
from open4ov.answers_quantities import Quantity, quantity
from open4ov.answers_text import normalise, simplified, tidy

LONGEST = 400
"""Characters: longer answers are compared as texts only."""

Same = Callable[[str, str], bool]
_SAYS_MORE = re.compile(r"[\d\\+*/=^<>≤≥≠±√π∞∅(\[{|%°$￥¥€£零一二两三四五六七八九十百千万亿半壹贰]")
_ALL_DIGITS = re.compile(r"[\d.,]*")
_MARKED = re.compile(r"(?:[a-zA-Z]|.*[\d)])['!]+")


def contradict(given: str, reference: str) -> bool:
    """Whether two answers that normalise to the same letters differ all the same, in what normalising drops: the kind
    of brackets around a list, a factorial or a prime, money's sign, the case of units."""
    if given == reference or (_ALL_DIGITS.fullmatch(given) and _ALL_DIGITS.fullmatch(reference)):
        return False
    left, right = tidy(given), tidy(reference)
    if left == right:
        return False
    kinds = brackets(left), brackets(right)
    if kinds[0] != kinds[1] and all(kinds) and {"{}", "⦃⦄"} != set(kinds):
        return True
    marks = [_MARKED.fullmatch(one) is not None for one in (left, right)]
    if marks[0] != marks[1]:
        return True
    one, other = quantity(left), quantity(right)
    return one is not None and other is not None and not answers_quantities.agree(one, other)


def alike(given: str, reference: str, same: Same) -> bool:
    """Whether two answers, whose texts differ, agree. `same` compares their parts."""
    if len(given) > LONGEST or len(reference) > LONGEST:
        return False
    left, right = simplified(normalise(given)), simplified(normalise(reference))
    if left == right:
        return True
    if (wanted := answers_choices.yes(right)) is not None:
        return answers_choices.yes(left) is wanted
    one, other = simplified(tidy(given)), simplified(tidy(reference))
    if (chosen := answers_choices.agree(one, other, same)) is not None:
        return chosen
    if (date := answers_calendar.when(right)) is not None:
        return answers_calendar.when(left) == date
    if not (_says_more(one) and _says_more(other)) and not _listed(one, other):
        return False
    return _values(one, other, same)


def _says_more(text: str) -> bool:
    """Whether a text is more than words: none of the kinds below is anything for words alone."""
    return _SAYS_MORE.search(text) is not None or quantity(text) is not None or answers_symbolic.mathematics(text)


def _listed(given: str, reference: str) -> bool:
    return len(answers_collections.parts(given)) > 1 and len(answers_collections.parts(reference)) > 1


def _values(given: str, reference: str, same: Same) -> bool:
    """Tidy texts that hold figures, signs or lists."""
    wanted, said = quantity(reference), quantity(given)
    if wanted is not None and said is not None:
        return answers_quantities.agree(said, wanted)
    if wanted is said is None and _close_up(given) == _close_up(reference):
        return True
    if (spans := intervals(reference)) is not None and (own := intervals(given)) is not None:
        return answers_collections.alike_intervals(own, spans, same)
    found, listed = collection(given, _is_value), collection(reference, _is_value)
    if found is not None and listed is not None:
        return answers_collections.alike(found, listed, same)
    if found is not None or listed is not None:
        return _solution_list(given, reference, same)
    return _equation(given, reference, wanted, same)


def _close_up(text: str) -> str:
    """Without spaces beside signs, where they mean nothing."""
    return re.sub(r"(?<![\da-zA-Z]) | (?![\da-zA-Z])", "", text)


def _solution_list(given: str, reference: str, same: Same) -> bool:
    """A list against something else: (x, y) = (1, 2) is (1, 2)."""
    one, other = solution(given), solution(reference)
    if one is not None and other is None:
        return same(one, reference)
    return one is None and other is not None and same(given, other)


def _equation(given: str, reference: str, wanted: Quantity | None, same: Same) -> bool:
    left, right = sides(given), sides(reference)
    if len(left) == len(right) == 1:
        return _mathematics(given, reference, wanted)
    mine, its = unknown_of(given), unknown_of(reference)
    if len(right) == 1:
        if mine or len(left) == 1:
            return same(solution(given) or given, reference)
        chain = len(left) > 1 and not any(re.search(r"[a-zA-Z\u3400-\u9fff]", one) for one in left)
        return chain and quantity(left[-1]) is not None and same(left[-1], reference)
    if len(left) == 1:
        return bool(its) and same(given, solution(reference) or reference)
    if mine and mine == its:
        return same(solution(given) or "", solution(reference) or "")
    if mine and its and not _unknowns(solution(given)) and not _unknowns(solution(reference)):
        return False  # two values of two unknowns
    return _mathematics(given, reference, wanted)


def _unknowns(text: str | None) -> bool:
    return text is not None and re.search(r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])", text) is not None


def _mathematics(given: str, reference: str, wanted: Quantity | None) -> bool:
    """The last resort, for what is no plain number on both sides."""
    if wanted is not None and wanted.number.places is None:
        return False
    (left, unit), (right, its) = answers_quantities.split(given), answers_quantities.split(reference)
    if unit is not None and its is not None and unit != its:
        return False
    named = unit or its
    if named is not None and (unit is None or its is None) and named.dims in ((("degree", 1),), (("percent", 1),)):
        return False
    if _single(left) and _single(right):
        return False
    return _is_value(left) and _is_value(right) and answers_symbolic.equivalent(left, right)


def _single(text: str) -> bool:
    return len(text) == 1


def _is_value(text: str) -> bool:
    return quantity(text) is not None or answers_symbolic.mathematics(text)
