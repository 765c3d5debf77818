"""The rule of concurrency, on a clock of its own: what a window does with 429s, time-outs and answers."""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.mllm import ProviderError
from open4ov.mllm.concurrency import FIRST, LONGEST, Gate, Turn, Window, backoff, retry_after
from open4ov.mllm.pause import SHORTEST, Pause

Refuses = Callable[[float, int], float | None]
"""(time, how many the server would have open) → Retry-After of a 429 in seconds, or None: it answers"""


def simulate(
    most: int, answers: int, latency: float, refuses: Refuses, seed: int = 0, spread: float = 0.05
) -> tuple[float, int, Window]:
    """An endpoint that answers after `latency` and refuses at once, and a client with always something to ask: seconds
    until so many answers were there, and how many 429s it took."""
    window, pause, rng = Window(most), Pause(), random.Random(seed)
    now, open_, taken, done, limited = 0.0, 0, 0, 0, 0
    events: list[tuple[float, int, Turn, float | None]] = []
    while done < answers:
        held = float("inf")
        while window.room(open_):
            held = now + pause.claim(now)
            if held > now:
                break
            open_ += 1
            turn, wait = Turn(now, open_), refuses(now, taken + 1)
            window.sent(turn)
            taken += wait is None
            after = 0.001 if wait is not None else latency * rng.uniform(1 - spread, 1 + spread)
            heapq.heappush(events, (now + after, len(events) + rng.randrange(2**40), turn, wait))
        if window.room(open_) and (not events or held < events[0][0]):
            now = held
            continue
        now, _, turn, wait = heapq.heappop(events)
        open_ -= 1
        if wait is None:
            taken -= 1
            done += 1
            window.good(turn, now)
        else:
            limited += 1
            if pause.refused(turn.sent, now, max(wait, SHORTEST)):
                window.excused(now)
            else:
                window.limited(turn, now, max(wait, SHORTEST), open_)
    return now, limited, window


def test_without_limits_all_that_the_recipe_allows_is_used_soon() -> None:
    seconds, limited, window = simulate(64, 6400, 0.2, lambda now, open_: None)
    assert (limited, window.size) == (0, 64)
    assert 6400 * 0.2 / 64 / seconds > 0.95


