"""A verifier that cannot stop a run: a user's function in a process of its own, with so many seconds for each answer.

One that raises, hangs, dies or gives something other than true or false has given no verdict, and the reason is told:
that is no wrong answer. A hanging loop, in C too, is killed and the process begun anew.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

from open4ov.errors import UserError
from open4ov.functions import digest, function
from open4ov.verifier_worker import truth

Rule = Callable[[str, str, Sequence[str]], Any]
"""(response, answer, aliases) -> whether it is right"""

START_SECONDS = 120.0
"""For the process to import the verifier's module"""
GRACE_SECONDS = 1.0
"""The process ends itself when the time is over; this long afterwards it is killed."""
HANGS_IN_A_ROW = 8
"""After so many the verifier, not the answers, is taken to be at fault."""

_WORKER = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from open4ov.verifier_worker import main; main()"


@dataclass(frozen=True)
class Verdict:
    """Whether a response is right; None with a `reason` when the verifier did not say."""

    right: bool | None
    reason: str = ""


class Verifier:
    """`rule`: `package.module:function`, called in a process of its own with `seconds` for each call; or a function
    itself, which is called here and has no limit of time. `key`: the option that names it, for messages.

    With `patient` one that hangs again and again is asked all the same: it is the responses that may be at fault.

    `identity` says which function it is, its source file's content included; None for one that has no name: its
    verdicts cannot be kept. Close it, or use it in a `with`.
    """

    def __init__(self, rule: str | Rule, seconds: float = 10.0, key: str = "verifier", patient: bool = False) -> None:
        self.seconds, self.key, self._patient = seconds, key, patient
        self.name = rule if isinstance(rule, str) else ""
        self._function: Rule = function(rule, key) if isinstance(rule, str) else rule
        self.identity = f"{rule} {digest(self.name, key)[:16]}" if self.name else None
        self._worker: subprocess.Popen[bytes] | None = None
        self._answers: IO[bytes] | None = None
        self._hangs = 0

    def __enter__(self) -> Verifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def verdict(self, response: str, answer: str, aliases: Sequence[str] = ()) -> Verdict:
        """Raises UserError for a verifier that cannot be started, and for one that hangs again and again."""
        if not self.name:
            try:
                return Verdict(truth(self._function(response, answer, aliases)))
            except Exception as error:
                return Verdict(None, f"{type(error).__name__}: {error}")
        if self._worker is not None and self._worker.poll() is not None:  # killed since: no fault of this response
            self.close()
        if self._worker is None:
            self._start()
        said = self._exchange({"response": response, "answer": answer, "aliases": list(aliases)})
        if said is None:
            self._hangs += 1
            if self._hangs >= HANGS_IN_A_ROW and not self._patient:
                raise UserError(
                    f"{self.key}: {self.name} gave no verdict in {self.seconds:g} s, {self._hangs} times in a row; "
                    "mend it, or give it more seconds"
                )
            return Verdict(None, f"no verdict in {self.seconds:g} s")
        self._hangs = 0
        return Verdict(said.get("right"), said.get("reason", ""))

    def close(self) -> None:
        """Ends the process."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.kill()
        worker.wait()
        for stream in (worker.stdin, self._answers):
            if stream is not None:
                stream.close()

    def _start(self) -> None:
        mine, theirs = os.pipe()
        command = [sys.executable, "-c", _WORKER, json.dumps(sys.path), self.name, str(theirs), repr(self.seconds)]
        try:
            self._worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(theirs,), start_new_session=True
            )
        finally:
            os.close(theirs)
        self._answers = os.fdopen(mine, "rb", buffering=0)
        said = self._hear(START_SECONDS)
        if said is None or "reason" in said:
            self.close()
            why = f"no answer in {START_SECONDS:g} s" if said is None else said["reason"]
            raise UserError(f"{self.key}: {self.name} cannot be used in a process of its own: {why}")

    def _exchange(self, question: dict[str, Any]) -> dict[str, Any] | None:
        """What the process says; None when its time is over. A process that has ended is begun anew at the next
        call."""
        worker = self._worker
        assert worker is not None
        assert worker.stdin is not None
        try:
            worker.stdin.write(json.dumps(question).encode() + b"\n")
            worker.stdin.flush()
        except BrokenPipeError:
            pass  # it has died of something; hearing from it tells of what
        said = self._hear(self.seconds + GRACE_SECONDS)
        if said is None or "ended" in said:
            self.close()
        return said

    def _hear(self, seconds: float) -> dict[str, Any] | None:
        """One line of the process within so many seconds, else None."""
        worker, answers = self._worker, self._answers
        assert worker is not None
        assert answers is not None
        end, line = time.monotonic() + seconds, b""
        with selectors.DefaultSelector() as selector:
            selector.register(answers, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    return None
                piece = answers.read(65536)
                if not piece:
                    code = worker.wait()
                    if code == -signal.SIGALRM:  # SIGALRM: the end that it has set itself
                        return None
                    return {"ended": True, "reason": f"the verifier's process ended with code {code}"}
                line += piece
        return json.loads(line)
