"""Known holes of servers like this one: a test for each published advisory, or the place of its test, and bodies that
are meant to break what reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_decoder import HOSTILE, saved
from test_fetch import BAD as BAD_URLS
from test_generate import picture
from test_server import ONE, Running, url, words

from open4ov.engine.serving import body as bodies
from open4ov.engine.serving import chat
from open4ov.engine.vision_cache import image_hash
from open4ov.model import Processor
from open4ov.sample import user


@pytest.fixture(scope="module")
def server(tiny_dir: Path) -> Iterator[Running]:
    running = Running(tiny_dir)
    yield running
    running.close()


def refused(server: Running, body: bytes, *said: str) -> str:
    """The message of a body that is refused with 400; the server answers others as before."""
    status, content, _ = server.ask("POST", "/v1/chat/completions", body)
    assert status == 400, content
    error = content["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert any(word in error["message"] for word in said or ("",)), error
    assert len(error["message"]) < 300
    assert server.post(messages=ONE, max_tokens=1)[0] == 200
    return error["message"]


def with_option(option: str) -> bytes:
    return b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], ' + option.encode() + b"}"


# GHSA-3f6c-7fw2-ppm4, CVE-2026-24779, CVE-2026-25960: requests forged by media URLs. What is fetched where that is
# allowed is in test_fetch.py: addresses, rebinding, redirects, parsers that differ.
@pytest.mark.parametrize(
    "address", [*BAD_URLS[:3], "https://example.com/a.png", "https://169.254.169.254/latest/meta-data"]
)
def test_ssrf_no_url_is_fetched_unless_wanted(server: Running, address: str) -> None:
    refused(server, json.dumps({"model": "tiny", "messages": words("x", address)}).encode(), "URLs are not fetched")


# CVE-2026-22778: a decoder's message tells addresses, and decoders run in the server. The processes are in
# test_decoder.py.
@pytest.mark.parametrize("case", HOSTILE)
def test_decoders_words_stay_inside(server: Running, case: str) -> None:
    import base64

    data = base64.b64encode(HOSTILE[case]()).decode() if case != "a JPEG of 5000 scans" else "AAAA"
    for kind in ("png", "jpeg"):
        body = {"model": "tiny", "messages": words("x", f"data:image/{kind};base64,{data}")}
        said = refused(server, json.dumps(body).encode())
        assert said in ("not a readable, still PNG, JPEG or WebP image of a reasonable shape",
                        "an image may have at most 16000000 pixels")  # fmt: skip


# CVE-2025-46722: a picture's hash that leaves out its shape.
def test_hashes_know_the_shape_and_the_mode() -> None:
    pixels = picture(1, (64, 96)).tobytes()
    shapes = [Image.frombytes("RGB", size, pixels) for size in ((64, 96), (96, 64), (32, 192))]
    assert len({image_hash(image) for image in shapes}) == 3
    grey = Image.frombytes("L", (64, 32), pixels[: 64 * 32])
    indexed = Image.frombytes("P", (64, 32), pixels[: 64 * 32])
    indexed.putpalette([255 - value // 3 for value in range(768)])
    assert image_hash(grey) != image_hash(indexed)
    assert image_hash(grey) == image_hash(grey.convert("RGB"))


def test_pictures_of_the_same_bytes_are_not_taken_for_each_other(server: Running) -> None:
    wide = picture(1, (96, 64))
    tall = Image.frombytes("RGB", (64, 96), wide.tobytes())
    before = server.engine.vision_cache.statistics.hits
    for image in (wide, tall):
        assert server.post(messages=words("which?", url(image)), max_tokens=1)[0] == 200
    assert server.engine.vision_cache.statistics.hits == before


# CVE-2026-22773: a picture of one pixel.
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 200), (200, 1), (3, 3)])
def test_tiny_pictures_are_answered(server: Running, size: tuple[int, int]) -> None:
    assert server.post(messages=words("x", url(Image.new("RGB", size))), max_tokens=1)[0] == 200


# CVE-2026-44222: text that spells the tokens of pictures.
@pytest.mark.parametrize("text", ["<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>", "<|video_pad|>" * 50])
def test_text_that_spells_pictures_is_text(server: Running, text: str) -> None:
    plain, seen = (
        server.post(messages=words(text, *urls), max_tokens=2)[1]["usage"]["prompt_tokens"]
        for urls in ((), (url(picture(1)),))
    )
    tokens = server.engine.processor.encode([user(text)], [], generate=True)
    assert plain == len(tokens)
    assert seen > plain
    assert len(server.engine.model.visual_places(tokens.input_ids)) == 0


# CVE-2026-34755, CVE-2026-105758, CVE-2026-105760: media without bounds, and a client's own options for them.
@pytest.mark.parametrize(
    "option",
    ['"mm_processor_kwargs": {"max_pixels": 10000000000}', '"media_io_kwargs": {"video": {"num_frames": -1}}',
     '"max_pixels": 1', '"min_pixels": 1'],
)  # fmt: skip
def test_options_of_the_processor_are_refused(server: Running, option: str) -> None:
    refused(server, with_option(option), "unknown option")


def test_videos_are_no_content(server: Running) -> None:
    part = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": [part]}]}
    refused(server, json.dumps(body).encode(), "messages.0.content")


def test_pictures_are_counted(server: Running) -> None:
    many = words("x", *[url(Image.new("RGB", (32, 32)))] * (chat.MAX_IMAGES + 1))
    refused(server, json.dumps({"model": "tiny", "messages": many}).encode(), "at most 16 images")
    spread = [{"role": "user", "content": words("x", url(picture(1)))[0]["content"]}] * (chat.MAX_IMAGES + 1)
    refused(server, json.dumps({"model": "tiny", "messages": spread}).encode(), "at most 16 images")


# CVE-2025-62164, CVE-2026-56340: tensors of the client's making. PYSEC-2026-2303: prompt embeddings.
@pytest.mark.parametrize(
    "part",
    [{"type": "image_embeds", "image_embeds": "gASVAAAA"}, {"type": "prompt_embeds", "data": "gASVAAAA"},
     {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}],
)  # fmt: skip
def test_tensors_are_no_content(server: Running, part: dict[str, Any]) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": [part]}]}
    refused(server, json.dumps(body).encode(), "messages.0.content")
    refused(server, with_option('"prompt_embeds": "gASVAAAA"'), "unknown option")


def test_nothing_of_the_server_unpickles() -> None:
    source = Path(chat.__file__).parents[1]
    assert (source / "generate.py").exists()
    for file in source.rglob("*.py"):
        for word in ("import pickle", "pickle.", "torch.load", "marshal", "eval(", "exec("):
            assert word not in file.read_text().replace(".eval()", ""), (file, word)


# PYSEC-2026-2303: faults of a request never reach the engine's assertions; `test_server.py` has a step that fails.
def test_a_request_that_no_block_can_hold_is_refused_before_the_engine(server: Running) -> None:
    steps, asked = server.engine.step, list[int]()
    server.engine.step = lambda: (asked.append(1), steps())[1]  # type: ignore[method-assign]
    try:
        status, content = server.post(messages=[{"role": "user", "content": "two " * 100_000}])
        assert (status, "more than the" in content["error"]["message"]) == (400, True)
        assert asked == []
    finally:
        server.engine.step = steps  # type: ignore[method-assign]


# CVE-2026-105754, PYSEC-2026-4353: what comes from another stage; tests named after them are in
# `test_disaggregated.py`, and `test_transport.py` has those of the connection.


# PYSEC-2026-4344: templates of the client's.
@pytest.mark.parametrize(
    "option",
    ['"chat_template": "{% for i in range(10**9) %}{% endfor %}"', '"chat_template_kwargs": {"a": 1}',
     '"add_generation_prompt": false', '"continue_final_message": true', '"documents": []'],
)  # fmt: skip
def test_templates_are_the_servers(server: Running, option: str) -> None:
    refused(server, with_option(option), "unknown option")


def test_templates_in_text_are_text(server: Running) -> None:
    text = "{{ 7 * 7 }}{% for i in range(10**9) %}x{% endfor %}"
    status, content = server.post(messages=[{"role": "user", "content": text}], max_tokens=1)
    assert status == 200
    assert content["usage"]["prompt_tokens"] == len(server.engine.processor.encode([user(text)], [], generate=True))


# CVE-2026-105757: grammars that cannot be compiled.
@pytest.mark.parametrize(
    "option",
    ['"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/nowhere"}}}',
     '"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wizard"}}}',
     '"structured_outputs": {"regex": "(((("}',
     '"structured_outputs": {"choice": []}', '"structured_outputs": {"grammar": "root ::= root"}'],
)  # fmt: skip
def test_grammars_that_cannot_be_compiled_are_refused(server: Running, option: str) -> None:
    refused(server, with_option(option))


# What vLLM's defaults let through, as measured: keys that guard some prefixes only, routes that change the server.
@pytest.mark.parametrize(
    "path",
    ["/invocations", "/tokenize", "/pause", "/update_weights", "/v1/load_lora_adapter", "/metrics", "//v1/models"],
)
def test_no_route_is_open_beside_health(server: Running, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
        assert server.ask(method, path, key=None)[0] == 401
    assert server.ask("GET", path)[0] in ((200,) if path == "/metrics" else (404,))


def test_embeddings_are_refused_by_name(server: Running) -> None:
    status, content, _ = server.ask("POST", "/v1/embeddings", b'{"model": "tiny", "input": "x"}')
    assert (status, content["error"]["message"]) == (400, "this model gives no embeddings")


@pytest.mark.parametrize(
    "option", ['"tools": []', '"tool_choice": "none"', '"functions": []', '"modalities": ["text"]', '"audio": {}',
               '"logit_bias": {"1": 1}', '"prediction": {}', '"best_of": 2', '"echo": true'],
)  # fmt: skip
def test_options_that_nothing_reads_are_refused_by_name(server: Running, option: str) -> None:
    assert refused(server, with_option(option)).startswith(option.split('"')[1])


# Bodies.
@pytest.mark.parametrize("role", ["tool", "function", "developer", "SYSTEM", "", "user\u0000"])
def test_roles_that_nobody_has(server: Running, role: str) -> None:
    body = {"model": "tiny", "messages": [{"role": role, "content": "x"}]}
    refused(server, json.dumps(body).encode(), "messages.0.role")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1", '"1e9"', "[]", "9" * 5000])
@pytest.mark.parametrize("option", ["temperature", "top_p", "presence_penalty", "n", "max_tokens"])
def test_numbers_that_are_none(server: Running, option: str, number: str) -> None:
    if (option, number) != ("presence_penalty", "-1"):
        refused(server, with_option(f'"{option}": {number}'))


@pytest.mark.parametrize("text", ["\\ud800", "\\udfff\\ud800", "\\ud83dx"])
def test_half_characters(server: Running, text: str) -> None:
    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "' + text.encode() + b'"}]}'
    refused(server, body)


def test_texts_of_ten_megabytes(server: Running) -> None:
    for text in ("word " * 2_000_000, "\U0001f600" * 2_500_000, ", " * 5_000_000, '\\"' * 3_000_000):
        body = {"model": "tiny", "messages": [{"role": "user", "content": text}]}
        refused(server, json.dumps(body, ensure_ascii=False).encode(), "messages")


@pytest.mark.slow
def test_long_conversations_of_texts_that_are_not_too_long(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty texts within the limit of one are refused before any of them is tokenized."""
    tokenized: list[int] = []

    def tokenize(processor: Processor, text: str) -> list[int]:
        tokenized.append(len(text))
        return [5] * len(text[:50])

    monkeypatch.setattr(Processor, "tokenize", tokenize)
    text = "a" * 999_000
    parts = [{"type": "text", "text": text}] * 15
    for messages in ([{"role": "user", "content": text}] * 30, [{"role": "user", "content": parts}] * 2):
        said = refused(server, json.dumps({"model": "tiny", "messages": messages}).encode(), "messages")
        assert "more than the" in said
    assert max(tokenized) < 100


