"""What is not the endpoint's fault: a full disk or an error of ours ends the asking; nobody waits for ever."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from endpoint import endpoint
from PIL import Image

from open4ov.mllm import Asker, Prompt, Request
from open4ov.mllm.answers import Judgement
from open4ov.mllm.budget import Budget
from open4ov.mllm.cache import AnswerCache
from open4ov.recipe import BudgetSection, DataSection, ProviderSection

GOOD = '{"score": 1, "reason": "fine"}'


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "a-secret-of-this-test")


def section(url: str, tokens: int | None) -> DataSection:
    provider = ProviderSection(
        kind="openai", base_url=url, model="m", api_key_env="TEST_KEY", concurrency=4, max_tokens=50
    )
    return DataSection(providers={"default": provider}, budget=BudgetSection(tokens=tokens))


def judgement(number: int) -> Request:
    return Request("judge_1", Prompt("judge", {"topic": "t", "question": str(number), "answer": "a"}), (), Judgement)


@pytest.mark.parametrize("tokens", [None, 4000])
@pytest.mark.parametrize(
    ("owner", "name", "error", "told"),
    [
        (Budget, "settle", sqlite3.OperationalError("database or disk is full"), "cannot be written .*disk is full"),
        (Budget, "reserve", sqlite3.OperationalError("disk I/O error"), "cannot be written .*disk I/O error"),
        (Budget, "reserve", RuntimeError("ours"), "ours"),
        (AnswerCache, "put", sqlite3.OperationalError("database or disk is full"), "make room, and the same command"),
        (AnswerCache, "get", RuntimeError("ours"), "ours"),
    ],
)
def test_an_error_on_this_side_ends_the_stage(
    tokens: int | None,
    owner: type,
    name: str,
    error: Exception,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, calls = getattr(owner, name), count()

    def broken(self: Any, *arguments: Any, **more: Any) -> Any:
        if next(calls) >= 3:
            raise error
        return real(self, *arguments, **more)

    monkeypatch.setattr(owner, name, broken)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            asker.ask_many([judgement(number) for number in range(40)])
        except Exception as found:
            raised.append(found)

    with endpoint(lambda body, number: GOOD) as server:
        asker = Asker(section(server.url, tokens), place=tmp_path)
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        assert len(server.bodies) <= 12
    with pytest.raises(Exception, match=told):
        raise raised[0]


def test_a_book_that_cannot_be_written_lets_the_others_go_on(tmp_path: Path) -> None:
    """What was set aside is given back in memory, no transaction stays open, and the next start counts it in full."""
    budget = Budget(BudgetSection(tokens=1000), tmp_path / "b.sqlite")
    from open4ov.mllm.budget import Usage

    first = budget.reserve("rank", "p", Usage(500, 300), None)
    budget._database.execute("CREATE TEMP TRIGGER no BEFORE INSERT ON spent BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(sqlite3.Error, match="full"):
        budget.settle(first, Usage(10, 10))
    budget._database.execute("DROP TRIGGER no")
    budget.settle(budget.reserve("rank", "p", Usage(500, 300), None), Usage(20, 20))
    assert budget.report()["total"]["input"] == 20
    budget.close()
    assert Budget(BudgetSection(tokens=1000), tmp_path / "b.sqlite").report()["total"]["input"] == 520


@pytest.mark.slow
def test_a_full_disk_in_the_stage_data(tmp_path: Path) -> None:
    """No file may grow beyond 100 KB, which kept answers soon do; with room, the same command goes on."""
    (tmp_path / "photos").mkdir()
    for number in range(24):
        Image.new("RGB", (32, 32), (number, 7, 9)).save(tmp_path / "photos" / f"{number}.png")
    ranking = '{"description": "%s", "domain": ["Others"], "ability": ["Others"]}' % ("word " * 2000)
    code = (
        "import resource, sys; from open4ov.cli import main; limit = int(sys.argv.pop(1)); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)); main()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with endpoint(lambda body, number: ranking) as server:
        (tmp_path / "r.yaml").write_text(
            "name: a\nimages: {vertical: photos, general_count: 0}\ndata:\n  budget: {tokens: 2_000_000}\n"
            "  providers:\n"
            f"    default: {{kind: openai, base_url: '{server.url}', model: m, api_key_env: TEST_KEY}}\n"
        )

        def run(limit: int) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-c", code, str(limit), "run", "r.yaml", "--out", "out", "--until", "data"]
            return subprocess.run(
                [*command, "--quiet"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
            )

        full = run(100_000)
        asked = len(server.bodies)
        again = run(10**9)
    assert full.returncode == 2, full.stderr
    assert "cannot be written" in full.stderr or "the disk is full" in full.stderr
    assert "Traceback" not in full.stderr
    assert 0 < asked < 24
    assert "none of the 24 images gave a sample" in again.stderr  # all are Others: it went through to the end
    assert len(server.bodies) < 24 + 8 + 1  # at most what was under way is asked twice