@pytest.mark.parametrize("capacity", [3, 10, 32, 50])
@pytest.mark.parametrize("wait", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("spread", [0.0, 0.05, 0.5])
def test_a_server_with_fewer_places_is_used_to_nine_tenths(capacity: int, wait: float, spread: float) -> None:
    answers = 300 * capacity
    seconds, limited, window = simulate(
        64, answers, 0.2, lambda now, open_: wait if open_ > capacity else None, spread=spread
    )
    assert answers * 0.2 / capacity / seconds > 0.9
    assert limited < 0.05 * answers
    assert window.size <= capacity + 1


def test_refusals_that_have_nothing_to_do_with_the_number_leave_it_as_it_is() -> None:
    rng = random.Random(1)
    seconds, limited, window = simulate(64, 12_800, 0.2, lambda now, open_: 0.0 if rng.random() < 0.005 else None)
    assert limited > 30
    ideal = 12_800 * 0.2 / 64
    assert ideal / (seconds - limited * SHORTEST) > 0.85  # beside the pauses
    assert window.size > 32


def test_a_server_that_is_closed_for_a_second_now_and_then() -> None:
    seconds, limited, _ = simulate(64, 9600, 0.2, lambda now, open_: 1.0 - now % 10 if now % 10 < 1 else None)
    ideal = 9600 * 0.2 / 64 * 10 / 9
    assert ideal / seconds > 0.9
    assert limited < 200


def test_a_limit_that_rises_is_found() -> None:
    _, _, window = simulate(64, 20_000, 0.2, lambda now, open_: 0.2 if open_ > (8 if now < 20 else 60) else None)
    assert window.size > 50


def test_a_limit_that_falls_is_kept() -> None:
    _, limited, window = simulate(64, 8000, 0.2, lambda now, open_: 0.2 if open_ > (60 if now < 10 else 10) else None)
    assert window.size <= 11
    assert limited < 600


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_many_random_refusals_leave_most_of_the_window(spread: float) -> None:
    rng = random.Random(2)
    seconds, limited, window = simulate(
        32, 16_000, 0.2, lambda now, open_: 1.0 if rng.random() < 0.01 else None, spread=spread
    )
    assert limited > 80
    assert 16_000 * 0.2 / 32 / seconds > 0.8
    assert window.size > 24


def test_a_limit_is_met_twice_and_then_left_alone() -> None:
    """Ten minutes with 16 places: two refusals find the limit, then it is tried after 10, 20, 40, 40, ... seconds."""
    seconds, limited, window = simulate(64, 48_000, 0.2, lambda now, open_: 1.0 if open_ > 16 else None)
    assert 590 < seconds < 620
    assert 8 <= limited <= 24
    assert window.size in (16, 17)


events = st.lists(
    st.tuples(
        st.sampled_from(["good", "limited", "overloaded", "excused"]),
        st.integers(1, 80),
        st.floats(0, 5),
        st.integers(0, 80),
    ),
    max_size=200,
)


@given(st.integers(1, 64), events)
def test_the_window_stays_within_its_bounds(most: int, happened: list[tuple[str, int, float, int]]) -> None:
    window, now = Window(most), 0.0
    largest = window.size
    for what, open_, step, left in happened:
        now += step
        before, turn = window.size, Turn(now - step / 2, min(open_, most))
        window.sent(turn)
        if what == "good":
            window.good(turn, now)
            assert before <= window.size <= max(before, largest) + 1  # at once where it was, else one by one
            largest = max(largest, window.size)
        elif what == "limited":
            window.limited(turn, now, step, left)
            assert window.size <= before
        elif what == "excused":
            window.excused(now)
            window.failed(turn)
            assert before <= window.size <= largest
        else:
            window.overloaded(turn, now)
            assert window.size <= before
        assert 1 <= window.size <= most
        assert window.room(0)  # it never ends up waiting for nothing


def test_time_outs_cut_once_for_all_that_was_sent_before_and_other_faults_do_not() -> None:
    window = Window(10)
    for n in range(20):
        window.good(Turn(float(n), 10), n + 0.5)
    assert window.size == 10
    for _ in range(10):
        window.overloaded(Turn(30.0, 10), 40.0)
    assert window.size == 7
    window.overloaded(Turn(41.0, 7), 42.0)
    assert window.size == 4
    gate = Gate(8)
    for _ in range(5):
        gate.leave(gate.enter(), "failed")
    assert gate.window.size == 8


def test_a_gate_lets_through_so_many_and_no_more() -> None:
    gate, lock = Gate(3), threading.Lock()
    now = most = 0

    def work() -> None:
        nonlocal now, most
        for _ in range(50):
            turn = gate.enter()
            with lock:
                now += 1
                most = max(most, now)
            with lock:
                now -= 1
            gate.leave(turn, "good")

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert 1 <= most <= 3


def test_nobody_waits_at_a_closed_gate() -> None:
    gate = Gate(1)
    gate.enter()
    failed: list[Exception] = []

    def wait() -> None:
        try:
            gate.enter()
        except ProviderError as error:
            failed.append(error)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.close(ProviderError("over"))
    for thread in threads:
        thread.join(30)
    assert [str(one) for one in failed] == ["over"] * 4
    gate.sleep(3600)  # returns at once


def test_a_place_that_is_free_is_taken_though_others_sleep() -> None:
    """Two questions wait for their next try when one that waits for a place is to be let in."""
    gate = Gate(1)
    turn = gate.enter()

    def waiting() -> int:
        found = [one for one in vars(gate).values() if isinstance(one, threading.Condition)]
        return sum(len(one._waiters) for one in found)  # type: ignore[attr-defined]

    sleepers = [threading.Thread(target=gate.sleep, args=(600.0,), daemon=True) for _ in range(2)]
    last = threading.Thread(target=gate.enter, daemon=True)
    for number, thread in enumerate([*sleepers, last]):
        thread.start()
        while waiting() <= number:
            pass
    gate.leave(turn, "good")
    last.join(20)
    taken = not last.is_alive()
    gate.close(ProviderError("over"))
    for thread in sleepers:
        thread.join(20)
        assert not thread.is_alive()
    assert taken


def test_a_pause_of_all_holds_everybody_back_until_it_is_over() -> None:
    times = iter([0.0, 0.0, 0.1, 0.1, 0.2, 5.0, 9.0])
    last = [0.0]

    def clock() -> float:
        last[0] = next(times, last[0] + 100)
        return last[0]

    gate = Gate(4, clock=clock)
    gate._condition.wait = lambda timeout=None: True  # type: ignore[assignment, method-assign]
    gate.leave(gate.enter(), "limited", 8.0)
    trial = gate.enter()
    assert trial.sent == 0.1
    gate.leave(trial, "limited", 8.0)
    assert gate.enter().sent >= 8.0


def test_backoff_grows_and_has_an_end() -> None:
    for attempt in range(40):
        full = min(LONGEST, FIRST * 2**attempt)
        drawn = [backoff(attempt) for _ in range(50)]
        assert all(full / 2 <= one <= full for one in drawn)
        assert len(set(drawn)) > 10


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Thu, 26 Nov 2026 02:00:10 GMT"}, 10.0),
        ({"retry-after": "Thu, 26 Nov 2026 01:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-4"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, lambda: 1795658400.0) == seconds
