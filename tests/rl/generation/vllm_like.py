"""A real HTTP server that speaks what `Servers` uses of vLLM 0.32's, answers by our engine, and can die.

It begins with the weights of a folder, as a vLLM that was started anew would, and takes others from a path that it is
told. `dies_at`: at so many requests for tokens, connections are cut and nobody listens any more.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from open4ov.engine import Completion, Engine, Request
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import user


class Like:
    """The server. `served`: requests for tokens that were answered; `loads`: how often weights were read; `keys`: what
    clients authorised themselves by. `without`: paths that it does not know; `raw`: gives log p at temperature 1;
    `stuck`: says that it has new weights, and keeps its own."""

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        dies_at: int | None = None,
        without: tuple[str, ...] = (),
        raw: bool = False,
        stuck: bool = False,
    ) -> None:
        self.dies_at, self.without, self.raw, self.stuck = dies_at, without, raw, stuck
        self.asked = self.served = self.loads = 0
        self.label = "default"
        self.keys: set[str | None] = set()
        self.died = threading.Event()
        self._lock = threading.Lock()
        self._load(folder)
        self._open: set[socket.socket] = set()
        like = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def setup(self) -> None:
                super().setup()
                like._open.add(self.connection)

            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                self._answer(json.loads(self.rfile.read(size) or b"{}"))

            def _answer(self, body: Any) -> None:
                like.keys.add(self.headers.get("authorization"))
                status, found = like.answer(self.path, body)
                if like.died.is_set():
                    self.close_connection = True
                    return
                data = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.died.set()
        self._server.shutdown()
        self._server.server_close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        path = path.partition("?")[0]
        if path in self.without:
            return 404, {"detail": "Not Found"}
        with self._lock:
            if self.died.is_set():
                return 500, None
            if path == "/weight_info":
                return 200, {"weight_version": self.label}
            if path == "/collective_rpc":
                assert body["method"] == "reload_weights"
                if not self.stuck:
                    self._load(Path(body["kwargs"]["weights_path"]))
                self.loads += 1
                return 200, {"results": [None]}
            if path == "/update_weight_version":
                self.label = body["new_version"]
                return 200, {"success": True}
            if path in ("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"):
                return 200, {"success": True}
            assert path == "/inference/v1/generate", path
            self.asked += 1
            if self.dies_at is not None and self.asked >= self.dies_at:
                self.died.set()
                threading.Thread(target=self.close, daemon=True).start()
                return 500, None
            self.served += 1
            return 200, self._generate(body)

    def _load(self, folder: Path) -> None:
        model, self.processor = Qwen3VL.from_pretrained(folder), Processor.from_pretrained(folder)
        self.engine = Engine(model, self.processor)

    def _generate(self, body: dict[str, Any]) -> dict[str, Any]:
        images = [_image(part["url"]) for part in body.get("content_parts", [])]
        whole, found = generated(self.engine, body["token_ids"], images, body["sampling_params"])
        scores = found[0].prompt_log_probs
        temperature = body["sampling_params"]["temperature"]
        return {
            "choices": [self._choice(i, one, temperature) for i, one in enumerate(found)],
            "prompt_token_ids": whole,
            "prompt_logprobs": [None, *({t: {"logprob": v}} for t, v in zip(whole[1:], scores, strict=True))]
            if scores
            else None,
        }

    def _choice(self, index: int, one: Completion, temperature: float) -> dict[str, Any]:
        log_probs = one.log_probs
        if self.raw and temperature:
            log_probs = [value * temperature for value in log_probs]
        spans = [{"version": self.label, "start": 0, "end": len(one.token_ids)}]
        return {
            "index": index,
            "finish_reason": one.finish_reason,
            "token_ids": one.token_ids,
            "weight_versions": spans,
            "logprobs": {
                "content": [
                    {"token_id": t, "logprob": v, "top_logprobs": []}
                    for t, v in zip(one.token_ids, log_probs, strict=True)
                ]
            },
        }


def generated(
    engine: Engine, tokens: list[int], images: list[Image.Image], sampling: dict[str, Any]
) -> tuple[list[int], list[Completion]]:
    """The whole prompt, and the completions of one that comes as tokens with one placeholder for each picture."""
    processor = engine.processor
    words = processor.tokenizer.decode(tokens, skip_special_tokens=False)
    content = words.split("user\n", 1)[1].split("<|im_end|>")[0]
    text = content.replace("<|vision_start|><|image_pad|><|vision_end|>", "")
    request = Request(
        [user(text, len(images))],
        images,
        max_tokens=sampling["max_tokens"],
        temperature=sampling["temperature"],
        top_k=sampling["top_k"],
        top_p=sampling["top_p"],
        n=sampling.get("n", 1),
        seed=sampling["seed"],
        prompt_log_probs=sampling["prompt_logprobs"] is not None,
    )
    whole: list[int] = processor.encode(request.messages, images, generate=True, pixels=False).input_ids.tolist()
    image = processor.image_id
    short = [t for place, t in enumerate(whole) if t != image or whole[place - 1] != image]
    assert short == tokens, "the client's prompt is not what this conversation reads as"
    ((*found,),) = engine.generate([request])
    return whole, found


def _image(url: str) -> Image.Image:
    head, data = url.split(",", 1)
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def shaken(model: Qwen3VL, size: float = 0.05) -> None:
    """Changes the decoder's weights in place, as an update would."""
    with torch.no_grad():
        for index, weight in enumerate(model.text.parameters()):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(index)) * size)


def asking(count: int, picture: Image.Image, **options: Any) -> list[Request]:
    made = Request([user("how many?", 1)], [picture], max_tokens=8, temperature=1.0, n=2)
    plain = Request([user("1 + 1 =")], max_tokens=8, temperature=1.0, n=2)
    return [replace(made if i % 2 else plain, seed=i, **options) for i in range(count)]
