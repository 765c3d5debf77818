"""How many questions an endpoint is asked at once: as many as it takes well, at most what the recipe allows.

`Window` is the rule and knows no time of its own (AIMD: additive increase, multiplicative decrease):

- An answer lets the window grow: by one for each answer below the known limit, near it by one for a whole round.
- A 429 leaves it open whether the number is what the endpoint minds. So the window goes to what is left open then, and
  as soon as there is an answer one question takes a second look at one more. Refused, it makes that number the limit,
  which is tried again only after 10 to 40 times the seconds that the endpoint asked to wait. Answered, it is followed
  by looks further up, 1, 2, 4, ... at a time, until the window is as before. Where everybody is refused it stays.
- 429s for a quarter of the last answers, a time-out or a 503 cut the window by a factor, once for all that was sent
  before.
- Any other 5xx is a fault of one request, and says nothing about how many there may be.

`Gate` is the window with threads waiting at it; `Pause` (`pause.py`) says when nobody goes.
"""

from __future__ import annotations

import email.utils
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from open4ov.mllm.pause import SHORTEST, Pause

DECREASE = 0.7
START = 8
HOLD = (10, 40)
"""For how many times the pause a limit that was met is not tried again: at first, and when it was met often"""
HELD = 300.0
"""Seconds for which a limit is not tried again at most"""
NEAR = 1.1
"""Within this factor of the known limit the window grows slowly"""
FIRST, LONGEST = 0.5, 30.0
"""Seconds before the second and before a late try"""

Outcome = Literal["good", "limited", "overloaded", "failed"]


@dataclass(frozen=True)
class Turn:
    """A question on its way: when it was sent (seconds), and how many were open then, itself among them."""

    sent: float
    open: int


class Window:
    """How many may be open: `size`, between 1 and `most`. Times are seconds of any clock that only goes forward."""

    def __init__(self, most: int, start: int = START) -> None:
        self.most = most
        self._size = float(min(most, start))
        self._ceiling = float(most)  # the most that is known to be taken; tried again from `_held_until` on
        self._hold = HOLD[0]
        self._last_limit = self._last_cut = self._held_until = float("-inf")
        self._suspect: int | None = None  # as many may be too many: one was refused, and it is not known why
        self._look: Turn | None = None  # the one that is sent with so many open, to see whether it is refused too
        self._before = 0.0  # the size when the suspicion came up
        self._step = 0  # by how much the next look is at more than the last
        self._recent: deque[bool] = deque(maxlen=64)

    @property
    def size(self) -> int:
        return int(self._size)

    def room(self, open_: int) -> bool:
        """Whether one more may go, when so many are open."""
        if self._suspect is not None and self._look is not None:
            return open_ < self._suspect - 1
        return open_ < self.size

    def sent(self, turn: Turn) -> None:
        """A question goes out."""
        if self._suspect is not None and self._look is None and turn.open >= self._suspect:
            self._look = turn

    def good(self, turn: Turn, now: float, *, wanted: bool = True) -> None:
        """An answer came. `wanted`: more would have been asked at once, had the window been larger."""
        self._recent.append(False)
        if self._suspect is not None:
            if turn is not self._look:
                self._size = max(self._size, float(self._suspect))  # room for a second look
                return
            if self._suspect < int(self._before):  # so many are not too many; are a few more?
                self._step = max(1, 2 * self._step)
                self._suspect, self._look = min(int(self._before), self._suspect + self._step), None
                self._size = max(self._size, float(self._suspect))
                return
            self._size, self._suspect = max(self._size, self._before), None
        if not wanted:  # who never fills the window learns nothing about a larger one
            return
        if self._size >= self._ceiling * NEAR + 1:
            self._ceiling = float(self.most)  # passed it well: it holds no longer
        top = self._ceiling if now < self._held_until else float(self.most)
        grown = self._size + (1.0 if self._size < self._ceiling / NEAR else 1.0 / self._size)
        self._size = max(self._size, min(grown, top))

    def limited(self, turn: Turn, now: float, pause: float, left: int) -> None:
        """A 429 came, and with it a pause of so many seconds. `left`: how many are still open."""
        new = turn.sent > self._last_limit  # else on its way when the last one came: of the same moment
        self._last_limit = now
        if self._suspect is not None and turn is self._look:
            self._meet(self._suspect - 1, now, HOLD[0], pause)
            return
        if not new:
            if self._suspect is not None and left + 1 < self._suspect:
                self._doubt(left + 1)
            return
        self._recent.append(True)
        if len(self._recent) >= START and sum(self._recent) > len(self._recent) / 4 and turn.sent > self._last_cut:
            self._cut(self._size * DECREASE, now)
            self._ceiling = min(self._ceiling, self._size)
        elif self._suspect is None and turn.open > self.size:
            return  # so many are not asked any more
        elif turn.open > self._ceiling:
            self._meet(turn.open - 1, now, min(HOLD[1], 2 * self._hold), pause)
        else:
            self._before = self._size if self._suspect is None else self._before
            self._doubt(min(left + 1, int(self._before)))

    def excused(self, now: float) -> None:
        """Everybody is refused for a while, so the number was not the reason."""
        self._last_limit = now
        if self._suspect is not None:
            self._size, self._suspect = max(self._size, self._before), None

    def failed(self, turn: Turn) -> None:
        """Anything else: says nothing about the number."""
        if turn is self._look:
            self._look = None

    def overloaded(self, turn: Turn, now: float) -> None:
        """A time-out or a 503."""
        self.failed(turn)
        if turn.sent > self._last_cut:
            self._cut(self._size * DECREASE, now)
            self._ceiling = min(self._ceiling, self._size)  # from here on one by one

    def _doubt(self, open_: int) -> None:
        self._suspect, self._look, self._step = open_, None, 0
        self._size = max(1.0, min(self._size, open_ - 1.0))

    def _meet(self, limit: float, now: float, hold: int, pause: float) -> None:
        self._ceiling, self._hold = max(1.0, limit), hold
        self._held_until = now + min(HELD, hold * max(pause, SHORTEST))
        self._cut(min(self._size, self._ceiling), now)

    def _cut(self, size: float, now: float) -> None:
        self._size, self._last_cut, self._suspect = max(1.0, size), now, None
        self._recent.clear()


