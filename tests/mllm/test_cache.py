"""Kept answers: what the key takes in, what is refused, several processes at once, and a kill in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from endpoint import Raw, completion, endpoint
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from open4ov.errors import UserError
from open4ov.mllm import Asker, Picture, Prompt, Request, ask, reply
from open4ov.mllm.answers import Judgement
from open4ov.mllm.cache import AnswerCache, Kept, key
from open4ov.recipe import DataSection, ProviderSection

GOOD = '{"score": 1, "reason": "左 {fine}"}'
KEY = "sk-very-secret-4711"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def section(url: str, **more: Any) -> DataSection:
    settings: dict[str, Any] = {"kind": "openai", "base_url": url, "model": "m", "api_key_env": "TEST_KEY", **more}
    return DataSection(providers={"default": ProviderSection(**settings)})


def judgement(question: str = "q", sha: str = "s", role: str = "judge_1") -> Request:
    picture = Picture(sha, lambda: Image.new("RGB", (4, 4)))
    return Request(role, Prompt("judge", {"topic": "t", "question": question, "answer": "a"}), (picture,), Judgement)


parts = st.dictionaries(st.text(max_size=8), st.one_of(st.text(max_size=20), st.integers(), st.lists(st.text())))


@given(parts, parts)
def test_keys_are_equal_exactly_when_the_parts_are(one: dict[str, Any], two: dict[str, Any]) -> None:
    def of(named: dict[str, Any]) -> bytes:
        return key(**{f"k{name}": value for name, value in named.items()})

    assert of(one) == of(dict(reversed(one.items())))
    assert (of(one) == of(two)) == (one == two)


def test_all_that_decides_an_answer_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(lambda body, number: GOOD) as server, endpoint(lambda body, number: GOOD) as other:

        def asked(request: Request, url: str = server.url, **more: Any) -> int:
            before = len(server.bodies) + len(other.bodies)
            assert Asker(section(url, **more), place=tmp_path).ask_many([request]) == [json.loads(GOOD)]
            return len(server.bodies) + len(other.bodies) - before

        assert asked(judgement()) == 1
        assert asked(judgement()) == 0
        assert asked(judgement(), concurrency=1, timeout=9.0, retries=0) == 0  # how it is asked does not matter
        assert asked(judgement("other {q}")) == 1
        assert asked(judgement(sha="other")) == 1
        assert asked(judgement(role="judge_2")) == 1
        assert asked(judgement(), model="other") == 1
        assert asked(judgement(), temperature=0.5) == 1
        assert asked(judgement(), temperature=None) == 1
        assert asked(judgement(), max_tokens=99) == 1
        assert asked(judgement(), url=other.url) == 1
        assert asked(judgement(), url=other.url, cache_as="there") == 1
        assert asked(judgement(), cache_as="there") == 0  # the same under another address
        monkeypatch.setattr(Judgement, "model_json_schema", lambda: {"title": "changed"})
        reply.schema.cache_clear()
        assert asked(judgement()) == 1
        reply.schema.cache_clear()
    assert {body.get("temperature", "none") for body in server.bodies} == {0, 0.5, "none"}


def test_equal_questions_at_once_are_sent_once(tmp_path: Path) -> None:
    """Unless the first gets no answer: then the next one tries."""
    first = threading.Event()

    def slow(body: dict[str, Any], number: int) -> str | int:
        if number == 0:
            first.wait(0.2)  # long enough for the others to come
            return 400
        return GOOD

    with endpoint(slow) as server:
        asker = Asker(section(server.url, retries=0), place=tmp_path)
        answers = asker.ask_many([judgement()] * 8)
        assert len(server.bodies) == 2
    assert [isinstance(one, dict) for one in answers].count(False) == 1
    figures = asker.report()["roles"]["judge_1"]
    assert (figures["answers"], figures["kept"], figures["requests"]) == (7, 6, 2)
    assert asker.account.totals()["judge_1"].answers == 1


def test_another_version_of_a_prompt_is_another_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(lambda body, number: GOOD) as server:
        for version, sent in (("judge@1", 1), ("judge@1", 1), ("judge@2", 2)):
            monkeypatch.setattr("open4ov.mllm.question.version", lambda template, version=version: version)
            Asker(section(server.url), place=tmp_path).ask_many([judgement()])
            assert len(server.bodies) == sent


def test_an_answer_that_no_longer_fits_is_asked_for_again(tmp_path: Path) -> None:
    with endpoint(lambda body, number: GOOD) as server:
        Asker(section(server.url), place=tmp_path).ask_many([judgement()])
        with sqlite3.connect(tmp_path / "asked" / "answers.sqlite") as database:
            assert database.execute("UPDATE answers SET answer = '{\"score\": 4}'").rowcount == 1
        database.close()
        assert Asker(section(server.url), place=tmp_path).ask_many([judgement()]) == [json.loads(GOOD)]
    assert len(server.bodies) == 2


def test_a_folder_of_its_own_is_shared_and_costs_are_not(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    with endpoint(lambda body, number: Raw(completion(GOOD, (10, 5)))) as server:
        for run in ("a", "b"):
            chosen = section(server.url).model_copy(update={"cache": str(shared)})
            asker = Asker(chosen, place=tmp_path / run)
            asker.ask_many([judgement()])
            report = asker.report()
            assert report["spent"]["total"]["input"] == (10 if run == "a" else 0)
            assert report["roles"]["judge_1"]["input"] == 10  # what the answer took, whoever paid for it
            assert report["roles"]["judge_1"]["kept"] == (0 if run == "a" else 1)
    assert len(server.bodies) == 1
    assert (shared / "answers.sqlite").is_file()


WRITER = """
import sys
from pathlib import Path
from open4ov.mllm.cache import AnswerCache, Kept, key
cache, worker = AnswerCache(Path(sys.argv[1])), int(sys.argv[2])
for number in range(200):
    cache.put(key(n=number), Kept(f"{number}", number, 1, False), "m", "p")
    assert cache.get(key(n=number, w=worker)) is None
    cache.put(key(n=number, w=worker), Kept(f"{worker}", 1, 1, True), "m", "p")
