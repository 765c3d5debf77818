"""What a 429 means for the questions that were not refused, on a clock of the test's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from open4ov.mllm.pause import LEAST_TRIALS, SETTLED, Pause


def test_the_next_question_is_a_trial_and_goes_alone() -> None:
    pause = Pause()
    assert pause.claim(0.0) == 0
    pause.refused(0.0, 0.1, 30.0)  # a refusal takes a tenth of a second
    assert 0 < pause.claim(0.15) < 0.06  # others of the same moment may still be refused
    assert pause.claim(0.2) == 0
    assert 0.29 < pause.claim(0.2) <= 0.3
    assert pause.claim(0.49) > 0
    assert pause.claim(0.5001) == pause.claim(0.5001) == 0  # it was taken, so all may go


def test_a_trial_that_is_refused_makes_the_pause_everybodys() -> None:
    pause = Pause()
    pause.refused(0.0, 0.01, 30.0)
    assert pause.claim(1.0) == 0
    pause.refused(1.0, 1.01, 29.0)
    assert 28 < pause.claim(1.02) < 30
    assert pause.claim(31.0) == 0


def test_refusals_of_one_moment_are_one() -> None:
    pause = Pause()
    for number in range(20):
        pause.refused(0.001 * number, 0.05 + 0.001 * number, 30.0)
    assert pause.claim(1.0) == 0
    assert pause.claim(2.0) == 0


def test_a_refusal_that_comes_late_counts_as_that_of_the_trial() -> None:
    pause = Pause()
    pause.refused(0.0, 0.01, 30.0)
    assert pause.claim(1.0) == 0
    assert pause.claim(1.5) == 0  # not refused for long enough, it seemed
    pause.refused(1.0, 2.0, 30.0)
    assert pause.claim(3.0) > 20


def test_one_refused_now_and_then_stops_nobody_else() -> None:
    """Quick refusals long after the trial was taken: each is followed by a trial of its own."""
    pause, now = Pause(), 0.0
    for _ in range(50):
        pause.refused(now, now + 0.01, 60.0)
        now += 0.1
        assert pause.claim(now) == 0
        now += 0.1
        assert pause.claim(now) == 0
    assert pause.until < 0


@given(st.integers(1, 200), st.floats(0.1, 60.0))
def test_an_endpoint_that_always_means_everybody_sees_few_trials(times: int, seconds: float) -> None:
    """Each time one question is refused; whoever asks again in that pause is refused as well."""
    pause, now, trials = Pause(), 0.0, 0
    for _ in range(times):
        sent = now
        assert pause.claim(now) == 0
        pause.refused(sent, now + 0.01, seconds)
        now += 0.03
        if pause.claim(now) == 0:  # before the time is up
            trials += 1
            pause.refused(now, now + 0.01, seconds)
            now += 0.02
        now = max(now, pause.until) + 0.001
    assert trials <= LEAST_TRIALS + 1 + times / 2**LEAST_TRIALS


@given(
    st.lists(st.tuples(st.sampled_from(["ask", "refused", "extend"]), st.floats(0, 3), st.floats(0.1, 9)), max_size=60)
)
def test_nobody_waits_longer_than_the_endpoint_asked_for(happened: list[tuple[str, float, float]]) -> None:
    pause, now, longest = Pause(), 0.0, 0.0
    sent: list[float] = []
    for what, step, seconds in happened:
        now += step
        if what == "ask":
            wait = pause.claim(now)
            assert wait >= 0
            if not wait:
                sent.append(now)
        elif what == "extend":
            pause.extend(now, seconds)
            longest = max(longest, now + 1.05 * seconds)
        elif sent:
            pause.refused(sent.pop(), now, seconds)
            longest = max(longest, now + 1.05 * seconds)
        assert pause.claim(longest + SETTLED) == 0
