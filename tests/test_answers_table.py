"""The verifier against a table of hard answers that was judged by hand, and what it does with checks that hang, die or
cannot be read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov import answers, answers_symbolic
from open4ov.answers_text import tidy
from open4ov.verifier import Verifier

TABLE = json.loads((Path(__file__).parent / "golden" / "answers.json").read_text("utf-8"))
CASES = TABLE["answers"]
WORDS = [case for case in CASES if case["kind"] not in ("symbolic", "equation", "collection")]
MATHEMATICS = [case for case in CASES if case not in WORDS]


def name(case: dict[str, object]) -> str:
    return f"{case['kind']}: {case['given']} | {case['reference']}"


def test_the_table_is_one() -> None:
    kinds = {case["kind"] for case in CASES}
    assert len(CASES) >= 120
    for kind in kinds:
        assert {case["right"] for case in CASES if case["kind"] == kind} == {True, False}, kind
    assert len({(case["given"], case["reference"]) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", [*WORDS, *MATHEMATICS], ids=name)
def test_answers(case: dict[str, object]) -> None:
    said, reference = str(case["given"]), str(case["reference"])
    assert answers.same(said, reference) is case["right"]


@pytest.mark.parametrize("case", TABLE["boxes"], ids=lambda case: case["response"])
def test_boxes(case: dict[str, str | None]) -> None:
    assert answers.boxed(case["response"] or "") == case["boxed"]


def test_an_answer_in_its_box_is_the_same_answer() -> None:
    for case in CASES:
        said = case["given"]
        if said.count("{") == said.count("}") and "\\{" not in said and said.strip():
            assert answers.boxed(f"so \\boxed{{{said}}}.") == said.strip()


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_two_texts_can_be_compared(one: str, other: str) -> None:
    assert answers.same(one, other) in (True, False)
    assert answers.same(one, one) or not answers.normalise(one) or answers.same(one, one) is False


@given(st.integers(-(10**12), 10**12))
def test_a_number_is_itself_however_it_is_grouped(value: int) -> None:
    for spelt in (f"{value:,}", f"{value:,}".replace(",", r"\,"), f"{value:,}".replace(",", "{,}"), f"{value}.0"):
        assert answers.same(spelt, str(value))
        assert not answers.same(spelt, str(value + 1))


@given(st.integers(1, 9999), st.integers(1, 9999))
def test_equal_fractions_agree(top: int, bottom: int) -> None:
    assert answers.same(rf"\frac{{{top * 3}}}{{{bottom * 3}}}", f"{top}/{bottom}")
    assert not answers.same(rf"\frac{{{top}}}{{{bottom + 1}}}", f"{top}/{bottom}")


@given(st.integers(0, 10**9))
def test_chinese_numerals_read_back(value: int) -> None:
    assert answers.number(spoken(value)) == value


def spoken(value: int) -> str:
    """A number as Chinese says it, written anew for this test."""
    digits = "零一二三四五六七八九"

    def section(number: int) -> str:
        text, gap = "", False
        for size, unit in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
            digit = number // size % 10
            if digit:
                text += ("零" if gap and text else "") + digits[digit] + unit
            gap = not digit
        return text

    if value == 0:
        return "零"
    text = ""
    for size, unit in ((10**8, "亿"), (10**4, "万"), (1, "")):
        part = value // size % 10**4
        if part:
            text += ("零" if text and part < 1000 else "") + section(part) + unit
    return text


@pytest.fixture
def fresh() -> Iterator[answers_symbolic.Counts]:
    """Counts of nothing yet."""
    before, answers_symbolic.counts = answers_symbolic.counts, answers_symbolic.Counts()
    yield answers_symbolic.counts
    answers_symbolic.counts = before


@pytest.fixture
def other_rule(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes that run a rule which hangs."""
    answers_symbolic.close()
    monkeypatch.syspath_prepend(Path(__file__).parent / "admission")
    monkeypatch.setattr(answers_symbolic, "RULE", "odd_verifiers:hangs")
    monkeypatch.setattr(answers_symbolic, "SECONDS", 0.1)
    yield
    answers_symbolic.close()


@pytest.mark.slow
def test_a_check_that_hangs_is_wrong_and_counted(fresh: answers_symbolic.Counts, other_rule: None) -> None:
    for i in range(10):
        assert answers.same(f"x + {i} + 1", f"y + {i}") is False
    assert (fresh.checks, fresh.no_verdict, fresh.reason) == (10, 10, "no verdict in 0.1 s")
    assert answers.same("x + 0 + 1", "y + 0") is False
    assert fresh.checks == 10, "it is remembered"
    assert fresh.no_verdict == 11, "and counted, each time that it decides something"


@pytest.mark.slow
def test_a_check_whose_process_dies_is_wrong_and_the_next_is_made(fresh: answers_symbolic.Counts) -> None:
    assert answers.same("p + q", "q + p")
    worker = answers_symbolic._checker._idle[0]._worker  # pyright: ignore
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert answers.same("p + q + 1", "1 + q + p")
    assert fresh.no_verdict == 0


def test_what_cannot_be_read_is_wrong_and_only_a_reference_is_counted(fresh: answers_symbolic.Counts) -> None:
    assert not answers_symbolic.equivalent(r"\frac{x", "x+1")
    assert fresh.no_verdict == 0
    assert not answers_symbolic.equivalent("x+1", r"\frac{x")
    assert fresh.no_verdict == 1
    assert "cannot be read" in fresh.reason


@pytest.mark.slow
def test_threads_are_served_side_by_side_and_rightly(
    fresh: answers_symbolic.Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_symbolic._checker, "_places", threading.BoundedSemaphore(2))  # pyright: ignore
    asked = [(f"k + {i} + m", f"m + {i + i % 2} + k") for i in range(8)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda pair: answers.same(*pair), asked))
    assert found == [i % 2 == 0 for i in range(8)]
    assert fresh.checks == 8
    assert 1 <= len(answers_symbolic._checker._idle) <= 2  # pyright: ignore


@pytest.mark.slow
def test_towers_of_powers_end(fresh: answers_symbolic.Counts) -> None:
    for tower in (r"9^{9^{9^{9}}}\sqrt{2}", r"(x+y+z+1)^{9999999}"):
        assert not answers_symbolic.equivalent(tidy(tower), tidy(r"\sqrt{2}"))
    assert answers.same("u + v", "v + u")


def test_words_start_no_process() -> None:
    code = (
        "from open4ov import answers, answers_symbolic as s\n"
        "for a, b in (('red', 'blue'), ('7', '8'), ('1.5 km', '1500 m'), ('stop', 'Stop.'), ('B', '(B)')):\n"
        "    answers.same(a, b)\n"
        "import sys\n"
        "print(s.counts.checks, 'sympy' in sys.modules)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["0", "False"]


@pytest.mark.slow
def test_in_a_verifiers_process_the_check_needs_no_other() -> None:
    with Verifier("open4ov.answers:correct", 60) as verifier:
        assert verifier.verdict(r"\boxed{(x+1)^2}", "x^2+2x+1").right is True
        assert verifier.verdict(r"\boxed{(x+1)^2}", "x^2+1").right is False


def test_an_answers_file_changed_beside_it_is_another_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ruling.py").write_text("def rule(response, answer, aliases):\n    return True\n")
    before = Verifier("ruling:rule").identity
    (tmp_path / "ruling_parts.py").write_text("x = 1\n")
    assert Verifier("ruling:rule").identity != before
