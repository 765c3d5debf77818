"""Which option a response chooses: forms that models write, and what stays undecided."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.evaluate.choices import chosen, says_yes

OPTIONS = {"A": "a red car", "B": "a blue bus", "C": "a bus", "D": "no vehicle"}


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("B. a blue bus", "B"),
        ("B) a blue bus", "B"),
        ("B: a blue bus", "B"),
        ("Answer: B", "B"),
        ("The answer is B", "B"),
        ("The correct answer is **B**.", "B"),
        ("The correct option is (C).", "C"),
        ("Option D", "D"),
        ("First I thought A, but the answer is C.", "C"),
        ("A is wrong since it is not red. So the answer is B.", "B"),
        ("The answer is $\\boxed{C}$", "C"),
        ("\\boxed{\\text{D}}", "D"),
        ("<think>Is it A? Perhaps B.</think>\nD", "D"),
        ("答案是B。", "B"),
        ("正确答案：C", "C"),
        ("应选D", "D"),
        ("选B", "B"),
        ("a blue bus", "B"),
        ("A blue bus.", "B"),
        ("It shows a blue bus on the road", "B"),
        ("It shows a bus", "C"),
        ("I see a red car", "A"),
        ("Answer: $B", "B"),
        ("BUS", "C"),
        ("A seems wrong, and so do C and D, so the answer is B", "B"),
    ],
)
def test_chooses(response: str, letter: str) -> None:
    assert chosen(response, OPTIONS) == letter


@pytest.mark.parametrize(
    "response",
    [
        "",
        "   ",
        "I do not know",
        "A or B",
        "Both A and C are right",
        "E",
        "The answer is E",
        "a red car or a blue bus",
        "A man walks past",  # the article is no letter
        "ABCD",
    ],
)
def test_stays_undecided(response: str) -> None:
    assert chosen(response, OPTIONS) is None


def test_letters_in_the_picture_need_no_options() -> None:
    assert chosen("The answer is H.", {}) == "H"
    assert chosen("J", {}) == "J"


@given(st.sampled_from("ABCD"), st.sampled_from(["{}", "{}.", "({})", "Answer: {}", "The answer is {}.", "答案：{}"]))
def test_every_letter_in_every_dress(letter: str, dress: str) -> None:
    assert chosen(dress.format(letter), OPTIONS) == letter


@given(st.text(max_size=60))
def test_any_text_gives_a_letter_of_the_options_or_none(text: str) -> None:
    assert chosen(text, OPTIONS) in (None, *OPTIONS)
    assert says_yes(text) in (None, True, False)


@pytest.mark.parametrize(
    ("response", "yes"),
    [
        ("Yes", True),
        ("yes.", True),
        ("No", False),
        ("No, there is no cat.", False),
        ("Yes, there is no doubt", True),
        ("**Yes**", True),
        ("The statement is correct", True),
        ("That is not correct", None),
        ("I cannot tell", None),
        ("", None),
        ("yes and no", True),
        ("It may be yes or no", None),
        ("there isn't any", False),
        ("是", True),
        ("是的", True),
        ("不是", False),
        ("没有", False),
        ("有", True),
        ("图中没有树", False),
        ("\\boxed{yes}", True),
    ],
)
def test_says_yes_or_no(response: str, yes: bool | None) -> None:
    assert says_yes(response) is yes
