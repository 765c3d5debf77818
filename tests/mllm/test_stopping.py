"""Ctrl-C while questions are under way: a real process, a real endpoint, a real signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from endpoint import Endpoint, Raw, completion, endpoint

from open4ov.mllm.budget import Budget
from open4ov.mllm.cache import AnswerCache
from open4ov.mllm.crew import Crew
from open4ov.recipe import BudgetSection

GOOD = '{"score": 1, "reason": "fine"}'
ASK = """
import sys
from pathlib import Path
from open4ov.mllm import Asker, Prompt, Request
from open4ov.mllm.answers import Judgement
from open4ov.recipe import BudgetSection, DataSection, ProviderSection
url, place, concurrency, tokens = sys.argv[1:]
provider = ProviderSection(kind="openai", base_url=url, model="m", api_key_env="TEST_KEY", timeout=300,
                           concurrency=int(concurrency), max_tokens=50)
budget = BudgetSection(tokens=int(tokens) or None)
asker = Asker(DataSection(providers={"default": provider}, budget=budget), place=Path(place))
asker.ask_many([Request("judge_1", Prompt("judge", {"topic": "t", "question": f"{n}", "answer": "a"}), (), Judgement)
                for n in range(40)])
"""


def wait_for(server: Endpoint, count: int) -> None:
    for _ in range(1200):
        if len(server.bodies) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"{len(server.bodies)} of {count} requests came")


@pytest.mark.parametrize(("concurrency", "answered"), [(8, 10), (1, 3)])
@pytest.mark.parametrize("tokens", [0, 10**6])
def test_the_run_ends_at_once_keeps_what_was_answered_and_counts_the_rest(
    concurrency: int, answered: int, tokens: int, tmp_path: Path
) -> None:
    """The first questions are answered, the others hang: without a stop the process would wait for 300 seconds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "TEST_KEY": "a-key"}
    lock, number_of = threading.Lock(), [0]

    def reply(body: object, number: int) -> Raw:
        with lock:
            number_of[0] += 1
            good = number_of[0] <= answered
        return Raw(completion(GOOD, (40, 7))) if good else Raw(hang=True)

    with endpoint(reply) as server:
        asking = subprocess.Popen(
            [sys.executable, "-c", ASK, server.url, str(tmp_path), str(concurrency), str(tokens)],
            env=environment,
            stderr=subprocess.PIPE,
        )
        try:
            wait_for(server, answered + concurrency)
            asking.send_signal(signal.SIGINT)
            _, told = asking.communicate(timeout=60)  # far from 300; how long it took is not what this test is about
        finally:
            asking.kill()
    assert asking.returncode in (-signal.SIGINT, 130)
    assert told.decode().rstrip().endswith("KeyboardInterrupt")
    assert b"Fatal" not in told
    assert len(AnswerCache(tmp_path / "asked")) == answered
    limits = BudgetSection(tokens=tokens or None)
    total = Budget(limits, tmp_path / "asked" / "spending.sqlite").report()["total"]
    assert total["requests"] == answered + concurrency
    assert total["estimated"] == concurrency
    assert total["output"] == 7 * answered + 50 * concurrency  # as much as they were allowed
    assert total["input"] > 40 * answered + 100 * concurrency


def test_a_crew_works_in_order_and_hands_on_errors() -> None:
    seen: list[int] = []

    def work(number: int) -> int:
        seen.append(number)
        if number == 3:
            raise ValueError("three")
        return number * number

    crew = Crew(work, 1)
    results = [crew.submit(number) for number in range(5)]
    assert [results[number]() for number in (0, 1, 2, 4)] == [0, 1, 4, 16]
    with pytest.raises(ValueError, match="three"):
        results[3]()
    assert seen == [0, 1, 2, 3, 4]
    crew.end()


def test_a_crew_has_so_many_at_work_and_drops_the_rest_at_its_end() -> None:
    free, at_work, lock = threading.Event(), threading.Semaphore(0), threading.Lock()
    begun: list[int] = []

    def work(number: int) -> None:
        with lock:
            begun.append(number)
        at_work.release()
        free.wait(60)

    crew = Crew(work, 4)
    for number in range(20):
        crew.submit(number)
    for _ in range(4):
        assert at_work.acquire(timeout=60)
    crew.end(0.05)  # does not wait for them
    free.set()
    crew.end()
    assert sorted(begun) == [0, 1, 2, 3]


def test_a_crew_grows_though_the_idle_one_has_been_called_already() -> None:
    """Many questions come before the one who waits is awake: it can take one of them, and the others need threads."""
    free, at_work = threading.Event(), threading.Semaphore(0)

    def work(number: int) -> None:
        at_work.release()
        if number:
            free.wait(60)

    crew = Crew(work, 4)
    crew.submit(0)()
    while not crew._idle:  # pyright: ignore[reportPrivateUsage]
        time.sleep(0.001)
    assert at_work.acquire(timeout=60)
    with crew._condition:  # pyright: ignore[reportPrivateUsage]
        for number in range(1, 5):
            crew.submit(number)
    for _ in range(4):
        assert at_work.acquire(timeout=20)
    free.set()
    crew.end()