class Gate:
    """Lets through as many threads as the window says, and none during a pause."""

    def __init__(self, most: int, pause: Pause | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.window = Window(most)
        self.pause = pause or Pause()
        self._clock, self._open, self._waiting = clock, 0, 0
        lock = threading.Lock()
        self._condition = threading.Condition(lock)
        self._asleep = threading.Condition(lock)  # who sleeps must not take the call that a place is free
        self._closed: Exception | None = None

    def enter(self) -> Turn:
        """Waits for a turn. Raises what the gate was closed with."""
        with self._condition:
            while True:
                if self._closed is not None:
                    raise self._closed
                wait = None
                if self.window.room(self._open):
                    now = self._clock()
                    wait = self.pause.claim(now)
                    if not wait:
                        self._open += 1
                        turn = Turn(now, self._open)
                        self.window.sent(turn)
                        return turn
                self._waiting += 1
                try:
                    self._condition.wait(wait)
                finally:
                    self._waiting -= 1

    def leave(self, turn: Turn, outcome: Outcome, pause: float = 0.0) -> None:
        """Ends a turn. `pause`: seconds for which everybody is held back; with `limited` never none."""
        with self._condition:
            wanted = self._waiting > 0 or not self.window.room(self._open)
            self._open -= 1
            now = self._clock()
            if outcome == "limited":
                pause = max(pause, SHORTEST)
                if self.pause.refused(turn.sent, now, pause):
                    self.window.excused(now)
                else:
                    self.window.limited(turn, now, pause, self._open)
            elif outcome == "overloaded":
                self.window.overloaded(turn, now)
            elif outcome == "good":
                self.window.good(turn, now, wanted=wanted)
            else:
                self.window.failed(turn)
            if pause > 0 and outcome != "limited":
                self.pause.extend(now, pause)
            self._condition.notify(2)  # one for the place left, one where the window has grown

    def sleep(self, seconds: float) -> None:
        """Waits outside of a turn; not longer than until the gate is closed."""
        with self._asleep:
            self._asleep.wait_for(lambda: self._closed is not None, seconds)

    def close(self, error: Exception) -> None:
        """Nobody gets a turn any more."""
        with self._condition:
            self._closed = error
            self._condition.notify_all()
            self._asleep.notify_all()


def backoff(attempt: int) -> float:
    """Seconds before try number `attempt` + 2: doubling, capped, and half of it drawn at random."""
    return min(LONGEST, FIRST * 2 ** min(attempt, 16)) * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Seconds that a reply asks to wait (`Retry-After-Ms`, or `Retry-After` in seconds or as a date); None if it does
    not say, or says nothing that can be read."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        date = email.utils.parsedate_to_datetime(headers["retry-after"])
        return max(0.0, date.timestamp() - now())
    except (KeyError, ValueError, TypeError, OverflowError, OSError):
        return None
