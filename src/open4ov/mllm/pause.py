"""When an endpoint is to be left alone after a 429. Knows no time of its own: `now` is seconds of any clock that only
goes forward.

The seconds of Retry-After bind the question that was refused. What they mean for the others is not said: an endpoint
with so many places goes on serving as they become free, one with a quota or one that is closed refuses everybody. So
the next question is a trial, sent alone, after all refusals of the same moment are in. If it is refused as well, the
pause is everybody's. If it is not, within three times the seconds that a refusal takes, all may go on. Where trials
are refused again and again, 1, 3, 7, ... pauses go without one: they cost few requests in the end.
"""

from __future__ import annotations

import random
import threading

SHORTEST = 0.1
"""Seconds of a pause at least"""
SETTLED = 0.02
"""Seconds after which a trial that was not refused counts as taken, at least"""
LEAST_TRIALS = 5
"""2 to the power of this, less one: so many pauses in a row go without a trial at most"""


class Pause:
    """Shared by all that ask one endpoint, from any thread."""

    def __init__(self) -> None:
        self.until = float("-inf")  # nobody asks before
        self._doubt = float("-inf")  # the seconds of a 429 that was not everybody's run until then
        self._calm = float("-inf")  # no trial before
        self._trial: float | None = None  # when it was sent
        self._last = float("-inf")  # when the last 429 came
        self._refusal = 0.0  # seconds that a 429 takes to come
        self._in_vain = self._without = 0
        self._lock = threading.Lock()

    def claim(self, now: float) -> float:
        """Seconds to wait before a question may go. 0: it may, and must, since it may be the trial."""
        with self._lock:
            if now < self.until:
                return self.until - now
            if now >= self._doubt:
                return 0.0
            if self._trial is None:
                if now >= self._calm:
                    self._trial = now
                return max(0.0, self._calm - now)
            return max(0.0, self._trial + self._settled - now)

    def refused(self, sent: float, now: float, seconds: float) -> bool:
        """A 429 came that asks for so many seconds, for a question that went at `sent`. True: all have to wait now."""
        with self._lock:
            took, settled = now - sent, self._settled
            self._refusal = max(took, 0.9 * self._refusal)
            if sent <= self._last:  # on its way when the last one came: of the same moment
                if now < self.until:
                    self.until = max(self.until, now + seconds)
                elif self._trial is None:
                    self._doubt, self._calm = max(self._doubt, now + seconds), now + self._refusal
                return now < self.until
            self._last = now
            tried = self._trial if now < self._doubt and self._trial is not None and sent >= self._trial else None
            if tried is not None and (now < tried + settled or took >= settled):  # the trial, or as late as it may be
                self._in_vain = min(self._in_vain + 1, LEAST_TRIALS)
                self._without = 2**self._in_vain - 1
                self._close(now, seconds)
            elif self._without:
                self._without -= 1
                self._close(now, seconds)
            else:
                self._in_vain *= tried is None
                self._doubt, self._calm, self._trial = now + seconds, now + self._refusal, None
            return now < self.until

    def extend(self, now: float, seconds: float) -> None:
        """Leaves the endpoint alone for so many seconds, and a little longer, so that several processes do not come
        back at the same moment."""
        with self._lock:
            self._close(now, seconds)

    def _close(self, now: float, seconds: float) -> None:
        self.until = max(self.until, now + seconds + random.uniform(0, min(0.5, seconds / 20)))
        self._doubt, self._trial = float("-inf"), None

    @property
    def _settled(self) -> float:
        return max(SETTLED, 3 * self._refusal)
