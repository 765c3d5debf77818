"""Whatever an endpoint does wrong: the question or the stage ends with a kind, a count and a reason without secrets."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from endpoint import CONTENT, EXPECTED, FAULTS, Raw, completion, endpoint, limited
from PIL import Image

from open4ov.data import labels, match, synthesize
from open4ov.mllm import AnswerError, Asker, Picture, Prompt, ProviderError, Request, line
from open4ov.mllm.answers import Judgement
from open4ov.mllm.concurrency import Gate
from open4ov.recipe import DataSection, ProviderSection

KEY = "sk-very-secret-4711"
GOOD = '{"score": 1, "reason": "fine"}'


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setattr(line, "backoff", lambda attempt: 0.01)


def asker(url: str, place: Path | None = None, **more: Any) -> Asker:
    settings = {"retries": 1, "timeout": 20.0, "concurrency": 2, "model": "m", **more}
    provider = ProviderSection(kind="openai", base_url=url, api_key_env="TEST_KEY", **settings)
    return Asker(DataSection(providers={"default": provider}), place=place)


def judgement(question: str = "q") -> Request:
    return Request("judge_1", Prompt("judge", {"topic": "t", "question": question, "answer": "a"}), (), Judgement)


def ask(asker: Asker, request: Request) -> dict[str, Any] | AnswerError:
    return asker.ask_many([request])[0]


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - CONTENT))
def test_each_fault_has_its_kind_and_ends_one_question_only(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(line, "PATIENCE", 3)
    caplog.set_level(logging.DEBUG)
    kind, requests = EXPECTED[name]
    timeout = 1.0 if kind == "timeout" else 20.0

    def reply(body: dict[str, Any], number: int) -> str | Raw:
        return GOOD if "the good one" in json.dumps(body) else FAULTS[name]

    with endpoint(reply) as server:
        asking = asker(server.url, tmp_path, timeout=timeout)
        bad, good = ask(asking, judgement()), ask(asking, judgement("the good one"))
        sent = len(server.bodies) - 1
        again = ask(asker(server.url, tmp_path, timeout=timeout), judgement("the good one"))
        assert len(server.bodies) - 1 == sent  # the good answer is kept
        repeated = ask(asker(server.url, tmp_path, timeout=timeout), judgement())
        assert len(server.bodies) - 1 == 2 * sent  # the fault is not
    assert isinstance(bad, AnswerError)
    assert (bad.kind, sent) == (kind, requests)
    assert good == again == {"score": 1, "reason": "fine"}
    assert str(repeated) == str(bad)
    figures = asking.report()["roles"]["judge_1"]
    assert figures["faults"] == {kind: 1}
    assert (figures["answers"], figures["requests"]) == (1, requests + 1)
    assert sum(figures["retried"].values()) + figures["repairs"] == requests - 1
    for secret in (KEY, "of-theirs", "elsewhere.invalid", "Sign in", "brea", "sorry", "too long"):
        assert secret not in str(bad)
    assert KEY not in caplog.text
    assert "data.providers.default" in str(bad)
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert written
    assert KEY.encode() not in written
    assert b"brea" not in written


def test_a_fault_that_passes_is_only_a_retry() -> None:
    faults = [FAULTS[name] for name in ("close", "error_500", "html", "limited", "empty", "truncated_reply")]
    with endpoint(lambda body, number: faults[number] if number < len(faults) else GOOD) as server:
        asking = asker(server.url, retries=9)
        assert ask(asking, judgement()) == {"score": 1, "reason": "fine"}
    figures = asking.report()["roles"]["judge_1"]
    assert figures["retried"] == {
        "closed": 1, "server_error": 1, "html": 1, "rate_limited": 1, "empty": 1, "truncated": 1,
    }  # fmt: skip
    assert figures["faults"] == {}


def test_an_endpoint_that_never_works_stops_the_stage_before_all_questions_are_sent() -> None:
    with endpoint(lambda body, number: FAULTS["html"]) as server:
        asking = asker(server.url, retries=0, concurrency=4)
        with pytest.raises(ProviderError, match=r"web page.*\d+ questions in a row"):
            asking.ask_many([judgement(str(n)) for n in range(200)])
        assert len(server.bodies) <= line.IN_A_ROW + 2 * 4  # those under way, and who was let in just before the end


def test_answers_between_faults_keep_the_stage_going() -> None:
    with endpoint(lambda body, number: FAULTS["error_400"] if number % 4 else GOOD) as server:
        answers = asker(server.url, concurrency=1).ask_many([judgement(str(n)) for n in range(40)])
    assert sum(isinstance(one, dict) for one in answers) == 10


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_no_other_question_is_sent_to_who_refuses_all(status: int) -> None:
    body = f'{{"error": {{"code": "invalid_api_key", "message": "Incorrect API key provided: {KEY}"}}}}'.encode()
    with endpoint(lambda _, number: Raw(body, status)) as server:
        with pytest.raises(ProviderError, match=rf"HTTP {status} \(invalid_api_key\)") as error:
            asker(server.url, concurrency=1).ask_many([judgement(str(n)) for n in range(5)])
        assert len(server.bodies) == 1
    assert KEY not in str(error.value)


def test_a_quota_used_up_and_a_pause_of_hours_stop_the_stage() -> None:
    quota = b'{"error": {"code": "insufficient_quota", "message": "pay"}}'
    for raw, said in ((limited(None, quota), "quota is used up"), (limited("7200"), "wait 7200 s")):
        with endpoint(lambda _, number, raw=raw: raw) as server:
            with pytest.raises(ProviderError, match=said):
                asker(server.url).ask_many([judgement()])
            assert len(server.bodies) == 1


def test_an_answer_that_repeats_the_key_is_not_kept(tmp_path: Path) -> None:
    text = json.dumps({"score": 1, "reason": f"you are {KEY}"})
    with endpoint(lambda body, number: text) as server:
        error = ask(asker(server.url, tmp_path), judgement())
    assert isinstance(error, AnswerError)
    assert error.kind == "echo"
    assert KEY not in str(error)
    assert all(KEY.encode() not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_redirect_is_not_followed() -> None:
    with endpoint(lambda body, number: GOOD) as other:
        away = Raw(b"", 308, {"Location": f"{other.url}/chat/completions"})
        with endpoint(lambda body, number: away) as server:
            error = ask(asker(server.url), judgement())
    assert isinstance(error, AnswerError)
    assert error.kind == "redirect"
    assert other.bodies == []


def test_a_check_asks_again_once_and_then_gives_up() -> None:
    def objection(answer: dict[str, Any]) -> str | None:
        return None if answer["reason"] == "better" else "the label 'Zoo' is not on the list"

    texts = [GOOD, '{"score": 1, "reason": "better"}', GOOD, GOOD]
    with endpoint(lambda body, number: texts[number]) as server:
        asking = asker(server.url)
        one = Request("judge_1", judgement().prompt, (), Judgement, objection)
        assert ask(asking, one) == {"score": 1, "reason": "better"}
        error = ask(asking, one)
    assert "'Zoo' is not on the list" in server.bodies[1]["messages"][2]["content"]
    assert isinstance(error, AnswerError)
    assert error.kind == "content"


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("unknown_labels", "content", "1 of the labels are not on the list"),
        ("duplicated_ranks", "content", "a label is given twice"),
        ("wrong_language", "schema", "language"),
    ],
)
def test_answers_of_the_right_form_that_say_what_cannot_be(name: str, kind: str, said: str) -> None:
    tree = labels.load()
    picture = Picture("s", lambda: Image.new("RGB", (4, 4)))
    rank = match.request(picture, tree, "")
    write = synthesize.request(picture, tree, [], 3, ["en"], 0)
    with endpoint(lambda body, number: FAULTS[name]) as server:
        asking = asker(server.url)
        error = ask(asking, write if name == "wrong_language" else rank)
    assert isinstance(error, AnswerError)
    assert error.kind == kind
    assert said in str(error)
    assert said in server.bodies[1]["messages"][2]["content"]  # was told, and asked again


def test_a_429_is_known_to_every_provider_of_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    leave = Gate.leave

    def record(self: Gate, turn: Any, outcome: Any, pause: float = 0.0) -> None:
        leave(self, turn, outcome, pause)
        if outcome == "limited":
            paused.append(self.pause.until)

    monkeypatch.setattr(Gate, "leave", record)
    with endpoint(lambda body, number: limited("0.3") if number == 0 else GOOD) as server:
        same = {"kind": "openai", "base_url": server.url, "api_key_env": "TEST_KEY"}
        section = DataSection(
            providers={"default": ProviderSection(**same, model="a"), "b": ProviderSection(**same, model="b")},
            roles={"judge_2": "b"},
        )
        asking = Asker(section)
        one, two = asking.provider("judge_1"), asking.provider("judge_2")
        assert one._gate.pause is two._gate.pause  # type: ignore[attr-defined]
        assert ask(asking, judgement()) == {"score": 1, "reason": "fine"}
    assert len(paused) == 1


def test_usage_that_makes_no_sense_is_estimated() -> None:
    odd: list[Any] = [None, {"prompt_tokens": "many"}, {"prompt_tokens": -3, "completion_tokens": 1}, [1], "x"]
    with endpoint(lambda body, number: Raw(completion(GOOD, odd[number]))) as server:
        asking = asker(server.url)
        for number in range(len(odd)):
            assert isinstance(ask(asking, judgement(str(number))), dict)
    figures = asking.report()["roles"]["judge_1"]
    assert figures["estimated"] == len(odd)
    assert figures["input"] > 0
    assert figures["output"] > 0


def test_three_judges_on_three_endpoints_at_once(tmp_path: Path) -> None:
    """One of them fails often; the others neither wait for it nor take its answers, though their model has one name."""
    barrier = threading.Barrier(3, timeout=60)

    def judge(score: int) -> Any:
        def reply(body: dict[str, Any], number: int) -> str | Raw:
            if number == 0:
                barrier.wait()  # only if all three are asked at the same time
            return FAULTS["error_500"] if score == 0 and number % 2 else json.dumps({"score": score, "reason": "r"})

        return reply

    with endpoint(judge(1)) as a, endpoint(judge(0)) as b, endpoint(judge(1)) as c:
        providers = {
            name: ProviderSection(kind="openai", base_url=one.url, model="same", api_key_env="TEST_KEY", retries=9)
            for name, one in (("default", a), ("b", b), ("c", c))
        }
        section = DataSection(providers=providers, roles={"judge_2": "b", "judge_3": "c"})
        questions = [Request(f"judge_{1 + n % 3}", judgement(str(n // 3)).prompt, (), Judgement) for n in range(60)]
        answers = Asker(section, place=tmp_path).ask_many(questions)
        before = [len(one.bodies) for one in (a, b, c)]
        assert Asker(section, place=tmp_path).ask_many(questions) == answers
        assert [len(one.bodies) for one in (a, b, c)] == before
    assert [one["score"] for one in answers if isinstance(one, dict)] == [1, 0, 1] * 20
