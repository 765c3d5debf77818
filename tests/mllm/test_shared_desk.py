"""One book and one set of kept answers for several processes: the hard stop in total, the dead, and the report."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from open4ov.mllm.budget import BudgetError, Usage
from open4ov.mllm.cache import Kept, key
from open4ov.mllm.shared_desk import Counter, SharedDesk
from open4ov.recipe import BudgetSection, DataSection

MOST, TOOK = Usage(60, 40), Usage(6, 4)


def desk(counter: Counter, section: DataSection) -> SharedDesk:
    return SharedDesk(section, lambda method, *arguments: getattr(counter, method)(*arguments))


def test_the_hard_stop_holds_for_all_together(tmp_path: Path) -> None:
    """Eight desks with four threads each, of which every request may take 100 tokens and takes 10: of a budget of 1,000
    at most 1,000 are ever spent or set aside, and nobody stops while others may still give something back."""
    section = DataSection(budget=BudgetSection(tokens=1000))
    counter = Counter(section, tmp_path)
    desks = [desk(counter, section) for _ in range(8)]
    lock, open_, highest, sent = threading.Lock(), [0], [0], [0]

    def ask(mine: SharedDesk) -> None:
        for _ in range(5):
            reserved = mine.budget.reserve("rank", "p", MOST, None)
            with lock:
                open_[0] += 100
                highest[0] = max(highest[0], 10 * sent[0] + open_[0])
            mine.budget.settle(reserved, TOOK)
            with lock:
                open_[0] -= 100
                sent[0] += 1

    with ThreadPoolExecutor(32) as pool:
        jobs = [pool.submit(ask, one) for one in desks for _ in range(4)]
    stopped = [job.exception() for job in jobs if job.exception()]
    assert stopped
    assert all(isinstance(error, BudgetError) for error in stopped)
    assert counter.report()["spent"]["total"]["input"] + counter.report()["spent"]["total"]["output"] == 10 * sent[0]
    assert 900 < 10 * sent[0] <= 1000
    assert highest[0] <= 1000


def test_what_a_dead_process_had_set_aside_counts_as_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open4ov.mllm.shared_desk.BEAT", 3600.0)
    section = DataSection(budget=BudgetSection(tokens=150))
    counter = Counter(section, tmp_path, silent=0.0)
    dead, living = desk(counter, section), desk(counter, section)
    reserved = dead.budget.reserve("rank", "p", MOST, None)
    # 100 of 150 are set aside by one that is silent: 100 more would go beyond, now and for good
    with pytest.raises(BudgetError, match=r"100 of 150 are spent"):
        living.budget.reserve("rank", "p", MOST, None)
    assert counter.report()["spent"]["total"]["estimated"] == 1
    dead.budget.settle(reserved, TOOK)  # it was not dead after all: what was booked stays
    assert counter.report()["spent"]["total"]["requests"] == 1
    assert living.budget.reserve("rank", "p", Usage(30, 20), None).number is not None


def test_answers_are_kept_in_one_place_and_figures_are_added(tmp_path: Path) -> None:
    section = DataSection()
    counter = Counter(section, tmp_path)
    one, other = desk(counter, section), desk(counter, section)
    name, kept = key(question="?"), Kept('{"a": 1}', 5, 2, False)
    assert one.cache is not None
    assert other.cache is not None
    one.cache.put(name, kept, "m", "judge@1")
    assert other.cache.get(name) == kept
    assert other.cache.get(key(question="!")) is None
    for mine, role in ((one, "rank"), (other, "rank"), (other, "judge_1")):
        mine.tally.answered(role, Usage(5, 2), None, kept=False)
        mine.tally.fault(role, "empty")
        mine.budget.settle(mine.budget.reserve(role, "p", MOST, None), Usage(5, 2))
        mine.tell()
    one.tell()  # twice the same is not twice as much
    report: dict[str, Any] = other.report()
    assert report["roles"]["rank"]["answers"] == 2
    assert report["roles"]["rank"]["faults"] == {"empty": 2}
    assert list(report["roles"]) == ["judge_1", "rank"]
    assert report["spent"]["total"]["input"] == 15
    again = Counter(section, tmp_path)
    assert again.get(name) == kept