@pytest.mark.parametrize(
    "body",
    [b"[" * 1_000_000, b'{"messages":' * 100_000, b'{"model":"tiny","messages":' + b"[" * 15_000 + b"]" * 15_000 + b"}",
     with_option('"metadata": ' + '{"a":' * 15_000 + "1" + "}" * 15_000)],
    ids=["open", "objects", "closed", "option"],
)  # fmt: skip
def test_deep_nesting(server: Running, body: bytes) -> None:
    refused(server, body)


def test_bodies_of_a_million_faults_are_refused_before_each_is_told(server: Running) -> None:
    message = b'{"role": "user", "content": [' + b",".join([b"{}"] * 999) + b"]}"
    many = b'{"model": "tiny", "messages": [' + b",".join([message] * 999) + b"]}"
    refused(server, many, "at most 20000 values")
    options = b",".join(b'"k%d": 1' % number for number in range(10**6))
    refused(server, b'{"model": "tiny", ' + options + b"}", "at most 20000 values")
    refused(server, b'["' + b'""' * 10**6 + b"," * 20_001, "at most 20000 values")
    at_most = b",".join(b'"k%d": 1' % number for number in range(bodies.MAX_VALUES - 10))
    refused(server, b'{"model": "tiny", ' + at_most + b"}", "unknown option", "messages")
    assert (
        server.post(messages=[{"role": "user", "content": "a, b " * 50}], user="[{," * 20_000, max_tokens=1)[0] == 200
    )


