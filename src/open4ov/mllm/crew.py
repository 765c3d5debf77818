"""Threads that work through questions in the order in which they come.

Daemons, unlike those of `concurrent.futures`: a run that is stopped ends without the replies that are under way, for
which it could wait as long as `timeout` allows.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Question = TypeVar("Question")
Found = TypeVar("Found")


class _Job(Generic[Question, Found]):
    """A question, and what became of it once `done` is free."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.found: Found | None = None
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def result(self) -> Found:
        with self.done:  # a signal gets through
            pass
        if self.error is not None:
            raise self.error
        return self.found  # pyright: ignore[reportReturnType]


class Crew(Generic[Question, Found]):
    """At most `size` threads that call `work` with what is submitted."""

    def __init__(self, work: Callable[[Question], Found], size: int) -> None:
        self._work, self._size = work, size
        self._jobs: deque[_Job[Question, Found]] = deque()
        self._threads: list[threading.Thread] = []
        self._condition = threading.Condition()
        self._idle, self._ended = 0, False

    def submit(self, question: Question) -> Callable[[], Found]:
        """Gives a function that waits for the result, or raises what the work has raised."""
        job: _Job[Question, Found] = _Job(question)
        with self._condition:
            self._jobs.append(job)
            if self._idle >= len(self._jobs):  # who was called and has not come yet is idle too, its job still here
                self._condition.notify()
            elif len(self._threads) < self._size:
                self._threads.append(threading.Thread(target=self._run, daemon=True))
                self._threads[-1].start()
        return job.result

    def end(self, seconds: float | None = None) -> None:
        """Drops what nobody has begun, and waits for the rest; at most so many seconds, if given."""
        with self._condition:
            self._ended = True
            self._jobs.clear()
            self._condition.notify_all()
        end = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._jobs:
                    if self._ended:
                        return
                    self._idle += 1
                    self._condition.wait()
                    self._idle -= 1
                job = self._jobs.popleft()
            try:
                job.found = self._work(job.question)
            except BaseException as error:  # it is raised where the result is asked for
                job.error = error
            job.done.release()
