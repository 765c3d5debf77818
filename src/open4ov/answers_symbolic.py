"""Answers that are mathematics: equal by `math-verify`, in processes of their own with so many seconds for each.

What could hang or crash never runs in the process that trains. A check that has not come to an end, or
whose process died, has given no verdict: it counts as wrong, and is counted apart (`counts`). What came of a check is
remembered, so that a form which hangs does so once; one without a verdict is counted each time that it is asked for.

In a process that is itself a verifier's (`verifier_worker.py`), which has its seconds already, the check runs there.
"""

from __future__ import annotations

import atexit
import os
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass

from open4ov import verifier_worker
from open4ov.verifier import Verdict, Verifier

SECONDS = 6.0
"""Wall-clock seconds of a check; its own processor time ends it after `answers_symbolic_rule.SECONDS` before."""
LONGEST = 200
"""Characters of an answer that is looked at"""
REMEMBERED = 65_536
WORKERS = max(1, min(8, (os.cpu_count() or 1) // 4))
"""Processes, at most: each holds about 100 MB"""

RULE = "open4ov.answers_symbolic_rule:equivalent"

_FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "log",
              "ln", "lg", "exp", "sqrt", "max", "min", "gcd", "lcm", "det", "pi"}  # fmt: skip
_LETTERS = re.compile(r"(?<!\\)(?<![a-zA-Z\\])[a-zA-Z]+")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[a-zA-Z]*\}")
_SIGN = re.compile(
    r"\\(?:frac|sqrt|begin|sin|cos|tan|log|ln|binom|vec|bar|pmod|sum|int|lim|d?frac)|[-+*/^=<>≤≥≠±×·π∞√∅∪∩|]"
)
_SPELT = re.compile(r"[a-zA-Z](?:-[a-zA-Z])+")
"""A word letter by letter: c-a-t"""
_ALLOWED = re.compile(r"[\x20-\x7eπθαβγδλμφωΩ∞√±×·÷≤≥≠∪∩∅°⦃⦄]*")


@dataclass
class Counts:
    """Symbolic checks so far, and how many times an answer had no verdict, remembered ones included; `reason`: of the
    last of those."""

    checks: int = 0
    no_verdict: int = 0
    reason: str = ""


counts = Counts()


def mathematics(text: str) -> bool:
    """Whether a tidy text looks like mathematics: it has a sign of some kind, and no words.

    Letters stand alone, are a function's name, or are two or three small ones that touch a figure, a sign or a bracket.
    """
    if not text or len(text) > LONGEST or not _ALLOWED.fullmatch(text) or _SPELT.fullmatch(text):
        return False
    environment = _ENVIRONMENT.search(text) is not None
    text = _ENVIRONMENT.sub("{", text)
    if not (
        environment or _SIGN.search(text) or (re.search(r"\d ?[a-zA-Z]|[a-zA-Z][a-zA-Z(]", text) and len(text) <= 40)
    ):
        return False
    for found in _LETTERS.finditer(text):
        word = found[0]
        if len(word) == 1 or word.casefold() in _FUNCTIONS:
            continue
        before, after = text[found.start() - 1 : found.start()], text[found.end() : found.end() + 1]
        touches = any(one and one in "0123456789^_+-*/=()[]{}<>≤≥≠±×·|" for one in (before, after))
        if len(word) > 3 or not word.islower() or not (touches or text == word):
            return False
    return True


def equivalent(given: str, reference: str) -> bool:
    """Whether two tidy texts, both mathematics, are equivalent. False without a verdict, which `counts` tells of."""
    return _checker.check(given, reference)


def close() -> None:
    """Ends the processes, if there are any; the next check begins another."""
    _checker.close()


class _Checker:
    """Up to `WORKERS` processes, begun when they are first needed; callers in threads are served side by side."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(WORKERS)
        self._idle: list[Verifier] = []
        self._process = os.getpid()
        self._known: OrderedDict[tuple[str, str], Verdict] = OrderedDict()

    def check(self, given: str, reference: str) -> bool:
        if verifier_worker.timed():
            from open4ov.answers_symbolic_rule import equivalent as rule

            return bool(rule(given, reference, ()))
        key = (given, reference)
        with self._lock:
            if (known := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                return _counted(known)
        with self._places:
            verifier = self._taken()
            try:
                verdict = verifier.verdict(given, reference)
            finally:
                self._idle.append(verifier)
        with self._lock:
            counts.checks += 1
            self._known[key] = verdict
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return _counted(verdict)

    def close(self) -> None:
        idle, self._idle = self._idle, []
        if self._process == os.getpid():
            for verifier in idle:
                verifier.close()

    def _taken(self) -> Verifier:
        """A verifier that nobody uses, or a new one; a forked process has no business with its parent's."""
        with self._lock:
            if self._process != os.getpid():
                self._process, self._idle = os.getpid(), []
            return self._idle.pop() if self._idle else Verifier(RULE, SECONDS, "symbolic answers", patient=True)


def _counted(verdict: Verdict) -> bool:
    """Whether it says right; called by who holds the lock."""
    if verdict.right is None:
        counts.no_verdict += 1
        counts.reason = verdict.reason
    return bool(verdict.right)


_checker = _Checker()
atexit.register(close)
