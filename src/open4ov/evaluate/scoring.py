"""How right a response is, from 0 to 1: the scoring rules of evaluation sets, as their authors define them.

`choice`: the letter (`choices.py`). `exact`, `boxed`, ...: those of `metrics.RULES`. `yes_no`. `number`: the number of
the response, words up to twenty too. `anls`: average normalised Levenshtein similarity (DocVQA, Biten et al. 2019).
`relaxed`: 5 % of a number, or equal (ChartQA, Masry et al. 2022). `contains`: the answer stands in the response
(OCRBench). `maths`: a letter or a mathematical answer. `mathvista`: by the type of question (Lu et al. 2024).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from open4ov.answers import agrees, boxed
from open4ov.evaluate.choices import answer_part, chosen, says_yes
from open4ov.evaluate.metrics import RULES

ANLS_LEAST = 0.5
RELAXED = 0.05
FORMULAS = "Handwritten Mathematical Expression Recognition"
"""OCRBench's category whose answers are compared without spaces, case kept"""
_NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w])|(?<![\w.])[-+−]?\.\d+")
_ANNOUNCED = re.compile(
    r"(?:\b(?:answer|result|total|value)(?:\s+(?:is|are|equals|would be))?|答案|结果)\s*(?:是|为)?\s*[:：=]?\s*(.+)",
    re.IGNORECASE,
)
_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)


@dataclass(frozen=True)
class Score:
    """`value` from 0 to 1; `read`: what was read out of the response, None where nothing could be."""

    value: float
    read: str | None


@dataclass(frozen=True)
class Reference:
    """What a rule compares a response with; see `item.Item`."""

    answers: Sequence[str]
    options: Mapping[str, str]
    others: Sequence[str] = ()
    category: str = ""
    details: Mapping[str, str] | None = None


def score(rule: str, response: str, reference: Reference) -> Score:
    """The score of one response. ValueError for a rule that is not known; `judge` is none of these."""
    if rule in _RULES:
        return _RULES[rule](response, reference)
    if rule in RULES:
        right = RULES[rule](answer_part(response), reference.answers, reference.others)
        return Score(float(right), boxed(response) or answer_part(response))
    raise ValueError(f"no scoring rule {rule!r}")


def _choice(response: str, reference: Reference) -> Score:
    letter = chosen(response, reference.options)
    return Score(float(letter is not None and letter in reference.answers), letter)


def _yes_no(response: str, reference: Reference) -> Score:
    said = says_yes(response)
    wanted = reference.answers[0].lower() in ("yes", "是", "1")
    return Score(float(said is wanted), None if said is None else "yes" if said else "no")


def _anls(response: str, reference: Reference) -> Score:
    given = answer_part(response)
    best = max(similarity(given, answer) for answer in reference.answers)
    return Score(best if best >= ANLS_LEAST else 0.0, given)


def similarity(given: str, wanted: str) -> float:
    """1 less the edit distance over the longer length; case and runs of spaces do not count. 1 for two empty texts."""
    a, b = (" ".join(text.lower().split()) for text in (given, wanted))
    longer = max(len(a), len(b))
    return 1 - distance(a, b) / longer if longer else 1.0


def distance(a: str, b: str) -> int:
    """Levenshtein's edit distance, in characters."""
    above = list(range(len(b) + 1))
    for row, left in enumerate(a, start=1):
        here = [row]
        for column, right in enumerate(b, start=1):
            here.append(min(above[column] + 1, here[-1] + 1, above[column - 1] + (left != right)))
        above = here
    return above[-1]


def _relaxed(response: str, reference: Reference) -> Score:
    given = answer_part(response).strip()
    return Score(float(any(relaxed(given, answer.strip()) for answer in reference.answers)), given)


def relaxed(given: str, wanted: str) -> bool:
    """Within 5 % of a number other than 0, or equal but for the case. "12%" is 0.12."""
    number, target = _float(given), _float(wanted)
    if number is not None and target:
        return abs(number - target) / abs(target) <= RELAXED
    return given.lower() == wanted.lower()


