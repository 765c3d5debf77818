"""The embeddings endpoint against a real HTTP server on this machine, with whatever it may do wrong."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endpoint import FAULTS, Endpoint, Raw, endpoint, limited
from PIL import Image

from open4ov.errors import UserError
from open4ov.mllm import Asker, Picture, ProviderError, line
from open4ov.mllm.budget import BudgetError
from open4ov.mllm.embedder_endpoint import EndpointEmbedder
from open4ov.recipe import BudgetSection, DataSection
from open4ov.recipe_embedder import EmbedderSection, EndpointSection

KEY = "sk-very-secret-4711"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setattr(line, "backoff", lambda attempt: 0.01)


def vector(text: str) -> list[float]:
    """What the server embeds a text as: its length, its first letter, and one half."""
    return [float(len(text)), float(ord(text[0])), 0.5]


def rows(vectors: list[Any], tokens: int | None = 3) -> Raw:
    """A reply whose rows come last first, each with its index."""
    data = [{"object": "embedding", "index": place, "embedding": one} for place, one in enumerate(vectors)][::-1]
    body: dict[str, Any] = {"object": "list", "model": "m", "data": data}
    if tokens is not None:
        body["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Raw(json.dumps(body).encode())


def served(body: dict[str, Any], number: int) -> Raw:
    return rows([vector(text) for text in body["input"]])


def section(server: Endpoint, **more: Any) -> EndpointSection:
    given = {"retries": 1, "timeout": 20.0, "concurrency": 2, **more}
    return EndpointSection(base_url=server.url, model="clip", api_key_env="TEST_KEY", **given)


def asker(server: Endpoint, place: Path | None = None, budget: BudgetSection | None = None, **more: Any) -> Asker:
    embedder = EmbedderSection(endpoint=section(server, **more))
    return Asker(DataSection(embedder=embedder, budget=budget or BudgetSection()), place=place)


def picture(sha: str, colour: tuple[int, int, int]) -> Picture:
    return Picture(sha, lambda: Image.new("RGB", (3, 2), colour))


def test_texts_go_in_batches_and_come_back_in_order() -> None:
    texts = [f"{letter}{'x' * number}" for number, letter in enumerate("fedcba")]
    with endpoint(served) as server:
        found = EndpointEmbedder(section(server, batch=4, dimensions=3)).texts([*texts, texts[0]])
    assert found.tolist() == [vector(text) for text in [*texts, texts[0]]]
    assert found.dtype == np.float32
    assert sorted(len(body["input"]) for body in server.bodies) == [2, 4]  # a text that comes twice is asked for once
    assert {body["dimensions"] for body in server.bodies} == {3}
    assert {(body["model"], body["encoding_format"]) for body in server.bodies} == {("clip", "float")}
    assert set(server.keys) == {f"Bearer {KEY}"}


def test_base64_rows_are_read_too() -> None:
    packed = base64.b64encode(np.array([1.5, -2, 0.25], "<f4").tobytes()).decode()
    with endpoint(lambda body, number: rows([packed])) as server:
        assert EndpointEmbedder(section(server)).texts(["t"]).tolist() == [[1.5, -2, 0.25]]


@pytest.mark.parametrize("form", ["messages", "input"])
def test_images_go_as_data_urls(form: str) -> None:
    def reply(body: dict[str, Any], number: int) -> Raw:
        urls = body["input"] if "input" in body else [body["messages"][0]["content"][0]["image_url"]["url"]]
        sent = [Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))) for url in urls]
        return rows([list(map(float, image.convert("RGB").getpixel((0, 0)))) for image in sent])  # pyright: ignore

    pictures = [picture("a", (1, 2, 3)), picture("b", (4, 5, 6)), picture("c", (7, 8, 9))]
    with endpoint(reply) as server:
        embedder = EndpointEmbedder(section(server, images=True, image_form=form))
        assert embedder.images(pictures).tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert len(server.bodies) == (3 if form == "messages" else 1)
    if form == "input":
        assert server.bodies[0]["modality"] == "image"


def test_images_are_no_business_of_an_endpoint_without_them() -> None:
    with endpoint(served) as server, pytest.raises(UserError, match="images is false"):
        EndpointEmbedder(section(server)).images([picture("a", (1, 2, 3))])
    assert not server.bodies


def test_rows_are_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    with endpoint(served) as server:
        first = asker(server, tmp_path)
        once = first.embedder.texts(["one", "two"])
        assert first.report()["roles"]["embed"]["input"] == 4  # 3 tokens of two rows, a share of each rounded up
        assert first.report()["spent"]["total"]["requests"] == 1
        again = asker(server, tmp_path)
        assert np.array_equal(again.embedder.texts(["two", "one", "more"]), [*once[::-1], vector("more")])
        assert [body["input"] for body in server.bodies] == [["one", "two"], ["more"]]
        assert again.report()["roles"]["embed"]["kept"] == 2
        other = asker(server, tmp_path, dimensions=3)  # other rows, though the text is the same
        other.embedder.texts(["one"])
    assert len(server.bodies) == 3


def test_what_fails_half_way_is_not_paid_for_twice(tmp_path: Path) -> None:
    def reply(body: dict[str, Any], number: int) -> Raw | int:
        return 400 if "bad" in body["input"] else served(body, number)

    with endpoint(reply) as server:
        with pytest.raises(ProviderError, match=r"data\.embedder\.endpoint.*HTTP 400.*needs every row"):
            asker(server, tmp_path, batch=1, concurrency=1).embedder.texts(["one", "two", "bad"])
        asker(server, tmp_path, batch=1).embedder.texts(["one", "two"])
    assert [body["input"] for body in server.bodies] == [["one"], ["two"], ["bad"]]


def test_the_budget_stops_before_a_request_that_could_be_too_much(tmp_path: Path) -> None:
    def run(server: Endpoint, tokens: int) -> np.ndarray:
        budget = BudgetSection(tokens=tokens)
        return asker(server, tmp_path, budget, batch=1, concurrency=1).embedder.texts(["one", "two", "three"])

    with endpoint(served) as server:
        with pytest.raises(BudgetError, match=r"data\.budget\.tokens"):
            run(server, 24)
        assert [body["input"] for body in server.bodies] == [["one"], ["two"]]
        assert len(run(server, 60)) == 3
    assert [body["input"] for body in server.bodies][2:] == [["three"]]


def test_an_endpoint_elsewhere_is_refused_when_all_must_stay_here() -> None:
    far = EmbedderSection(endpoint=EndpointSection(base_url="http://192.0.2.1/v1", model="m", api_key_env="TEST_KEY"))
    with pytest.raises(UserError, match=r"data\.embedder\.endpoint\.base_url: data\.local_only"):
        _ = Asker(DataSection(embedder=far, local_only=True)).embedder


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY")
    with endpoint(served) as server, pytest.raises(ProviderError, match=r"api_key_env: .*TEST_KEY is not set"):
        EndpointEmbedder(section(server))


ODD: dict[str, Callable[[dict[str, Any]], Raw]] = {
    "too few": lambda body: rows([vector(text) for text in body["input"]][1:]),
    "too many": lambda body: rows([vector(text) for text in [*body["input"], "x"]]),
    "not finite": lambda body: rows([[1.0, float("nan"), 0.0] for _ in body["input"]]),
    "words": lambda body: rows([["a", "b"] for _ in body["input"]]),
    "nested": lambda body: rows([[[1.0]] for _ in body["input"]]),
    "none": lambda body: rows([None for _ in body["input"]]),
    "empty rows": lambda body: rows([[] for _ in body["input"]]),
    "uneven": lambda body: rows([[1.0] * (place + 1) for place in range(len(body["input"]))]),
    "one index twice": lambda body: Raw(json.dumps({"data": [{"index": 0, "embedding": [1.0]}] * 2}).encode()),
    "no object": lambda body: Raw(b"[1, 2]"),
    "odd base64": lambda body: rows(["%%%" for _ in body["input"]]),
    "no data": lambda body: Raw(b'{"data": 7}'),
}


@pytest.mark.parametrize("fault", [*ODD, "empty", "html", "close", "error_500", "redirect", "gzip", "truncated_reply"])
def test_a_wrong_reply_ends_with_a_reason_and_nothing_kept(fault: str, tmp_path: Path) -> None:
    def reply(body: dict[str, Any], number: int) -> Raw:
        return ODD[fault](body) if fault in ODD else FAULTS[fault]

    with endpoint(reply) as server:
        failing = asker(server, tmp_path)
        with pytest.raises(ProviderError) as error:
            failing.embedder.texts(["one", "two"])
        assert "data.embedder.endpoint" in str(error.value)
        assert KEY not in str(error.value)
        faults = failing.report()["roles"]["embed"]["faults"]
    assert sum(faults.values()) == 1
    assert len(server.bodies) == (1 if fault in ("redirect", "gzip") else 2)
    assert list(faults) == ["embedding"] or fault not in ODD
    with endpoint(served) as server:  # nothing was kept: all is asked for, of the same address
        again = asker(server, tmp_path)
        assert len(again.embedder.texts(["one", "two"])) == 2
        assert again.report()["roles"]["embed"]["kept"] == 0


def test_a_limit_and_a_broken_reply_are_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.DEBUG),
        endpoint(lambda body, number: [limited("0"), FAULTS["close"], served(body, number)][min(number, 2)]) as server,
    ):
        found = asker(server)
        assert found.embedder.texts(["one"]).tolist() == [vector("one")]
        assert found.report()["roles"]["embed"]["retried"] == {"closed": 1, "rate_limited": 1}
    assert KEY not in caplog.text
