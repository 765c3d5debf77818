"""A verifier that raises, hangs or dies gives no verdict, says why, and the next response is verified all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from open4ov import verifier as module
from open4ov.errors import UserError
from open4ov.verifier import Verdict, Verifier

ODD = "odd_verifiers:by_response"


@pytest.fixture(scope="module")
def odd() -> object:
    with Verifier(ODD, 0.5) as verifier:
        yield verifier


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("seven", Verdict(True)),
        ("7", Verdict(True)),
        ("eight", Verdict(False)),
        ("one", Verdict(True)),
        ("print", Verdict(True)),
        ("raise", Verdict(None, "KeyError: 'no such unit'")),
        ("maybe", Verdict(None, "TypeError: gave 0.5, which is neither true nor false")),
        ("none", Verdict(None, "TypeError: gave None, which is neither true nor false")),
        ("hang", Verdict(None, "no verdict in 0.5 s")),
        ("hang in C", Verdict(None, "no verdict in 0.5 s")),
        ("hang deaf", Verdict(None, "no verdict in 0.5 s")),
        ("die", Verdict(None, "the verifier's process ended with code 3")),
        ("line\nbreaks \ud800 and \u2028 all", Verdict(False)),
    ],
)
def test_what_comes_of_each(odd: Verifier, response: str, verdict: Verdict) -> None:
    assert odd.verdict(response, "seven", ["7"]) == verdict
    assert odd.verdict("seven", "seven").right is True, "and it goes on"


@pytest.mark.slow
def test_a_process_that_was_killed_between_two_responses_is_begun_anew(odd: Verifier) -> None:
    assert odd.verdict("seven", "seven").right is True
    worker = odd._worker  # pyright: ignore[reportPrivateUsage]
    assert worker is not None
    worker.kill()
    worker.wait()
    assert odd.verdict("seven", "seven").right is True


@pytest.mark.slow
def test_one_that_always_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANGS_IN_A_ROW", 2)
    with Verifier("odd_verifiers:hangs", 0.1, "sft.verifier") as verifier:
        assert verifier.verdict("a", "b").right is None
        with pytest.raises(UserError, match=r"sft\.verifier: odd_verifiers:hangs gave no verdict in 0\.1 s, 2 times"):
            verifier.verdict("a", "b")


def test_a_name_that_leads_nowhere_is_said_before_anything_is_asked() -> None:
    with pytest.raises(UserError, match="--verifier: cannot find 'odd_verifiers:nothing'"):
        Verifier("odd_verifiers:nothing", key="--verifier")


def test_the_default_verifier_says_what_it_says_here() -> None:
    with Verifier("open4ov.answers:agrees") as verifier:
        assert verifier.verdict("The answer is \\boxed{7}.", "seven").right is True
        assert verifier.verdict("方块", "圆", ["圆形"]).right is False
        assert verifier.identity is not None
        assert verifier.identity.startswith("open4ov.answers:agrees ")


def test_a_function_itself_is_called_here() -> None:
    with Verifier(lambda response, answer, _: {"a": True}[response]) as verifier:
        assert verifier.identity is None
        assert verifier.verdict("a", "x").right is True
        assert verifier.verdict("b", "x") == Verdict(None, "KeyError: 'b'")


def test_another_text_is_another_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "rule_that_changes.py"
    file.write_text("def rule(response, answer, aliases):\n    return True\n")
    before = Verifier("rule_that_changes:rule").identity
    assert before == Verifier("rule_that_changes:rule").identity
    file.write_text("def rule(response, answer, aliases):\n    return False\n")
    assert before != Verifier("rule_that_changes:rule").identity
