"""Right and wrong by each rule, and the statistics against published values and enumeration."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.answers import boxed, normalise, number, same
from open4ov.evaluate.metrics import RULES, bootstrap, mean_of, pass_at_k, token_f1, wilson
from open4ov.refusals import denies, refuses


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("  A Red  Apple. ", "red apple"),
        ("The cat!", "cat"),
        ("the", "the"),
        ("ＡＢＳ", "abs"),
        ("红色 的 苹果。", "红色的苹果"),
        ("“Stop”", "stop"),
        ("刹车 ABS 灯", "刹车abs灯"),
    ],
)
def test_normalise(text: str, wanted: str) -> None:
    assert normalise(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("7", 7), ("-3.50", Fraction(-7, 2)), ("1,200", 1200), ("3/4", Fraction(3, 4)), ("Seven", 7), ("七", 7),
        ("两", 2), ("−4", -4), ("１２", 12), ("12.", 12), ("1/0", None), ("12a", None), ("", None), ("1,2", None),
        ("seven cats", None),
    ],
)  # fmt: skip
def test_number(text: str, wanted: Fraction | None) -> None:
    assert number(normalise(text)) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (r"so \boxed{7}", "7"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {a{b}c}", "a{b}c"),
        (r"\boxed{3} and \boxed{4", None),  # cut off: an intermediate box is not the answer
        ("7", None),
        (r"\boxed{", None),
    ],
)
def test_boxed(text: str, wanted: str | None) -> None:
    assert boxed(text) == wanted


@given(st.text(alphabet="ab{}", max_size=12))
def test_boxed_is_the_balanced_content(inner: str) -> None:
    depths = list(itertools.accumulate({"{": 1, "}": -1}.get(c, 0) for c in inner))
    if (not depths or depths[-1] == 0) and min(depths, default=0) >= 0:
        assert boxed(f"x \\boxed{{{inner}}} y") == (inner.strip() or None)


@pytest.mark.parametrize(
    ("rule", "response", "answers", "right"),
    [
        ("exact", "Three.", ["3"], True),
        ("exact", r"2+1=3. \boxed{3}", ["3"], True),
        ("exact", r"3 or \boxed{4}", ["3"], False),
        ("exact", "a key", ["key"], True),
        ("exact", "key ring", ["key"], False),
        ("exact", "", ["key"], False),
        ("exact", "红色", ["red", "红色"], True),
        ("boxed", "3", ["3"], False),
        ("boxed", r"\boxed{3.0}", ["3"], True),
        ("verbatim", "7", ["07"], False),
        ("verbatim", "Hello", ["HELLO"], True),
        ("literal", "apple", ["APPLE"], False),
        ("literal", "5", ["five"], False),
        ("literal", "APPLE.", ["APPLE"], True),
        ("sentence", "The brakes have a serious fault", ["The brakes have a fault."], True),
        ("sentence", "The door is open.", ["The brakes have a fault."], False),
        ("refusal", "There is no picture here.", ["red"], True),
        ("refusal", "我没有看到图片。", ["红色"], True),
        ("refusal", "red", ["red"], False),
        ("denial", "There is no cat in the picture.", ["red"], True),
        ("denial", "图中没有猫。", ["红色"], True),
        ("denial", "I don't see a cat.", ["red"], True),
        ("denial", "There is no picture here.", ["red"], False),
        ("denial", "我没有看到图片，请发送图片。", ["红色"], False),
        ("denial", "red", ["red"], False),
    ],
)
def test_rules(rule: str, response: str, answers: list[str], right: bool) -> None:
    assert RULES[rule](response, answers, ()) is right


def test_a_sentence_nearer_to_another_symbol_is_wrong() -> None:
    answers, others = ["The brake fluid level is too low."], ["The coolant level is too low."]
    response = "The coolant level is too low."
    assert token_f1(response, answers[0]) >= 0.7
    assert RULES["sentence"](response, answers, ()) is True
    assert RULES["sentence"](response, answers, others) is False
    assert RULES["sentence"](answers[0], answers, others) is True


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("low brake fluid: The door is wide open.", "low brake fluid: The door is open now.", True),
        ("low brake fluid: Stop the car.", "low brake fluid: Refill it soon.", False),  # four of seven words, by name
        ("制动液不足：尽快加油。", "制动液不足：停车求助。", False),
        ("Refill it soon.", "low brake fluid: Refill it soon.", True),
        ("low brake fluid:", "low brake fluid: Refill it soon.", False),
    ],
)
def test_a_name_at_the_head_is_no_part_of_a_sentence(response: str, answer: str, right: bool) -> None:
    assert RULES["sentence"](response, [answer], ()) is right


@pytest.mark.parametrize(
    ("left", "right", "f1"),
    [("a b c", "a b c", 1.0), ("a b", "b c", 0.5), ("", "a", 0.0), ("a a", "a", 2 / 3), ("刹车灯", "刹车", 0.8)],
)
def test_token_f1(left: str, right: str, f1: float) -> None:
    left = left.replace("a", "x") if left.startswith("a") else left
    right = right.replace("a", "x") if "a" in right else right
    assert token_f1(left, right) == pytest.approx(f1)


def test_ordinary_answers_neither_refuse_nor_deny() -> None:
    for text in ("red", "top left", "Brake gently and have it checked.", "红色", "No entry", "yes", "no"):
        assert not refuses(text)
        assert not denies(text)


@given(st.text(max_size=20))
def test_same_is_reflexive(text: str) -> None:
    assert same(text, text) == bool(normalise(text))  # nothing is no answer


def test_wilson_against_published_values() -> None:
    """Newcombe (1998), table I, method 3: 81/263 and 15/148; and the closed form at zero."""
    for right, items, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        interval = wilson(right, items)
        assert interval.value == right / items
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400), st.floats(0, 1))
def test_wilson_holds_its_share(items: int, share: float) -> None:
    interval = wilson(round(share * items), items)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_bootstrap_of_shares_is_near_the_normal_interval() -> None:
    values = [1.0] * 120 + [0.0] * 180
    interval = bootstrap([values], 0.95, "seed")
    spread = 1.96 * math.sqrt(0.4 * 0.6 / 300)
    assert interval.value == pytest.approx(0.4)
    assert (interval.low, interval.high) == pytest.approx((0.4 - spread, 0.4 + spread), abs=0.01)
    assert bootstrap([values], 0.95, "seed") == interval
    assert bootstrap([values], 0.95, "other") != interval


def test_bootstrap_of_groups_is_narrower_and_unweighted() -> None:
    one, many = [0.0, 1.0] * 20, [1.0] * 400
    interval = bootstrap([one, many], 0.95, "seed")
    assert interval.value == pytest.approx(0.75)
    alone = bootstrap([one], 0.95, "seed")
    assert interval.high - interval.low == pytest.approx((alone.high - alone.low) / 2, abs=0.03)


def test_paired_differences_are_tighter_than_unpaired() -> None:
    base = [float(i % 2) for i in range(200)]
    better = [max(score, float(i % 20 == 0)) for i, score in enumerate(base)]
    paired = bootstrap([[b - a for a, b in zip(base, better, strict=True)]], 0.95, "seed")
    assert paired.value == pytest.approx(0.05)
    assert 0 < paired.low < paired.value < paired.high < 0.1


@pytest.mark.parametrize(("right", "samples", "k"), [(c, 6, k) for c in range(7) for k in range(1, 7)])
def test_pass_at_k_by_enumeration(right: int, samples: int, k: int) -> None:
    outcomes = [index < right for index in range(samples)]
    subsets = list(itertools.combinations(outcomes, k))
    assert pass_at_k(right, samples, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_needs_enough_samples() -> None:
    with pytest.raises(ValueError, match="at least 5 samples"):
        pass_at_k(1, 4, 5)


def test_a_mean_of_shares_keeps_an_interval_where_all_are_zero() -> None:
    zero = wilson(0, 300)
    mean = mean_of([zero, zero])
    assert (mean.value, mean.low) == (0.0, 0.0)
    assert mean.high == pytest.approx(zero.high / 2**0.5)
    shares = [wilson(30, 100), wilson(60, 100)]
    mixed = mean_of(shares)
    drawn = bootstrap([[1.0] * 30 + [0.0] * 70, [1.0] * 60 + [0.0] * 40], 0.95, "seed")
    assert mixed.value == pytest.approx(0.45)
    assert (mixed.low, mixed.high) == pytest.approx((drawn.low, drawn.high), abs=0.01)
    with pytest.raises(ValueError, match="at least one"):
        mean_of([])
