"""The symbolic check itself, by `math-verify`, as it runs in a process of its own (`answers_symbolic.py`)."""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Sequence
from fractions import Fraction
from types import FrameType
from typing import Any

import math_verify  # pyright: ignore[reportMissingTypeStubs]
import sympy  # pyright: ignore[reportMissingTypeStubs]
from latex2sympy2_extended import NormalizationConfig  # pyright: ignore[reportMissingTypeStubs]

from open4ov import answers_numbers

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of the limit of time that it does not have

SECONDS = 1.5
"""Processor time of a check: most of those that take longer can be ended here, and the process goes on."""

_GREEK = {"π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ",
          "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ", "ω": r"\omega ", "Ω": r"\Omega "}  # fmt: skip
_MARKS = {"∞": r"\infty ", "±": r"\pm ", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "≤": r"\le ", "≥": r"\ge ",
          "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "°": r"^\circ ", "⦃": r"\{",
          "⦄": r"\}"}  # fmt: skip
_NAMES = re.compile(
    r"(?<![a-zA-Z\\])(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp|pi)(?![a-zA-Z])"
)
_ROOT = re.compile(r"√ ?(?:\{([^{}]*)\}|\(([^()]*)\)|(\d+(?:\.\d+)?|[a-zA-Zπ]))|(?<![a-zA-Z\\])sqrt ?\(([^()]*)\)")


_READING = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
)
"""Units are taken off before (`answers_quantities.py`): here "m" is an unknown."""
_LETTER = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])")


class _SlowError(BaseException):
    """Not an Exception: libraries swallow those."""


def equivalent(given: str, reference: str, aliases: Sequence[str]) -> bool:
    """Whether two tidy texts are equivalent mathematics; a decimal is compared by the rule of `answers_numbers`.

    Raises ValueError for a reference that `math-verify` cannot read, and TimeoutError after `SECONDS`.
    """
    previous = signal.signal(signal.SIGVTALRM, _stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        return _equivalent(given, reference)
    except _SlowError:
        raise TimeoutError(f"no end after {SECONDS:g} s of processor time") from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def latex(text: str) -> str:
    """A tidy text as LaTeX."""
    if set(_LETTER.findall(text)) == {"i"}:  # a complex number, and not an unknown of that name among others
        text = _LETTER.sub(" I ", text)
    text = _ROOT.sub(lambda found: rf"\sqrt{{{next(one for one in found.groups() if one is not None)}}}", text)
    text = _NAMES.sub(r"\\\1 ", text)
    for sign, command in (*_GREEK.items(), *_MARKS.items()):
        text = text.replace(sign, command)
    return text.replace("**", "^").replace("*", r" \cdot ")


def _equivalent(given: str, reference: str) -> bool:
    right, left = _parsed(reference), _parsed(given)
    if right is None:
        raise ValueError(f"the reference cannot be read as mathematics: {reference!r}")
    if left is None:
        return False
    for text, other in ((given, right), (reference, left)):
        if (decimal := answers_numbers.number(text)) is not None and decimal.places is not None:
            return _rounded(decimal, other)
    if (numbers := _as_numbers(left, right)) is not None:
        return numbers
    if math_verify.verify(right, left, timeout_seconds=None, raise_on_error=True):
        return True
    alone = [isinstance(one, sympy.Symbol) for one in (left, right)]
    if alone[0] == alone[1] or not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return False
    simplify: Any = sympy.simplify  # carries no types
    return bool(simplify(left - right) == 0)  # what `verify` leaves out where one side is an unknown alone


def _as_numbers(left: Any, right: Any) -> bool | None:
    """Whether two expressions without unknowns are one number, to 30 figures of it; None for anything else.

    `verify` compares their difference with zero: there the tiny are all equal.
    """
    if any(not isinstance(one, sympy.Expr) or one.free_symbols for one in (left, right)):
        return None
    one, other = (side.doit().evalf(40) for side in (left, right))
    if not (one.is_number and other.is_number and one.is_finite and other.is_finite):
        return None
    if one.is_zero or other.is_zero:
        return None
    return bool(abs((one - other) / other) < sympy.Rational(1, 10**30))


def _parsed(text: str) -> Any:
    """A sympy object, or None for what cannot be read."""
    read: Any = math_verify.parse  # carries no types
    found: Any = read(
        f"${latex(text)}$",
        extraction_config=[math_verify.LatexExtractionConfig(normalization_config=_READING)],
        fallback_mode="no_fallback",
        parsing_timeout=None,
        raise_on_error=True,
    )
    return found[0] if found else None


def _rounded(decimal: answers_numbers.Number, other: Any) -> bool:
    """Whether a decimal is the rounding of an expression without unknowns."""
    if getattr(other, "free_symbols", True):
        return False
    value = other.evalf(decimal.figures + 10)
    if not value.is_real or not value.is_finite:
        return False
    return answers_numbers.rounds(decimal, Fraction(str(value)))


def _stop(number: int, frame: FrameType | None) -> None:
    raise _SlowError