"""


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    workers = [python(WRITER, str(tmp_path), str(worker)) for worker in range(3)]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0]
    cache = AnswerCache(tmp_path)
    assert len(cache) == 200 * 4
    assert cache.get(key(n=7)) == Kept("7", 7, 1, False)
    assert cache.get(key(n=7, w=2)) == Kept("2", 1, 1, True)


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "answers.sqlite").write_text("not a database, but long enough to be read as one " * 40)
    with pytest.raises(UserError, match=r"answers\.sqlite: not usable"):
        AnswerCache(tmp_path)
    database = sqlite3.connect(tmp_path / "other.sqlite")
    database.execute("PRAGMA user_version=99")
    database.close()
    (tmp_path / "other.sqlite").rename(tmp_path / "answers.sqlite")
    with pytest.raises(UserError, match="another version"):
        AnswerCache(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"data\.cache"):
        Asker(section("http://127.0.0.1:9/v1").model_copy(update={"cache": str(tmp_path / "file")}))


QUESTIONS = 120
CLIENT = """
import sys
from pathlib import Path
from open4ov.mllm import Asker, Prompt, Request
from open4ov.mllm.answers import Judgement
from open4ov.recipe import DataSection, ProviderSection
provider = ProviderSection(kind="openai", base_url=sys.argv[1], model="m", api_key_env="TEST_KEY", concurrency=4)
asker = Asker(DataSection(providers={"default": provider}), place=Path(sys.argv[2]))
answers = asker.ask_many([
    Request("judge_1", Prompt("judge", {"topic": "t", "question": f"number {n}", "answer": "a"}), (), Judgement)
    for n in range(int(sys.argv[3]))
])
assert all(isinstance(one, dict) for one in answers), answers
print(asker.report()["roles"]["judge_1"]["kept"])
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_and_sends_no_question_that_was_answered(tmp_path: Path) -> None:
    """A real server counts, the client is killed in the middle, twice."""
    asked: Counter[str] = Counter()
    lock, reached = threading.Lock(), threading.Event()
    stop_at = [40]

    def answer(body: dict[str, Any], number: int) -> str:
        question = next(line for line in body["messages"][0]["content"][-1]["text"].splitlines() if "number" in line)
        with lock:
            asked[question] += 1
            if sum(asked.values()) >= stop_at[0]:
                reached.set()
        return GOOD

    with endpoint(answer) as server:
        for kill_at in (40, 80):
            stop_at[0] = kill_at
            reached.clear()
            client = python(CLIENT, server.url, str(tmp_path), str(QUESTIONS))
            assert reached.wait(120)
            client.send_signal(signal.SIGKILL)
            assert client.wait(60) == -signal.SIGKILL
            cache = AnswerCache(tmp_path / "asked")
            kept = len(cache)
            cache.close()
            assert kept >= kill_at / 2 - 8
            with lock:
                before = sum(asked.values())
        client = python(CLIENT, server.url, str(tmp_path), str(QUESTIONS))
        out, _ = client.communicate(timeout=120)
        assert client.returncode == 0
        assert sum(asked.values()) - before == QUESTIONS - kept  # not one of those that were kept
        assert int(out) == kept
    assert len(asked) == QUESTIONS
    assert max(asked.values()) <= 3  # under way when a kill came
    assert sum(asked.values()) <= QUESTIONS + 2 * 4 * 2


def test_nothing_of_the_key_is_anywhere_in_a_run(tmp_path: Path) -> None:
    with endpoint(lambda body, number: GOOD if number % 3 else 500) as server:
        chosen = section(server.url, retries=0, concurrency=1)
        answers = Asker(chosen, place=tmp_path).ask_many([judgement(str(n)) for n in range(12)])
        assert server.keys[0] == f"Bearer {KEY}"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"answers.sqlite", "spending.sqlite"}
    for path in files:
        assert KEY.encode() not in path.read_bytes()
    assert any(not isinstance(one, dict) for one in answers)
    assert all(KEY not in str(one) for one in answers)


def test_prompts_have_a_version_and_say_so_nowhere_else() -> None:
    folder = Path(ask.__file__).parent / "prompts"
    templates = sorted(path.stem for path in folder.glob("*.jinja"))
    assert set(templates) >= {"topics", "rank", "density", "synthesize", "judge", "verify", "labels"}
    for template in templates:
        assert re.fullmatch(rf"{template}@[1-9]\d*", ask.version(template))
    text = Prompt("verify", {"topic": "{# t #}", "question": "{{ 左 }}", "answer": "a", "response": "r"}).text
    assert text.startswith("Verify a response")
    assert "version" not in text
    assert "Topic: {# t #}\nQuestion: {{ 左 }}\n" in text
