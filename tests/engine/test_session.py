"""Sessions over HTTP: the answers of one-shot requests, computed ahead, rolled back, given back; and who may what."""

from __future__ import annotations

import asyncio
import base64
import http.client
import itertools
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from test_generate import picture
from test_server import KEY, Running, url, wait

from open4ov.engine.sessions import session
from open4ov.engine.sessions.session import Limits, Session

OPEN = {"model": "tiny", "temperature": 0, "max_tokens": 8}
LONG = "What colour is the circle? How many squares are there? one two three "


class Server(Running):
    """A server, and the sessions that were opened on it."""

    def __init__(self, directory: Path, limits: Limits | None = None, **options: Any) -> None:
        super().__init__(directory, serving={"limits": limits}, **options)
        self.opened: list[Spoken] = []

    def open(self, **options: Any) -> Spoken:
        status, state, _ = self.call("POST", "", {**OPEN, **options})
        assert status == 201, state
        self.opened.append(Spoken(self, state["id"]))
        return self.opened[-1]

    def call(self, method: str, path: str, body: object = None, key: str | None = KEY) -> tuple[int, Any, Any]:
        content = None if body is None else json.dumps(body).encode()
        return self.ask(method, f"/v1/sessions{path}", content, key)

    @property
    def free(self) -> bool:
        return not self.engine.busy and self.engine.pool.available == self.engine.pool.count


class Spoken:
    """A session as its client sees it."""

    def __init__(self, server: Server, number: str) -> None:
        self.server, self.number = server, number

    def call(self, path: str, body: object = None, method: str = "POST") -> dict[str, Any]:
        status, content, _ = self.server.call(method, f"/{self.number}{path}", body)
        assert status == 200, content
        return content

    def image(self, seed: int, size: tuple[int, int] = (64, 96)) -> dict[str, Any]:
        return self.call("/images", {"url": url(picture(seed, size))})

    def say(self, *pieces: str) -> None:
        for piece in pieces:
            self.call("/text", {"append": piece})

    def revise(self, text: str) -> dict[str, Any]:
        return self.call("/text", {"revise": text})

    def ready(self) -> dict[str, Any]:
        """Waits until all that is settled is computed."""
        wait(lambda: (lambda ahead: ahead["computed"] == ahead["settled"])(self.state()["ahead"]), 60)
        return self.state()

    def state(self) -> dict[str, Any]:
        return self.call("", method="GET")

    def commit(self) -> dict[str, Any]:
        return self.call("/commit", {})

    def close(self) -> None:
        self.call("", method="DELETE")


@pytest.fixture(scope="module")
def running(tiny_dir: Path) -> Iterator[Server]:
    running = Server(tiny_dir, limits=Limits(sessions=3, images=3, characters=3000, picture_bytes=400_000))
    yield running
    running.close()


@pytest.fixture(name="server")
def nothing_is_held_after_a_test(running: Server) -> Iterator[Server]:
    yield running
    for one in running.opened:
        running.call("DELETE", f"/{one.number}")
    running.opened.clear()
    wait(lambda: running.free, 60)


@pytest.fixture
def spoken(server: Server) -> Spoken:
    return server.open()


def one_shot(server: Server, *messages: tuple[str, list[int | str]], **options: Any) -> dict[str, Any]:
    """The answer to a whole conversation: texts, and pictures by their seed."""
    content = [
        {"role": role, "content": [_part(part) for part in parts] if role == "user" else parts[0]}
        for role, parts in messages
    ]
    status, answer = server.post(**{"messages": content, "temperature": 0, "max_tokens": 8, **options})
    assert status == 200, answer
    return answer


