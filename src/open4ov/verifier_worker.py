"""The process that `verifier.Verifier` asks: a line of JSON in for each response, a line of JSON out.

Answers go through a pipe of their own, so that a verifier may print what it likes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from open4ov.errors import UserError
from open4ov.functions import function

_timed = False


def timed() -> bool:
    """Whether this process is a verifier's, whose calls have their seconds: what could hang may run in it."""
    return _timed


def main() -> None:
    """`argv`: the search path, the verifier's name, the pipe's number and the seconds a call may take."""
    global _timed
    _timed = True
    name, pipe, seconds = sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    try:
        rule = function(name, "verifier")
    except UserError as error:
        _say(pipe, {"reason": str(error)})
        return
    _say(pipe, {})
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        # the kernel ends this process when the time is over, whatever the verifier is doing, and whether or not the one
        # who asked is still there
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            said: dict[str, Any] = {"right": truth(rule(asked["response"], asked["answer"], asked["aliases"]))}
        except Exception as error:
            said = {"right": None, "reason": f"{type(error).__name__}: {error}"[:500]}
        signal.setitimer(signal.ITIMER_REAL, 0)
        _say(pipe, said)


def truth(said: object) -> bool:
    """True or false, as a verifier of whatever library says it. Raises TypeError for anything else."""
    try:
        yes, no = bool(said == 1), bool(said == 0)
    except Exception:
        yes = no = False
    if yes == no or isinstance(said, str):
        raise TypeError(f"gave {said!r}, which is neither true nor false")
    return yes


def _say(pipe: int, said: dict[str, Any]) -> None:
    data = json.dumps(said).encode() + b"\n"
    while data:
        data = data[os.write(pipe, data) :]
