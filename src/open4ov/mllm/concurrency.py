"""How many questions an endpoint is asked at once: as many as it takes well, at most what the recipe allows.

`Window` is the rule and knows no time of its own (AIMD: additive increase, multiplicative decrease):

- An answer lets the window grow: by one for each answer below the known limit, near it by one for a whole round.
- A 429 pauses the whole endpoint for as long as it says (Retry-After). If as many questions as were open have been
  answered since the last 429, their number is not what the endpoint minds, and the window stays. Otherwise the limit is
  known, and tried again only after 10 to 40 times the pause: trying costs a pause, so little of the time goes into it.
- 429s for a quarter of the last answers, a time-out or a 503 cut the window by a factor, once for all that was sent
  before.
- Any other 5xx is a fault of one request, and says nothing about how many there may be.

`Gate` is the window with threads waiting at it; `Pause` is shared by all that ask the same endpoint.
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

DECREASE = 0.7
START = 8
HOLD = (10, 40)
"""For how many times the pause a limit that was met is not tried again: at first, and when it was met often"""
HELD = 300.0
"""Seconds for which a limit is not tried again at most"""
NEAR = 1.1
"""Within this factor of the known limit the window grows slowly"""
SHORTEST = 0.1
"""Seconds that a 429 pauses the endpoint at least"""
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
        self._proven = 0  # as many were open when a question was answered, and none of so many was refused since
        self._best = 0.0  # as many were open when a question was answered, since the last cut
        self._refused = most + 1  # the fewest that were open when one was refused, of those sent together
        self._last_limit = self._last_cut = self._held_until = float("-inf")
        self._ceiling = float(most)  # the most that is known to be taken; tried again from `_held_until` on
        self._hold = HOLD[0]
        self._recent: deque[bool] = deque(maxlen=64)

    @property
    def size(self) -> int:
        return int(self._size)

    def good(self, turn: Turn, now: float, *, wanted: bool = True) -> None:
        """An answer came. `wanted`: more would have been asked at once, had the window been larger."""
        self._recent.append(False)
        # sent with others of which some were refused, it tells of numbers below theirs only
        self._proven = max(
            self._proven, turn.open if turn.sent > self._last_limit else min(turn.open, self._refused - 1)
        )
        self._best = max(self._best, turn.open)
        if not wanted:  # who never fills the window learns nothing about a larger one
            return
        if self._size >= self._ceiling * NEAR + 1:
            self._ceiling = float(self.most)  # passed it well: it holds no longer
        top = self._ceiling if now < self._held_until else float(self.most)
        grown = self._size + (1.0 if self._size < self._ceiling / NEAR else 1.0 / self._size)
        self._size = max(self._size, min(grown, top))

    def limited(self, turn: Turn, now: float, pause: float) -> None:
        """A 429 came, and with it a pause of so many seconds."""
        self._recent.append(True)
        new = turn.sent > self._last_limit  # else sent before the last one was known, and tells nothing more
        self._last_limit, proven = now, self._proven
        self._refused = turn.open if new else min(self._refused, turn.open)
        self._proven = min(proven, turn.open - 1)
        share = sum(self._recent) / len(self._recent)
        if share > 0.25 and len(self._recent) >= START and turn.sent > self._last_cut:
            self._cut(self._size * DECREASE, now)
            self._ceiling = min(self._ceiling, self._size)
        elif new and turn.open > proven > 0:
            self._cut(min(self._size, max(proven, turn.open - 1, self._best * DECREASE)), now)
            again = turn.open - 1 <= self._ceiling < self.most
            self._hold = min(HOLD[1], 2 * self._hold) if again else HOLD[0]
            self._ceiling = max(self._size, turn.open - 1.0)
            self._held_until = now + min(HELD, self._hold * max(pause, SHORTEST))

    def overloaded(self, turn: Turn, now: float) -> None:
        """A time-out or a 503."""
        if turn.sent > self._last_cut:
            self._cut(self._size * DECREASE, now)
            self._ceiling = min(self._ceiling, self._size)  # from here on one by one

    def _cut(self, size: float, now: float) -> None:
        self._size, self._last_cut = max(1.0, size), now
        self._best = min(self._best, self._size)
        self._recent.clear()


class Pause:
    """Until when an endpoint is to be left alone, for all that ask it."""

    def __init__(self) -> None:
        self.until = float("-inf")
        self._lock = threading.Lock()

    def extend(self, until: float) -> None:
        with self._lock:
            self.until = max(self.until, until)


class Gate:
    """Lets through as many threads as the window says, and none during a pause."""

    def __init__(self, most: int, pause: Pause | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.window = Window(most)
        self.pause = pause or Pause()
        self._clock, self._open, self._waiting = clock, 0, 0
        self._condition = threading.Condition()
        self._closed: Exception | None = None

    def enter(self) -> Turn:
        """Waits for a turn. Raises what the gate was closed with."""
        with self._condition:
            while True:
                if self._closed is not None:
                    raise self._closed
                wait = self.pause.until - self._clock()
                if wait > 0:
                    self._condition.wait(wait)
                elif self._open < self.window.size:
                    self._open += 1
                    return Turn(self._clock(), self._open)
                else:
                    self._waiting += 1
                    try:
                        self._condition.wait()
                    finally:
                        self._waiting -= 1

    def leave(self, turn: Turn, outcome: Outcome, pause: float = 0.0) -> None:
        """Ends a turn. `pause`: seconds for which everybody is held back; with `limited` never none."""
        with self._condition:
            wanted = self._waiting > 0 or self._open >= self.window.size
            self._open -= 1
            now = self._clock()
            if outcome == "limited":
                pause = max(pause, SHORTEST)
                self.window.limited(turn, now, pause)
            elif outcome == "overloaded":
                self.window.overloaded(turn, now)
            elif outcome == "good":
                self.window.good(turn, now, wanted=wanted)
            if pause > 0:  # a little longer, so that several processes do not come back at the same moment
                self.pause.extend(now + pause + random.uniform(0, min(0.5, pause / 20)))
            self._condition.notify(2)  # one for the place left, one where the window has grown

    def sleep(self, seconds: float) -> None:
        """Waits outside of a turn; not longer than until the gate is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed is not None, seconds)

    def close(self, error: Exception) -> None:
        """Nobody gets a turn any more."""
        with self._condition:
            self._closed = error
            self._condition.notify_all()


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
