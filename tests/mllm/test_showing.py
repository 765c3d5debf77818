"""How pictures go out: how large, in which form, how often encoded; and by which name the longest answer is said."""

from __future__ import annotations

import base64
import io
import threading
from typing import Any

import numpy as np
import pytest
from endpoint import Raw, endpoint
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from open4ov.errors import UserError
from open4ov.mllm import AnswerError, Asker, Picture, Prompt, Request, showing
from open4ov.mllm.answers import Judgement
from open4ov.mllm.question import known_as, longest
from open4ov.mllm.showing import Showing, encode, scaled
from open4ov.recipe import DataSection, ProviderSection
from open4ov.store import ImageStore

GOOD = '{"score": 1, "reason": "fine"}'


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "a-secret-of-this-test")


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def picture(image: Image.Image, sha: str = "s") -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return Picture(sha, lambda: image, None, buffer.getvalue)


def opened(url: str) -> Image.Image:
    head, data = url.split(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == f"data:image/{str(image.format).lower()};base64"
    return image


def test_a_small_picture_goes_as_it_lies_in_the_store(tmp_path: Any) -> None:
    store = ImageStore(tmp_path)
    sha = store.put(noise(60, 40))
    one = Picture(sha, lambda: store.get(sha), None, lambda: store.png(sha))
    shown = encode(one, ProviderSection())
    assert base64.b64decode(shown.url.partition(",")[2]) == store.png(sha)
    assert shown.size == (60, 40)


@pytest.mark.parametrize(
    ("settings", "form", "size"),
    [
        ({}, "JPEG", (1000, 700)),  # 2 MB as PNG
        ({"image_format": "png"}, "PNG", (1000, 700)),
        ({"max_pixels": 70_000}, "PNG", (316, 221)),  # small again
        ({"max_pixels": 70_000, "image_format": "jpeg"}, "JPEG", (316, 221)),
        ({"max_pixels": 690_000}, "JPEG", (992, 694)),
        ({"max_pixels": None, "image_format": "jpeg"}, "JPEG", (1000, 700)),
    ],
)
def test_form_and_size_are_those_of_the_recipe(settings: dict[str, Any], form: str, size: tuple[int, int]) -> None:
    shown = encode(picture(noise(1000, 700)), ProviderSection(**settings))
    assert opened(shown.url).format == form
    assert opened(shown.url).size == shown.size == size


def test_scaling_and_jpeg_keep_what_is_seen() -> None:
    image = Image.linear_gradient("L").resize((2000, 2000)).convert("RGB")
    near = image.resize((500, 500), Image.Resampling.BOX)
    shown = opened(encode(picture(image), ProviderSection(max_pixels=250_000, image_format="jpeg")).url)
    difference = np.abs(np.asarray(shown, dtype=int) - np.asarray(near, dtype=int))
    assert difference.max() <= 4


def test_quality_decides_how_large_a_jpeg_is() -> None:
    image = picture(noise(300, 300))
    lengths = [
        len(encode(image, ProviderSection(image_format="jpeg", jpeg_quality=quality)).url) for quality in (30, 60, 95)
    ]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[2] / 2


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(1024, 2**24))
def test_scaled_stays_below_and_keeps_the_shape(width: int, height: int, most: int) -> None:
    wide, high = scaled((width, height), most)
    assert 1 <= wide <= width
    assert 1 <= high <= height
    assert wide * high <= max(most, 1)
    if width * height <= most:
        assert (wide, high) == (width, height)
    elif min(wide, high) >= 32:
        assert wide / high == pytest.approx(width / height, rel=0.07)
        assert wide * high > 0.9 * most
    assert scaled((width, height), None) == (width, height)