def _float(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _contains(response: str, reference: Reference) -> Score:
    given = answer_part(response)
    if reference.category == FORMULAS:
        flat = "".join(given.split())
        return Score(float(any("".join(answer.split()) in flat for answer in reference.answers)), given)
    flat = given.lower().replace("\n", " ")
    return Score(float(any(answer.lower().strip().replace("\n", " ") in flat for answer in reference.answers)), given)


def _number(response: str, reference: Reference) -> Score:
    found = number_in(response)
    wanted = number_in(reference.answers[0])
    return Score(float(found is not None and found == wanted), None if found is None else f"{found:g}")


def number_in(response: str) -> float | None:
    """The number that a response gives: in its last box; after "the answer is"; its only one, in figures or in words;
    or the last one in figures."""
    text = answer_part(response)
    inner = boxed(text)
    if inner is None and (said := [found[1] for found in _ANNOUNCED.finditer(text)]):
        inner = next((part for part in reversed(said) if _figures(part) or _words(part)), None)
        if inner is not None:  # the first of what is announced: "the answer is 3, not 4"
            return (_figures(inner) or _words(inner))[0]
    found = _figures(inner if inner is not None else text)
    if found:
        return found[-1]
    words = _words(inner if inner is not None else text)
    return words[0] if len(set(words)) == 1 else None


def _figures(text: str) -> list[float]:
    return [float(found.replace(",", "").replace("−", "-")) for found in _NUMBER.findall(text)]


def _words(text: str) -> list[float]:
    return [float(_WORDS.index(word)) for word in re.findall(r"[a-z]+", text.lower()) if word in _WORDS]


def _maths(response: str, reference: Reference) -> Score:
    answer = reference.answers[0]
    if reference.options:
        letter = chosen(response, reference.options)
        wanted = answer if answer in reference.options else _letter_of(answer, reference.options)
        return Score(float(letter is not None and letter == wanted), letter)
    given = _final(response)
    return Score(float(given is not None and agrees(given, answer)), given)


def _final(response: str) -> str | None:
    """The final answer of a worked response: its last box, what is announced last, or a short response as it is."""
    text = answer_part(response)
    inner = boxed(text)
    if inner is not None:
        return inner
    said = _ANNOUNCED.findall(text)
    if said:
        return said[-1].strip(" *$.。")
    return text if text and len(text) <= 80 else None


def _mathvista(response: str, reference: Reference) -> Score:
    details = reference.details or {}
    if details.get("question_type") == "multi_choice" or reference.options:
        return _maths(response, reference)
    wanted, kind = reference.answers[0], details.get("answer_type", "text")
    if kind == "list":
        found = re.findall(r"\[[^\[\]]*\]", answer_part(response))
        numbers = _figures(found[-1]) if found else []
        return Score(float(bool(numbers) and numbers == _figures(wanted)), found[-1] if found else None)
    if kind in ("integer", "float"):
        number, target = number_in(response), number_in(wanted)
        if number is None or target is None:
            return Score(0.0, None)
        places = int(float(details.get("precision") or 0)) if kind == "float" else 0
        right = round(number, places) == round(target, places) if kind == "float" else int(number) == int(target)
        return Score(float(right), f"{number:g}")
    given = _final(response)
    return Score(float(given is not None and agrees(given, wanted)), given)


def _letter_of(text: str, options: Mapping[str, str]) -> str | None:
    return next((letter for letter, option in options.items() if option.strip() == text.strip()), None)


_RULES: dict[str, Callable[[str, Reference], Score]] = {
    "choice": _choice,
    "yes_no": _yes_no,
    "anls": _anls,
    "relaxed": _relaxed,
    "contains": _contains,
    "number": _number,
    "maths": _maths,
    "mathvista": _mathvista,
}
