"""Consistent hashing: what moves when nodes come and go, and how a hot key spreads."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from open4ov.engine.routing.ring import FACTOR, FREE, Ring

NAMES = st.sets(st.integers(0, 65535).map(lambda port: f"http://10.0.0.1:{port}"), min_size=2, max_size=9)
KEYS = [f"key {i}".encode() for i in range(2000)]


@settings(max_examples=30, deadline=None)
@given(NAMES, st.binary(max_size=40))
def test_every_node_once_and_always_in_the_same_order(names: set[str], key: bytes) -> None:
    order = Ring(names).order(key)
    assert sorted(order) == sorted(names)
    assert Ring(sorted(names, reverse=True)).order(key) == order


@settings(max_examples=30, deadline=None)
@given(NAMES, st.binary(max_size=40))
def test_a_node_that_leaves_changes_nothing_among_the_others(names: set[str], key: bytes) -> None:
    order = Ring(names).order(key)
    for gone in names:
        assert Ring(names - {gone}).order(key) == [node for node in order if node != gone]


@settings(max_examples=10, deadline=None)
@given(NAMES)
def test_a_new_node_takes_its_share_and_no_key_moves_between_the_others(names: set[str]) -> None:
    new = "http://new:1"
    before, after = Ring(names), Ring(names | {new})
    moved = 0
    for key in KEYS:
        old, now = before.order(key)[0], after.order(key)[0]
        assert now in (old, new)
        moved += now != old
    share = len(KEYS) / (len(names) + 1)
    assert share / 2 < moved < share * 2


@settings(max_examples=10, deadline=None)
@given(NAMES)
def test_keys_are_spread(names: set[str]) -> None:
    ring = Ring(names)
    counts = Counter(ring.order(key)[0] for key in KEYS)
    share = len(KEYS) / len(names)
    assert all(share / 2 < counts[name] < share * 2 for name in names)


@settings(max_examples=30, deadline=None)
@given(NAMES, st.integers(1, 300))
def test_a_hot_key_drowns_no_node(names: set[str], requests: int) -> None:
    ring, loads = Ring(names), dict.fromkeys(names, 0)
    own = ring.order(b"hot")[0]
    for count in range(1, requests + 1):
        chosen = ring.bounded(b"hot", loads)[0]
        assert chosen == own or count > FREE
        loads[chosen] += 1
        assert max(loads.values()) <= max(FREE, math.ceil(FACTOR * count / len(names)))
    assert sum(loads.values()) == requests


@settings(max_examples=30, deadline=None)
@given(NAMES, st.data())
def test_a_key_stays_while_its_node_is_under_the_bound_and_comes_back(names: set[str], data: st.DataObject) -> None:
    ring = Ring(names)
    loads = {name: data.draw(st.integers(0, 100)) for name in names}
    order, found = ring.order(b"key"), ring.bounded(b"key", loads)
    bound = max(FREE, math.ceil(FACTOR * (sum(loads.values()) + 1) / len(loads)))
    assert found == [n for n in order if loads[n] < bound] + [n for n in order if loads[n] >= bound]
    assert loads[found[0]] < bound
    del loads[order[0]]
    assert set(ring.bounded(b"key", loads)) == set(order[1:])
    assert ring.bounded(b"key", {}) == []
