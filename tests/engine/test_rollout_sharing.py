"""Sharing requests out over servers: each is answered once, whoever is slow or dies on the way."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.engine.rollouts.sharing import Lost, share


class Played:
    """Servers that answer after so many turns of the event loop each; `ends`: of some, the number of the request at
    which they are gone."""

    def __init__(self, turns: dict[str, int], ends: dict[str, int] | None = None) -> None:
        self.turns, self.ends = turns, ends or {}
        self.asked: list[tuple[str, int]] = []
        self.under: Counter[str] = Counter()
        self.most = 0
        self.answers: dict[int, str] = {}
        self.dropped: list[str] = []
        self.cancelled: list[tuple[str, int]] = []

    async def ask(self, server: str, place: int) -> str:
        self.asked.append((server, place))
        number = sum(one == server for one, _ in self.asked)
        self.under[server] += 1
        self.most = max(self.most, self.under[server])
        try:
            for _ in range(self.turns[server]):
                await asyncio.sleep(0)
            if number >= self.ends.get(server, 10**9):
                raise Lost(f"{server} is gone")
            return server
        except asyncio.CancelledError:
            self.cancelled.append((server, place))
            raise
        finally:
            self.under[server] -= 1

    def take(self, place: int, answer: str) -> None:
        assert place not in self.answers, "answered twice"
        self.answers[place] = answer

    def run(self, places: range, most: int) -> None:
        def drop(server: str, fault: Lost) -> None:
            assert str(fault) == f"{server} is gone"
            self.dropped.append(server)

        asyncio.run(share(list(self.turns), places, self.ask, most, self.take, drop))


@given(
    turns=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    ends=st.lists(st.one_of(st.none(), st.integers(1, 6)), min_size=4, max_size=4),
    count=st.integers(0, 12),
    most=st.integers(1, 5),
)
def test_each_is_answered_once_as_long_as_one_is_there(
    turns: list[int], ends: list[int | None], count: int, most: int
) -> None:
    names = [f"s{place}" for place in range(len(turns))]
    ending = {name: end for name, end in zip(names, ends, strict=False) if end is not None}
    played = Played(dict(zip(names, turns, strict=True)), ending)
    try:
        played.run(range(count), most)
        assert sorted(played.answers) == list(range(count))
    except Lost:
        assert sorted(played.dropped) == names, "somebody is there still"
    assert played.most <= most
    assert not any(played.under.values()), "something was left under way"
    assert len(played.dropped) == len(set(played.dropped))
    assert max(Counter(place for _, place in played.asked).values(), default=0) <= 2 * (1 + len(played.dropped))


def test_the_least_busy_comes_first_and_one_that_is_slow_gets_less() -> None:
    even = Played({"a": 3, "b": 3})
    even.run(range(8), most=8)
    assert Counter(even.answers.values()) == {"a": 4, "b": 4}
    uneven = Played({"slow": 40, "fast": 2})
    uneven.run(range(20), most=2)
    assert Counter(uneven.answers.values())["fast"] >= 17


def test_what_hangs_is_taken_over_by_one_that_has_nothing_to_do() -> None:
    """It would be waited for until its time is over."""
    played = Played({"hangs": 10**9, "well": 1})
    played.run(range(6), most=6)
    assert set(played.answers.values()) == {"well"}
    assert [server for server, _ in played.cancelled] == ["hangs"] * 3


def test_anything_else_that_goes_wrong_ends_it() -> None:
    played = Played({"a": 1, "b": 50})

    async def ask(server: str, place: int) -> str:
        if place == 2:
            raise ValueError("no such thing")
        return await played.ask(server, place)

    async def work() -> None:
        await share(["a", "b"], range(6), ask, 6, played.take, lambda *_: None)

    with pytest.raises(ValueError, match="no such thing"):
        asyncio.run(work())
    assert not any(played.under.values())