def test_a_picture_is_encoded_once_for_all_questions_about_it_and_memory_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[str] = []
    real = showing.encode

    def count(one: Picture, settings: ProviderSection) -> showing.Shown:
        encoded.append(one.sha)
        return real(one, settings)

    monkeypatch.setattr(showing, "encode", count)
    with endpoint(lambda body, number: GOOD) as server:
        provider = ProviderSection(
            kind="openai", base_url=server.url, model="m", api_key_env="TEST_KEY", concurrency=4, image_format="jpeg"
        )
        pictures = [picture(noise(40, 40), f"p{n}") for n in range(3)]
        requests = [
            Request("judge_1", Prompt("judge", {"topic": "t", "question": f"{q}", "answer": "a"}), (one,), Judgement)
            for one in pictures
            for q in range(6)
        ]
        Asker(DataSection(providers={"default": provider})).ask_many(requests)
        assert len(server.bodies) == 18
    assert sorted(encoded) == ["p0", "p1", "p2"]

    length = len(real(pictures[0], ProviderSection()).url)
    few = Showing(ProviderSection(), room=2 * length + 1)
    for one in (*pictures, pictures[2], pictures[0]):
        few.of(one)
    assert sorted(encoded[3:]) == ["p0", "p0", "p1", "p2"]  # the first had gone
    assert few._length == 2 * length
    assert Showing(ProviderSection(), room=1).of(pictures[0]).size == (40, 40)  # too large to be held


def test_a_picture_that_cannot_be_read_keeps_nobody_waiting() -> None:
    showing_ = Showing(ProviderSection())

    def missing() -> bytes:
        raise UserError("gone")

    for _ in range(2):
        failed: list[BaseException] = []

        def ask(failed: list[BaseException] = failed) -> None:
            try:
                showing_.of(Picture("s", lambda: noise(2, 2), None, missing))
            except UserError as error:
                failed.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(failed) == 4
    assert showing_._turns == {}


def test_what_is_sent_otherwise_is_another_question() -> None:
    request = Request(
        "judge_1", Prompt("judge", {"topic": "t", "question": "q", "answer": "a"}), (picture(noise(2, 2)),), Judgement
    )
    variants: list[dict[str, Any]] = [
        {},
        {"max_pixels": 2048},
        {"image_format": "png"},
        {"jpeg_quality": 70},
        {"seed": 1},
    ]
    keys = {known_as(request, "text", ProviderSection(**one)) for one in variants}
    assert len(keys) == len(variants)
    bare = Request("judge_1", request.prompt, (), Judgement)
    assert known_as(bare, "text", ProviderSection()) == known_as(bare, "text", ProviderSection(max_pixels=2048))


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, {"max_completion_tokens"}),  # OpenAI itself
        ({"base_url": "https://api.openai.com/v1"}, {"max_completion_tokens"}),
        ({"base_url": "https://mine.openai.azure.com/openai/v1"}, {"max_completion_tokens"}),
        ({"base_url": "https://notopenai.com/v1"}, {"max_completion_tokens", "max_tokens"}),
        ({"base_url": "http://127.0.0.1:1234/v1"}, {"max_completion_tokens", "max_tokens"}),
        ({"base_url": "http://127.0.0.1:1234/v1", "max_tokens_field": "max_tokens"}, {"max_tokens"}),
        ({"max_tokens_field": "both"}, {"max_completion_tokens", "max_tokens"}),
    ],
)
def test_the_longest_answer_is_said_by_the_name_that_is_read(settings: dict[str, Any], names: set[str]) -> None:
    assert longest(ProviderSection(max_tokens=77, **settings)) == dict.fromkeys(names, 77)


def test_a_request_carries_both_names_and_the_seed_and_a_refusal_names_the_option() -> None:
    request = Request("judge_1", Prompt("judge", {"topic": "t", "question": "q", "answer": "a"}), (), Judgement)
    said = b'{"error": {"code": "invalid_parameter_combination", "message": "max_tokens and max_completion_tokens"}}'
    with endpoint(lambda body, number: Raw(said, 400) if "max_tokens" in body else GOOD) as server:
        settings: dict[str, Any] = {"kind": "openai", "base_url": server.url, "model": "m", "api_key_env": "TEST_KEY"}
        (refused,) = Asker(DataSection(providers={"default": ProviderSection(**settings, seed=5)})).ask_many([request])
        one = ProviderSection(**settings, max_tokens_field="max_completion_tokens")
        (taken,) = Asker(DataSection(providers={"default": one})).ask_many([request])
    assert isinstance(refused, AnswerError)
    assert refused.kind == "http_400"
    assert "max_tokens_field" in str(refused)
    assert isinstance(taken, dict)
    first, second = server.bodies
    assert (first["max_tokens"], first["max_completion_tokens"], first["seed"]) == (4096, 4096, 5)
    assert "max_tokens" not in second
    assert "seed" not in second