def test_of_equal_keys_the_last_counts(server: Running) -> None:
    body = b'{"model": "other", "model": "tiny", "max_tokens": 9, "messages": [], "messages": ['
    body += b'{"role": "wizard", "role": "user", "content": "x"}], "max_tokens": 1}'
    status, content, _ = server.ask("POST", "/v1/chat/completions", body)
    assert status == 200
    assert content["usage"]["completion_tokens"] == 1


def test_nothing_a_client_sent_is_repeated(server: Running) -> None:
    secret = "<script>s3cret</script>"
    for body in (
        {"model": secret, "messages": ONE},
        {"model": "tiny", "messages": ONE, secret: 1},
        {"model": "tiny", "messages": ONE, "metadata": {secret: 1}},
        {"model": "tiny", "messages": [{"role": secret, "content": secret}]},
        {"model": "tiny", "messages": ONE, "temperature": secret},
        {"model": "tiny", "messages": words(secret, f"data:image/png;base64,{secret}")},
        {"model": "tiny", "messages": words("x", secret)},
    ):
        _, content, headers = server.ask("POST", "/v1/chat/completions", json.dumps(body).encode())
        assert set(content) == {"error"}
        assert "s3cret" not in json.dumps(content) + json.dumps(headers)
    assert "s3cret" not in json.dumps(server.ask("GET", f"/{secret.replace(' ', '')}")[1])


def test_pictures_with_much_beside_their_pixels(server: Running) -> None:
    large = saved(picture(1), "PNG") + b"\0" * 10_000_000  # after its end
    import base64

    address = f"data:image/png;base64,{base64.b64encode(large).decode()}"
    assert server.post(messages=words("x", address), max_tokens=1)[0] == 200
