"""Scoring rules against values worked out by hand or by an independent computation."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.evaluate.scoring import FORMULAS, Reference, distance, number_in, relaxed, score, similarity

SHORT = st.text(alphabet="abc é", max_size=7)


def of(rule: str, response: str, *answers: str, **more: object) -> float:
    return score(rule, response, Reference(answers, more.pop("options", {}), **more)).value  # type: ignore[arg-type]


def by_definition(a: str, b: str) -> int:
    """Levenshtein's distance as it is defined: by recursion over the last characters."""

    @functools.cache
    def far(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(far(i - 1, j) + 1, far(i, j - 1) + 1, far(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return far(len(a), len(b))


@given(SHORT, SHORT)
def test_edit_distance_is_levenshteins(a: str, b: str) -> None:
    assert distance(a, b) == by_definition(a, b)


@given(SHORT, SHORT, SHORT)
def test_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert distance(a, b) == distance(b, a)
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, c) <= distance(a, b) + distance(b, c)


def test_anls_by_hand() -> None:
    assert of("anls", "The Coca-Cola Company", "the coca-cola company") == 1
    assert of("anls", "hell", "hello") == pytest.approx(1 - 1 / 5)
    assert of("anls", "ab", "abcd") == pytest.approx(0.5)  # the threshold itself counts
    assert of("anls", "a", "abcd") == 0  # 0.25 is below it
    assert of("anls", "xyz", "12", "xyz ") == 1  # the best of several answers
    assert of("anls", "", "a") == 0
    assert similarity("", "") == 1


@pytest.mark.parametrize(
    ("given_", "wanted", "right"),
    [
        ("105", "100", True),
        ("95", "100", True),
        ("106", "100", False),
        ("-105", "-100", True),
        ("100", "-100", False),
        ("12%", "0.12", True),
        ("12%", "12", False),
        ("0", "0", True),
        ("0.01", "0", False),  # of nothing there is no 5 %
        ("Yes", "yes", True),
        ("yes", "no", False),
        ("10", "ten", False),
        ("1,000", "1000", False),  # as the original: no thousands separators
    ],
)
def test_relaxed_accuracy(given_: str, wanted: str, right: bool) -> None:
    assert relaxed(given_, wanted) is right


@given(st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 1e-3), st.floats(-0.2, 0.2))
def test_relaxed_accuracy_is_five_per_cent(target: float, off: float) -> None:
    if abs(abs(off) - 0.05) > 1e-6:
        assert relaxed(repr(target * (1 + off)), repr(target)) is (abs(off) < 0.05)


def test_contains_as_ocrbench_has_it() -> None:
    assert of("contains", "The sign says CENTRE St.", "centre") == 1
    assert of("contains", "The sign says\nCentre", "says centre") == 1
    assert of("contains", "center", "centre", "CENTER") == 1
    assert of("contains", "nothing", "centre") == 0
    assert of("contains", "x ^ 2 + Y", "x^2+Y", category=FORMULAS) == 1
    assert of("contains", "x^2 + y", "x^2+Y", category=FORMULAS) == 0  # case counts in formulas


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("3", 3),
        ("There are three dogs.", 3),
        ("1,234", 1234),
        ("-2.5", -2.5),
        ("The answer is 7, not 8", 7),
        ("2 + 3 = 5", 5),
        ("\\boxed{42}", 42),
        ("I count 4 and then 1, so the total is 5.", 5),
        ("one or two", None),
        ("none at all", None),
        ("", None),
        ("答案是6", 6),
    ],
)
def test_the_number_of_a_response(response: str, number: float | None) -> None:
    assert number_in(response) == number


def test_a_number_is_equal_not_contained() -> None:
    assert of("number", "13", "3") == 0
    assert of("number", "3.0", "3") == 1
    assert of("number", "three", "3") == 1


def test_choice_yes_no_and_maths() -> None:
    options = {"A": "12", "B": "15"}
    assert of("choice", "B", "B", options=options) == 1
    assert of("choice", "12", "B", options=options) == 0
    assert score("choice", "who knows", Reference(["B"], options)).read is None
    assert of("yes_no", "No, there is not.", "No") == 1
    assert of("yes_no", "maybe", "No") == 0
    assert of("maths", "so \\boxed{\\frac{1}{2}}", "0.5") == 1
    assert of("maths", "\\boxed{B}", "B", options=options) == 1
    assert of("maths", "The answer is B", "15", options=options) == 1  # the answer is given as the option's text
    assert of("boxed", "it is 4", "4") == 0  # a box is asked for
    assert of("boxed", "\\boxed{4}", "4") == 1


def test_mathvista_by_type_of_question() -> None:
    def value(response: str, answer: str, **details: str) -> float:
        return of("mathvista", response, answer, details=details)

    assert value("The length is 2.54 cm", "2.5", question_type="free_form", answer_type="float", precision="1.0") == 1
    assert value("2.56", "2.5", question_type="free_form", answer_type="float", precision="1.0") == 0
    assert value("The answer is 12", "12", question_type="free_form", answer_type="integer") == 1
    assert value("It is [1, 2, 3]", "[1, 2, 3]", question_type="free_form", answer_type="list") == 1
    assert value("It is [1, 2]", "[1, 2, 3]", question_type="free_form", answer_type="list") == 0
    options = {"A": "Yes", "B": "No"}
    assert of("mathvista", "(B) No", "No", options=options, details={"question_type": "multi_choice"}) == 1


def test_reasoning_before_the_answer_is_not_the_answer() -> None:
    assert of("contains", "<think>Paris?</think>London", "Paris") == 0
    assert of("exact", "<think>one two three</think> London", "london") == 1


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="judge"):
        of("judge", "x", "x")
