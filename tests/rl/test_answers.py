"""The verifier on answers that trip verifiers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.rl import answers


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{7}", "7"),
        (r"so \boxed{3}, no, \boxed{4}", "4"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\text{a {b} c}}", r"\text{a {b} c}"),
        (r"\boxed {  red }", "red"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{3} and then \boxed{4", None),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        ("7", None),
        ("boxed{7}", None),
        ("", None),
    ],
)
def test_boxed(text: str, content: str | None) -> None:
    assert answers.boxed(text) == content


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("7", "7.0"),
        ("7", " 7. "),
        ("7", "seven"),
        ("7", "七"),
        ("7", "7个"),
        ("7", "７"),
        ("2", "两"),
        ("12", "十二"),
        ("20", "二十"),
        ("105", "一百零五"),
        ("21", "twenty-one"),
        ("21", "Twenty one"),
        ("1,234", "1234"),
        ("0.5", r"\frac{1}{2}"),
        ("1/2", "2/4"),
        ("-3", "−3"),
        ("+3", "3"),
        (".5", "0.50"),
        ("7", r"\text{7}"),
        ("7", "$7$"),
        ("50%", r"50\%"),
        ("red", "Red."),
        ("red", r"\textbf{red}"),
        ("stop sign", "The stop  sign"),
        ("红 灯", "红灯。"),
        ("don't park", "don’t park"),
    ],
)
def test_same(a: str, b: str) -> None:
    assert answers.same(a, b)
    assert answers.same(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("7", "8"),
        ("7", "17"),
        ("7", "7 8"),
        ("1 2", "12"),
        ("7", "-7"),
        ("50%", "50"),
        ("50%", "0.5"),
        ("1,23", "123"),
        ("1/0", "0"),
        ("red", "dark red"),
        ("red", ""),
        ("", ""),
        (".", ","),
        ("left", "right"),
        ("十", "百"),
        ("个", "7"),
        ("1e1", "10"),
    ],
)
def test_not_the_same(a: str, b: str) -> None:
    assert not answers.same(a, b)
    assert not answers.same(b, a)


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("Red", "red", True),
        ("3 + 4 = 7. \\boxed{7}", "7", True),
        ("7 \\boxed{8}", "7", False),
        ("The tyre pressure is too low. Check the tyres.", "Tyre pressure is too low, check the tyres", True),
        ("The engine is too hot. Stop now.", "Tyre pressure is too low, check the tyres", False),
        ("seven red apples", "7", False),
        ("轮胎的气压过低", "轮胎气压过低", True),
        ("", "轮胎气压过低", False),
    ],
)
def test_agrees(response: str, answer: str, right: bool) -> None:
    assert answers.agrees(response, answer) is right


@given(st.integers(0, 10**9))
def test_every_number_is_itself(value: int) -> None:
    assert answers.correct(f"x \\boxed{{{value:,}}}", str(value))
    assert not answers.correct(f"x \\boxed{{{value + 1}}}", str(value))


@given(st.text(max_size=40))
def test_any_text_can_be_read(text: str) -> None:
    answers.agrees(text, text)
    answers.correct("\\boxed{" + text, text)
    answers.number(text)