def _part(part: int | str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": url(picture(part))}}


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found["choices"] == wanted["choices"]
    for kind in ("prompt_tokens", "completion_tokens"):
        assert found["usage"][kind] == wanted["usage"][kind]


@pytest.mark.parametrize(
    "pieces",
    [
        ["What col", "our is", " the circ", "le?"],
        list("how many? 12345 3.14"),
        ["family 👨", "\u200d👩", "\u200d👧 and 👍", "🏽 caf", "e", "\u0301"],
        ["这是什", "么颜色？图", "中有几", "个方块？"],
        ["<|im_", "end|>", "\n<|im_start|>assistant\n", "<|image_", "pad|>", "<|vision_start|>"],
        ["", " ", "\n", "\n two", "", "  spaces \r", "\n"],
    ],
    ids=["words", "numbers", "emoji", "chinese", "special", "spaces"],
)
def test_a_picture_and_text_in_pieces_answer_as_one_shot(spoken: Spoken, pieces: list[str]) -> None:
    spoken.image(1)
    spoken.ready()
    spoken.say(*pieces)
    same(spoken.commit(), one_shot(spoken.server, ("user", [1, "".join(pieces)])))


@pytest.mark.parametrize(
    "revised",
    [
        "Which" + LONG[4:],
        LONG.replace("circle", "square"),
        LONG + "four",
        LONG[:-7],
        LONG[:9],
        "other words",
        "图中有几个方块？",
        LONG,
        "",
    ],
    ids=["beginning", "middle", "longer", "end", "cut", "all", "chinese", "same", "nothing"],
)
@pytest.mark.parametrize("first", ["image", "text"])
def test_revised_words_answer_as_one_shot(spoken: Spoken, revised: str, first: str) -> None:
    if first == "image":
        spoken.image(1)
    spoken.say(LONG)
    if first == "text":
        spoken.image(1)
    spoken.ready()
    state = spoken.revise(revised)
    assert state["text"] == revised
    assert state["ahead"]["settled"] <= state["prompt_tokens"]
    place = 0 if first == "image" else LONG_PLACES.get(revised, len(revised))
    before, after = revised[:place], revised[place:]
    parts: list[int | str] = [*([before] if before else []), 1, *([after] if after else [])]
    same(spoken.commit(), one_shot(spoken.server, ("user", parts)))


LONG_PLACES = {LONG + "four": len(LONG)}
"""Where a picture after `LONG` stands once that is revised, if not at the end"""


def test_what_is_computed_ahead_is_found_and_what_was_meant_otherwise_is_dropped(server: Server) -> None:
    text = LONG * 3 + "and now?"
    engine, metrics = server.engine, server.service.metrics
    one = server.open()
    seen = engine.vision_cache.statistics
    misses, hits = seen.misses, seen.hits
    one.image(41)
    one.ready()
    assert (seen.misses, seen.hits) == (misses + 1, hits)
    one.say(*(text[at : at + 7] for at in range(0, len(text), 7)))
    state = one.ready()
    assert state["ahead"]["settled"] > state["prompt_tokens"] - 16 - 16
    assert engine.pool.count - engine.pool.available == state["ahead"]["computed"] // engine.pool.size
    dropped = metrics.session_rolled_back_tokens
    revised = text.replace("now", "then")
    one.revise(revised)
    one.revise("Which" + revised[4:])
    after = one.ready()
    assert metrics.session_rolled_back_tokens - dropped >= state["ahead"]["computed"] - 48
    held = after["ahead"]["computed"]
    begun, found = engine.scheduler.prompt_tokens, engine.scheduler.found_tokens
    answer = one.commit()
    prompt = answer["usage"]["prompt_tokens"]
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == held
    assert prompt - held < 32
    one.ready()
    assert engine.scheduler.prompt_tokens >= begun + prompt
    assert engine.scheduler.found_tokens >= found + held
    assert seen.misses == misses + 1
    told = server.ask("GET", "/metrics")[1]
    assert f"open4ov:session_tokens_found_total {metrics.session_found_tokens}\n" in told
    assert f"open4ov:session_tokens_ahead_total {metrics.session_ahead_tokens}\n" in told
    assert f"open4ov:session_tokens_rolled_back_total {metrics.session_rolled_back_tokens}\n" in told
    assert "open4ov:sessions_open 1\n" in told
    one.close()
    wait(lambda: server.free, 60)
    same(answer, one_shot(server, ("user", [41, "Which" + revised[4:]])))


def test_a_conversation_goes_on_with_several_pictures(spoken: Spoken) -> None:
    server = spoken.server
    spoken.image(1)
    spoken.say("left of ")
    spoken.image(2)
    spoken.say("or right?")
    turns: list[tuple[str, list[int | str]]] = [("user", [1, "left of ", 2, "or right?"])]
    first = spoken.commit()
    same(first, one_shot(server, *turns))
    assert spoken.state()["turn"] == 1
    assert spoken.state()["text"] == ""
    spoken.ready()
    for text in ("and now? " + LONG, "why"):
        turns += [("assistant", [first["choices"][0]["message"]["content"]]), ("user", [text])]
        held = spoken.state()["ahead"]["computed"]
        spoken.say(text)
        first = spoken.commit()
        same(first, one_shot(server, *turns))
        assert first["usage"]["prompt_tokens_details"]["cached_tokens"] >= held > 0
    spoken.image(3)
    turns += [("assistant", [first["choices"][0]["message"]["content"]]), ("user", [3])]
    same(spoken.commit(), one_shot(server, *turns))
    assert server.engine.pool.available < server.engine.pool.count


def test_a_commit_at_once_and_options_and_an_earlier_conversation(server: Server) -> None:
    earlier = [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url(picture(5))}}]},
        {"role": "assistant", "content": "three"},
    ]
    options = {"temperature": 0.9, "seed": 3, "top_p": 0.95, "logprobs": True, "top_logprobs": 2, "max_tokens": 6}
    one = server.open(messages=earlier, **options)
    one.say("one two")
    found = one.commit()
    status, wanted = server.post(messages=[*earlier, {"role": "user", "content": "one two"}], **options)
    assert status == 200
    assert [token["token"] for token in found["choices"][0]["logprobs"]["content"]] == [
        token["token"] for token in wanted["choices"][0]["logprobs"]["content"]
    ]
    assert found["choices"][0]["message"] == wanted["choices"][0]["message"]
    one.close()


