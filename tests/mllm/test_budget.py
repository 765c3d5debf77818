"""The hard stop: never above the limit, nothing paid twice, a run that goes on when the budget is raised."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from endpoint import FAULTS, Raw, completion, endpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from open4ov.errors import UserError
from open4ov.mllm import Asker, Prompt, ProviderError, Request, tokens
from open4ov.mllm.answers import Judgement
from open4ov.mllm.budget import Budget, BudgetError, Usage
from open4ov.recipe import BudgetSection, DataSection, PriceSection, ProviderSection, load

PRICE = PriceSection(input=2.0, output=10.0)
GOOD = '{"score": 1, "reason": "fine"}'


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "a-secret-of-this-test")


def section(url: str, budget: BudgetSection, **more: Any) -> DataSection:
    options: dict[str, Any] = {"model": "m", "max_tokens": 50, "price": PRICE, "retries": 1, **more}
    provider = ProviderSection(kind="openai", base_url=url, api_key_env="TEST_KEY", **options)
    return DataSection(providers={"default": provider}, budget=budget)


def judgement(number: int) -> Request:
    return Request("judge_1", Prompt("judge", {"topic": "t", "question": f"{number:03}", "answer": "a"}), (), Judgement)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3000),
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1)), min_size=1, max_size=40),
    st.integers(1, 6),
)
def test_what_is_spent_never_exceeds_the_limit(limit: int, requests: list[Any], threads: int) -> None:
    """Many threads; each request takes a part of what was set aside for it."""
    budget = Budget(BudgetSection(tokens=limit))
    work, lock = list(requests), threading.Lock()
    refused: list[int] = []

    def run() -> None:
        while True:
            with lock:
                if not work:
                    return
                read, written, share = work.pop()
            try:
                reserved = budget.reserve("r", "p", Usage(read, written), None)
            except BudgetError:
                refused.append(read + written)
                return
            budget.settle(reserved, Usage(int(read * share), int(written * share)))

    pool = [threading.Thread(target=run) for _ in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join(30)
    assert not any(thread.is_alive() for thread in pool)
    total = budget.report()["total"]
    spent = total["input"] + total["output"]
    assert spent <= limit
    assert all(spent + one > limit for one in refused)  # nobody is refused who would have fitted in the end
    budget.close()


def test_a_budget_of_money_stops_before_it_is_exceeded_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    """Each question takes 400 tokens in and 20 out: 0.001 by the prices."""
    with endpoint(lambda body, number: Raw(completion(GOOD, (400, 20)))) as server:
        questions = [judgement(n) for n in range(30)]
        small = section(server.url, BudgetSection(money=0.0121))
        with pytest.raises(
            BudgetError, match=r"data\.budget\.money: .* of 0\.0121 are spent.*raise the budget"
        ) as error:
            Asker(small, place=tmp_path).ask_many(questions)
        assert isinstance(error.value, UserError)
        first = len(server.bodies)
        assert 0 < first * 0.001 <= 0.0121
        with pytest.raises(BudgetError):  # the same again: what was spent stays spent
            Asker(small, place=tmp_path).ask_many(questions)
        assert len(server.bodies) == first
        asker = Asker(section(server.url, BudgetSection(money=1.0)), place=tmp_path)
        assert asker.ask_many(questions) == [json.loads(GOOD)] * 30
        assert len(server.bodies) == 30  # none was asked twice
        report = asker.report()
    assert report["spent"]["total"]["money"] == pytest.approx(0.03)
    assert report["spent"]["total"]["requests"] == 30
    assert report["spent"]["by"][0] | {"money": 0} == {
        "stage": "data", "role": "judge_1", "provider": "default", "requests": 30, "input": 12_000, "output": 600,
        "estimated": 0, "money": 0,
    }  # fmt: skip
    assert report["roles"]["judge_1"]["money"] == pytest.approx(0.03)
    assert report["roles"]["judge_1"]["kept"] == first


def test_a_budget_of_tokens_counts_what_the_endpoint_does_not(tmp_path: Path) -> None:
    with endpoint(lambda body, number: GOOD) as server:
        asker = Asker(section(server.url, BudgetSection(tokens=6000)), place=tmp_path)
        with pytest.raises(BudgetError, match=r"data\.budget\.tokens"):
            asker.ask_many([judgement(n) for n in range(60)])
        total = asker.report()["spent"]["total"]
    assert total["estimated"] == total["requests"] == len(server.bodies) > 1
    assert 3000 < total["input"] + total["output"] <= 6000


def test_a_first_question_that_is_too_much_is_not_sent() -> None:
    with endpoint(lambda body, number: GOOD) as server:
        with pytest.raises(ProviderError, match="may take up to"):
            Asker(section(server.url, BudgetSection(tokens=40))).ask_many([judgement(0)])
        assert server.bodies == []


def test_failed_requests_are_counted_as_what_they_may_have_cost() -> None:
    faults = ["limited", "close", "html", "hang", "redirect"]
    with endpoint(lambda body, number: FAULTS[faults[number]]) as server:
        asker = Asker(section(server.url, BudgetSection(tokens=10**6), retries=4, timeout=1.0, max_tokens=70))
        asker.ask_many([judgement(0)])
        report = asker.report()
    total, role = report["spent"]["total"], report["roles"]["judge_1"]
    assert total["requests"] == 5
    assert total["estimated"] == 3  # what was answered in part, by a web page, and not in time
    assert total["output"] == 2 * 70  # an answer may have been written, as long as allowed, where none was seen
    assert (role["unseen"], role["unseen_output"], role["output"]) == (2, 2 * 70, 0)


def test_a_killed_run_counts_what_it_had_under_way(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal; from pathlib import Path; from open4ov.mllm.budget import Budget, Usage\n"
        "from open4ov.recipe import BudgetSection\n"
        "budget = Budget(BudgetSection(tokens=1000), Path(sys.argv[1]))\n"
        "budget.settle(budget.reserve('rank', 'p', Usage(100, 50), None), Usage(90, 10))\n"
        "budget.reserve('density', 'p', Usage(200, 50), None)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "b.sqlite")], env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL
    budget = Budget(BudgetSection(tokens=1000), tmp_path / "b.sqlite")
    by = {line["role"]: (line["input"], line["output"], line["estimated"]) for line in budget.report()["by"]}
    assert by == {"rank": (90, 10, 0), "density": (200, 50, 1)}
    with pytest.raises(BudgetError):
        budget.reserve("rank", "p", Usage(600, 60), None)
    budget.settle(budget.reserve("rank", "p", Usage(600, 50), None), Usage(1, 1))


def test_a_bound_is_never_below_a_guess() -> None:
    for text in ("", "plain words and more", "汉字和 words", "👩‍🚗" * 5, "\x00\n"):
        assert tokens.bound(text) >= tokens.guess(text)


@pytest.mark.parametrize(
    ("rule", "size", "count"),
    [
        ("patch32", (640, 480), 302), ("patch32", (1, 1), 3), ("patch28", (280, 280), 102), (77, (999, 9), 77),
        # worked out by hand after the published rule: fit 2048, shortest side 768, tiles of 512
        ("tiles", (1024, 1024), 765), ("tiles", (2048, 4096), 1105), ("tiles", (512, 512), 255), ("tiles", (1, 1), 255),
    ],
)  # fmt: skip
def test_tokens_of_images(rule: Any, size: tuple[int, int], count: int) -> None:
    found = tokens.of_image(rule, *size)
    assert found == count if rule in ("tiles", 77) else count <= found <= count * 1.15
    assert tokens.rule_in_words(rule)


def recipe(folder: Path, data: str) -> Path:
    (folder / "r.yaml").write_text(f"name: a\ndata: {data}\n")
    return folder / "r.yaml"


ENDPOINT = "default: {kind: openai, model: m, base_url: 'http://127.0.0.1:9/v1'"


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (f"{{budget: {{money: 3}}, providers: {{{ENDPOINT}}}}}}}", r"default\.price: data\.budget\.money needs it"),
        ("{budget: {tokens: 3}}", r"data\.budget: has no effect: no provider is of kind `openai`"),
        ("{cache: here}", r"data\.cache: has no effect"),
        ("{local_hosts: [a]}", r"data\.local_hosts: has no effect: data\.local_only is false"),
        ("{local_only: true, local_hosts: ['10.0.0/x/8']}", r"data\.local_hosts\.0: 10\.0\.0/x/8 is neither"),
        ("{providers: {default: {kind: engine, model: nano, timeout: 3}}}", r"default\.timeout: has no effect"),
        (f"{{providers: {{{ENDPOINT}, api_key_env: sk-very-secret}}}}}}", r"api_key_env: is no name"),
        (f"{{providers: {{{ENDPOINT}, image_tokens: -1}}}}}}", r"image_tokens: -1 is negative"),
        ("{providers: {default: {kind: openai, model: m, base_url: 'ftp://a'}}}", r"base_url: is no address"),
        ("{providers: {default: {kind: openai, model: m, base_url: 'http://me:sk-very-secret@a/v1'}}}", "holds a user"),
        (
            "{providers: {default: {kind: openai, model: m, base_url: 'http://a/v1?key=sk-very-secret'}}}",
            "holds a user",
        ),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, data: str, fault: str) -> None:
    with pytest.raises(UserError, match=fault) as error:
        load(recipe(tmp_path, data))
    assert "sk-very-secret" not in str(error.value)


def test_options_that_can(tmp_path: Path) -> None:
    data = load(recipe(
        tmp_path,
        f"{{budget: {{money: 3, tokens: 9}}, cache: c, local_only: true, local_hosts: [gpu-1, 10.0.0.0/8], providers: "
        f"{{{ENDPOINT}, price: {{input: 1, output: 0}}, image_tokens: tiles, temperature: null, cache_as: x}}}}}}",
    )).data  # fmt: skip
    assert data.providers["default"].temperature is None
    assert data.budget.money == 3