def test_words_wait_a_little_and_are_not_computed_twice(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PAUSE", 3600.0)
    spoken = server.open()
    spoken.image(1)
    assert spoken.ready()["ahead"]["computed"] > 0  # a picture does not wait
    metrics = server.service.metrics
    before = metrics.session_ahead_tokens
    spoken.say(LONG)
    assert spoken.state()["ahead"]["settled"] > spoken.state()["ahead"]["computed"] > 0
    same(spoken.commit(), one_shot(server, ("user", [1, LONG])))
    assert metrics.session_ahead_tokens == before  # of the words, nothing: the answer's own step computed them
    words = server.open()
    words.say(LONG)
    words.image(2)  # ends the words' pause
    assert words.ready()["ahead"]["computed"] > 0
    same(words.commit(), one_shot(server, ("user", [LONG, 2])))


def test_a_stream_is_as_one_shots_and_the_turn_is_over_with_its_last_piece(spoken: Spoken) -> None:
    server = spoken.server
    spoken.image(1)
    spoken.say("count")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = json.dumps({"stream": True, "stream_options": {"include_usage": True}})
    connection.request("POST", f"/v1/sessions/{spoken.number}/commit", body, {"Authorization": f"Bearer {KEY}"})
    answer = connection.getresponse()
    assert answer.getheader("content-type", "").startswith("text/event-stream")
    lines = [line for line in answer.read().decode().split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    wanted = one_shot(server, ("user", [1, "count"]))
    assert text == wanted["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"]["prompt_tokens"] == wanted["usage"]["prompt_tokens"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert spoken.state()["turn"] == 1


def test_while_the_answer_is_under_way_nothing_changes_and_leaving_gives_the_turn_back(server: Server) -> None:
    one = server.open(max_tokens=2000)
    one.say("one two three")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(
        "POST", f"/v1/sessions/{one.number}/commit", b'{"stream": true}', {"Authorization": f"Bearer {KEY}"}
    )
    answer = connection.getresponse()
    answer.read(20)
    for path, body in (("/text", {"append": "x"}), ("/images", {"url": url(picture(1))}), ("/commit", {})):
        status, content, _ = server.call("POST", f"/{one.number}{path}", body)
        assert (status, content["error"]["code"]) == (409, "answer_under_way")
    assert one.state()["answering"]
    connection.close()
    answer.close()
    wait(lambda: not one.state()["answering"], 60)
    state = one.ready()
    assert (state["turn"], state["text"]) == (0, "one two three")
    one.say(" four")
    one.close()
    wait(lambda: server.free, 60)


def test_closing_during_an_answer_ends_it(server: Server) -> None:
    one = server.open(max_tokens=2000)
    one.say("one two three")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(
        "POST", f"/v1/sessions/{one.number}/commit", b'{"stream": true}', {"Authorization": f"Bearer {KEY}"}
    )
    answer = connection.getresponse()
    answer.read(20)
    one.close()
    assert '"session_closed"' in answer.read().decode()
    wait(lambda: server.free, 60)


def test_another_key_and_unknown_and_closed_sessions(server: Server) -> None:
    one = server.open()
    other = server.open()
    assert len({one.number, other.number}) == 2
    assert len(one.number) > 30
    for method, path, body in ROUTES:
        for number, key in ((one.number, "other"), ("sess-nobody", KEY), ("sess-nobody", "other")):
            status, content, _ = server.call(method, f"/{number}{path}", body, key)
            assert (status, content["error"]["code"]) == (404, "session_not_found"), path
            assert content["error"]["message"] == "there is no such session"
        assert server.call(method, f"/{one.number}{path}", body, None)[0] == 401
    one.close()
    other.close()
    for method, path, body in ROUTES:
        status, content, _ = server.call(method, f"/{one.number}{path}", body)
        assert (status, content["error"]["code"]) == (410, "session_closed"), path
        assert server.call(method, f"/{one.number}{path}", body, "other")[0] == 404


ROUTES = [
    ("GET", "", None),
    ("POST", "/images", {"url": url(picture(1))}),
    ("POST", "/text", {"append": "x"}),
    ("POST", "/text", {"revise": "x"}),
    ("POST", "/commit", {}),
    ("DELETE", "", None),
]

BAD: dict[str, tuple[str, object, int, str]] = {
    "another model": ("", {**OPEN, "model": "huge"}, 404, "there is no such model"),
    "no model": ("", {}, 400, "model"),
    "several answers": ("", {**OPEN, "n": 2}, 400, "one answer at a time"),
    "a stream at opening": ("", {**OPEN, "stream": True}, 400, "said at commit"),
    "a question at opening": ("", {**OPEN, "messages": [{"role": "user", "content": "x"}]}, 400, "not be the user's"),
    "an option nothing reads": ("", {**OPEN, "tools": []}, 400, "unknown option"),
    "tokens beyond all": ("", {**OPEN, "max_tokens": 10**9}, 400, "more than the"),
    "no options": ("", [], 400, "the body"),
    "neither": ("/text", {}, 400, "either append or revise"),
    "both": ("/text", {"append": "x", "revise": "y"}, 400, "either append or revise"),
    "half a character": ("/text", b'{"append": "\\ud83d"}', 400, "the body"),
    "half its bytes": ("/text", b'{"append": "\xf0\x9f"}', 400, "the body"),
    "too much text": ("/text", {"append": "x " * 2000}, 400, "at most 3000 characters"),
    "no picture": ("/images", {"url": "data:image/png;base64,AAAA"}, 400, "not a readable"),
    "a URL": ("/images", {"url": "http://127.0.0.1/a.png"}, 400, "data URL"),
    "too many pixels": ("/images", {"url": url(picture(1, (400, 400)))}, 503, "take all the room"),
    "nothing to answer": ("/commit", {}, 400, "nothing to answer"),
    "options without a stream": ("/commit", {"stream_options": {"include_usage": True}}, 400, "stream: true"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_at_fault_is_said_and_the_session_stays(spoken: Spoken, case: str) -> None:
    path, body, wanted, said = BAD[case]
    before = spoken.state()
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    full = f"/v1/sessions/{spoken.number}{path}" if path else "/v1/sessions"
    status, answer, _ = spoken.server.ask("POST", full, content)
    assert status == wanted, answer
    assert said in answer["error"]["message"]
    assert "0x" not in answer["error"]["message"]
    assert spoken.state() == before
    spoken.say("one")
    same(spoken.commit(), one_shot(spoken.server, ("user", ["one"])))


def test_too_many_sessions_and_pictures(server: Server) -> None:
    opened = [server.open() for _ in range(3)]
    status, content, headers = server.call("POST", "", OPEN)
    assert (status, content["error"]["code"], headers["retry-after"]) == (503, "server_overloaded", "1")
    opened[0].close()
    again = server.open()
    for seed in range(3):
        again.image(seed)
    status, content, _ = server.call("POST", f"/{again.number}/images", {"url": url(picture(4))})
    assert (status, content["error"]["param"]) == (400, "url")
    assert "at most 3 images" in content["error"]["message"]
    for one in (*opened[1:], again):
        one.close()
    wait(lambda: server.free, 60)
    full = server.open()  # the closed ones' pictures are forgotten
    for seed in range(3):
        full.image(seed, (128, 128))
    full.close()


def test_one_key_does_not_take_all_sessions(tiny_dir: Path) -> None:
    server = Server(tiny_dir, limits=Limits(sessions=3, per_key=2))
    mine = [server.open() for _ in range(2)]
    status, content, headers = server.call("POST", "", OPEN)
    assert (status, content["error"]["code"], headers["retry-after"]) == (429, "rate_limited", "1")
    status, other, _ = server.call("POST", "", OPEN, key="other")
    assert status == 201
    mine[0].close()
    server.open()
    assert server.call("DELETE", f"/{other['id']}", key="other")[0] == 200
    server.close()


def test_sessions_that_one_key_opens_at_the_same_time_are_counted(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(tiny_dir, limits=Limits(sessions=20, per_key=3))
    begin, refused, tried = Session.begin, threading.Event(), itertools.count(1)

    async def slow(session: Session) -> None:
        if next(tried) > 3:
            refused.set()  # more are let in than may be
        await asyncio.to_thread(refused.wait, 60)
        await begin(session)

    monkeypatch.setattr(Session, "begin", slow)

    def one(_: int) -> int:
        status = server.call("POST", "", OPEN)[0]
        if status != 201:
            refused.set()
        return status

    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(one, range(8)))
    assert sorted(statuses) == [201] * 3 + [429] * 5
    server.close()


def test_one_key_does_not_take_all_the_room_for_pictures(tiny_dir: Path) -> None:
    server = Server(tiny_dir, limits=Limits(picture_bytes=4 * 40_000))
    mine = server.open()
    mine.image(1, (120, 120))
    again = {"url": url(picture(2, (120, 120)))}
    status, content, headers = server.call("POST", f"/{server.open().number}/images", again)
    assert (status, content["error"]["code"], headers["retry-after"]) == (429, "rate_limited", "1")
    status, other, _ = server.call("POST", "", OPEN, key="other")
    assert server.call("POST", f"/{other['id']}/images", {"url": url(picture(3, (100, 100)))}, key="other")[0] == 200
    assert server.call("POST", f"/{other['id']}/images", again, key="other")[0] == 429
    mine.close()
    assert server.call("POST", f"/{server.open().number}/images", again)[0] == 200
    server.close()


def test_an_idle_session_is_closed_and_says_so(tiny_dir: Path) -> None:
    server = Server(tiny_dir, limits=Limits(idle=1.0))
    try:
        one = server.open()
        one.say(LONG)
        wait(lambda: server.engine.pool.available < server.engine.pool.count, 60)
        wait(lambda: server.service.metrics.sessions_open == 0, 60)
        wait(lambda: server.free, 60)
        status, content, _ = server.call("POST", f"/{one.number}/text", {"append": "x"})
        assert (status, content["error"]["code"]) == (410, "session_closed")
        assert "after 1 s without a message" in content["error"]["message"]
    finally:
        server.close()


def test_a_pool_too_small_for_all_gives_up_what_is_held_and_answers_all(tiny_dir: Path) -> None:
    server = Server(tiny_dir, kv_tokens=128)
    try:
        several = [server.open() for _ in range(4)]
        for seed, one in enumerate(several):
            one.image(seed)
            one.say(LONG)
            one.ready()
        assert server.engine.scheduler.lost_tokens > 0
        states = [one.state()["ahead"] for one in several]
        assert states[0]["computed"] == 0 < states[0]["settled"], "given up, and said so"
        assert states[-1]["computed"] == states[-1]["settled"]
        status, content, _ = server.call("POST", f"/{several[0].number}/text", {"append": LONG * 4})
        assert status == 400
        assert "more than the 128 there is room for" in content["error"]["message"]
        for seed, one in enumerate(several):
            same(one.commit(), one_shot(server, ("user", [seed, LONG])))
        for one in several:
            one.close()
        wait(lambda: server.free, 60)
    finally:
        server.close()


def test_what_was_given_up_for_others_is_not_said_to_be_computed(spoken: Spoken) -> None:
    spoken.say(LONG)
    ahead = spoken.ready()["ahead"]
    assert ahead["computed"] == ahead["settled"] > 0
    assert spoken.server.engine.scheduler._lose()  # as when others need the blocks
    assert spoken.state()["ahead"] == {"settled": ahead["settled"], "computed": 0}
    same(spoken.commit(), one_shot(spoken.server, ("user", [LONG])))


def test_a_failing_step_ends_neither_session_nor_server(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(tiny_dir)
    try:
        step, calls = server.engine.step, iter([True])

        def sometimes() -> Any:
            if next(calls, False):
                raise RuntimeError("a secret at 0x7f")
            return step()

        monkeypatch.setattr(server.engine, "step", sometimes)
        one = server.open()
        one.image(1)
        wait(lambda: not next(calls, False) and not server.engine.busy, 60)
        one.say(LONG)
        one.ready()
        same(one.commit(), one_shot(server, ("user", [1, LONG])))
        one.close()
        wait(lambda: server.free, 60)
    finally:
        server.close()


def test_browsers_may_give_the_key_as_a_password_from_our_own_page_only(server: Server) -> None:
    def ask(method: str, path: str, **headers: str) -> tuple[int, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request(method, path, b"{}" if method == "POST" else None, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}

    right, wrong = (f"Basic {base64.b64encode(b'me:' + key).decode()}" for key in (KEY.encode(), b"wrong"))
    status, headers = ask("GET", "/")
    assert (status, headers["www-authenticate"].split()[0]) == (401, "Basic")
    for denied in (wrong, "Basic %%%", "Basic ", "Basic"):
        assert ask("GET", "/", authorization=denied)[0] == 401
    assert "www-authenticate" not in ask("GET", "/v1/models")[1]
    status, headers = ask("GET", "/", authorization=right)
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    own = f"http://127.0.0.1:{server.port}"
    for origin, wanted in ((own, 400), ("http://evil.example", 403), ("null", 403), (f"{own}.evil.example", 403)):
        assert ask("POST", "/v1/sessions", authorization=right, origin=origin)[0] == wanted
    assert ask("POST", "/v1/sessions", authorization=right)[0] == 403
    assert ask("POST", "/v1/sessions", authorization=f"Bearer {KEY}", origin="http://evil.example")[0] == 400
