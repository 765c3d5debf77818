"""Our own server of rollouts over real sockets: what it answers, which weights it takes, and what it refuses."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_server import url, wait
from tiny import moe_config, tiny_config, tiny_tokenizer

from open4ov.engine import Engine, Request, quantize, vllm_sync
from open4ov.engine.degeneration import Degeneration
from open4ov.engine.half import products
from open4ov.engine.rollouts import folders
from open4ov.engine.rollouts.app import create_app
from open4ov.engine.service import Service
from open4ov.engine.serving import listen
from open4ov.model import Processor, Qwen3VL, make_tokenizer_files
from open4ov.sample import user

KEY = "rollout-key"
RED = Image.new("RGB", (64, 96), (200, 30, 40))


class Running:
    """A server on a free port, in threads of this process."""

    def __init__(self, directory: Path, folders: list[Path], half: torch.dtype | None = None) -> None:
        self.processor = Processor.from_pretrained(directory)
        self.engine = Engine(quantize.load(directory, half=half), self.processor, autocast=half, watch=False)
        self.service = Service(self.engine)
        self.server = listen.server(create_app(self.service, folders, [KEY]), "127.0.0.1", 0)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def ask(self, method: str, path: str, body: object = None, key: str | None = KEY) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text[:1] in b"{[" else text.decode()

    def load(self, path: object) -> tuple[int, Any]:
        return self.ask("POST", "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(path)}})

    def generate(self, request: Request, **changes: object) -> tuple[int, Any]:
        return self.ask("POST", "/inference/v1/generate", body(self.processor, request, **changes))

    @property
    def version(self) -> str:
        return self.ask("GET", "/weight_info")[1]["weight_version"]

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.service.stop()


def body(processor: Processor, request: Request, **changes: object) -> dict[str, Any]:
    document = processor.encode(request.messages, request.images, generate=True, pixels=False)
    ids: list[int] = document.input_ids.tolist()
    short = [t for place, t in enumerate(ids) if t != processor.image_id or ids[place - 1] != t]
    sampling = {
        "n": request.n,
        "first": request.first,
        "seed": request.seed,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "ignore_eos": True,
        "stop_token_ids": [] if request.ignore_eos else [processor.eos_id],
        "logprobs": request.top_log_probs,
        "prompt_logprobs": 0 if request.prompt_log_probs else None,
        "degeneration": asdict(request.degeneration) if request.degeneration else None,
    }
    parts = [{"type": "image_url", "url": url(image)} for image in request.images]
    return {"token_ids": short, "sampling_params": {**sampling, **changes}, "content_parts": parts}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def server(tiny_dir: Path, weights: Path) -> Iterator[Running]:
    running = Running(tiny_dir, [weights])
    yield running
    running.close()


def save(directory: Path, folder: Path, seed: int, dtype: torch.dtype = torch.float32) -> Qwen3VL:
    """Other weights of the same shape, as a trainer writes them."""
    processor = Processor.from_pretrained(directory)
    model = Qwen3VL(Qwen3VL.from_pretrained(directory).config, seed=seed)
    vllm_sync.save_untied(model, processor, folder, dtype)
    return model


PICTURED = Request([user("how many?", 1)], [RED], max_tokens=8, temperature=1.0, n=3, seed=4)
NOISE = Degeneration(window=8, surprise=0.1)  # random weights give no loops; they count as noise soon


@pytest.mark.parametrize(
    "request_",
    [
        PICTURED,
        replace(PICTURED, temperature=0.0, n=1),
        replace(PICTURED, first=2, n=1),
        replace(PICTURED, max_tokens=60, n=4, ignore_eos=True, temperature=0.3, degeneration=NOISE),
        Request([user("1 + 1 =")], max_tokens=1, prompt_log_probs=True, top_log_probs=3),
    ],
)
def test_it_answers_what_the_engine_does(server: Running, request_: Request) -> None:
    status, found = server.generate(request_)
    assert status == 200, found
    model = Qwen3VL(server.engine.model.config)
    model.load_state_dict(server.engine.model.state_dict())
    ((*wanted,),) = Engine(model, server.processor).generate([request_])
    assert [one["token_ids"] for one in found["choices"]] == [one.token_ids for one in wanted]
    assert [one["finish_reason"] for one in found["choices"]] == [one.finish_reason for one in wanted]
    if request_.degeneration:
        assert {one.finish_reason for one in wanted} == {"garbled"}, "the test is to see one"
    document = server.processor.encode(request_.messages, request_.images, generate=True, pixels=False)
    assert found["prompt_token_ids"] == document.input_ids.tolist()
    for choice, one in zip(found["choices"], wanted, strict=True):
        content = choice["logprobs"]["content"]
        assert [at["logprob"] for at in content] == pytest.approx(one.log_probs, abs=1e-4)
        assert [len(at["top_logprobs"]) for at in content] == [request_.top_log_probs] * len(content)
    scores = [next(iter(at.values()))["logprob"] for at in (found["prompt_logprobs"] or [])[1:]]
    assert scores == pytest.approx(wanted[0].prompt_log_probs, abs=1e-4)


def test_new_weights_are_answered_by_under_their_own_name(server: Running, tiny_dir: Path, weights: Path) -> None:
    model = save(tiny_dir, weights / "a", 8)
    before = server.generate(PICTURED)[1]
    assert server.load(weights / "a") == (200, {"results": [None]})
    assert server.version == "", "they have no name yet"
    assert {span["version"] for one in server.generate(PICTURED)[1]["choices"] for span in one["weight_versions"]} == {
        ""
    }
    assert server.ask("POST", "/update_weight_version", {"new_version": "seven"})[0] == 200
    assert server.version == "seven"
    found = server.generate(PICTURED)[1]
    assert {span["version"] for one in found["choices"] for span in one["weight_versions"]} == {"seven"}
    ((*wanted,),) = Engine(model, server.processor).generate([PICTURED])
    assert [one["token_ids"] for one in found["choices"]] == [one.token_ids for one in wanted]
    assert found["choices"] != before["choices"]
    for path in ("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"):
        assert server.ask("POST", path, {}) == (200, {"success": True})


def test_what_is_under_way_is_given_up_when_weights_change(server: Running, tiny_dir: Path, weights: Path) -> None:
    """None of its answers is half by these and half by those."""
    save(tiny_dir, weights / "a", 9)
    long = replace(PICTURED, max_tokens=2000, ignore_eos=True, n=1)
    told: list[tuple[int, Any]] = []
    asking = threading.Thread(target=lambda: told.append(server.generate(long)))
    asking.start()
    wait(lambda: server.engine.scheduler.running)
    assert server.load(weights / "a")[0] == 200
    asking.join(30)
    assert told[0][0] == 500
    assert server.generate(PICTURED)[0] == 200


def test_every_route_but_one_wants_the_key(server: Running) -> None:
    assert server.ask("GET", "/health", key=None) == (200, "ok\n")
    for key in (None, "wrong"):
        assert server.ask("GET", "/weight_info", key=key)[0] == 401
        for path in ("/collective_rpc", "/update_weight_version", "/inference/v1/generate", "/reset_mm_cache"):
            assert server.ask("POST", path, {}, key=key)[0] == 401
    assert server.ask("GET", "/v1/models")[0] == 404


def test_only_the_folders_on_its_command_line_are_read(
    server: Running, tiny_dir: Path, weights: Path, tmp_path: Path
) -> None:
    """Whatever links there are, and whatever an index names."""
    version = server.engine.weight_version
    save(tiny_dir, tmp_path / "out", 3)
    (weights / "link").symlink_to(tmp_path / "out")
    inside = weights / "inside"
    inside.mkdir()
    (inside / "config.json").write_bytes((tmp_path / "out" / "config.json").read_bytes())
    (inside / "model.safetensors").symlink_to(tmp_path / "out" / "model.safetensors")
    indexed = weights / "indexed"
    save(tiny_dir, indexed, 3)
    (tmp_path / "out" / "stolen.safetensors").write_bytes((indexed / "model.safetensors").read_bytes())
    names = dict.fromkeys(Qwen3VL.from_pretrained(indexed).state_dict(), f"{tmp_path}/out/stolen.safetensors")
    (indexed / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    said = set[str]()
    for path in (tmp_path / "out", weights / "link", inside, f"{weights}/../{tmp_path.name}", "/etc", weights / "none"):
        status, found = server.load(path)
        assert status == 400, path
        said.add(found["error"]["message"])
    assert said == {"no folder of weights in those that this server reads (--folder)"}, "nothing is told apart"
    status, found = server.load(indexed)
    assert (status, found["error"]["message"]) == (400, "the weights' index names files outside its folder")
    assert server.engine.weight_version == version, "nothing has changed"


@pytest.mark.parametrize(
    ("config", "written"), [(tiny_config, torch.float32), (tiny_config, torch.bfloat16), (moe_config, torch.float32)]
)
def test_in_half_precision_no_weight_is_held_in_more_than_it_is_computed_in(
    tiny_dir: Path, tmp_path: Path, config: Any, written: torch.dtype
) -> None:
    """Those that come are not copied before they are taken; and the answers are those of weights in float32, before
    and after an update."""
    half, first, folder = torch.bfloat16, tmp_path / "first", tmp_path / "later"
    processor = Processor.from_pretrained(tiny_dir)
    Qwen3VL(config(processor), seed=1).save_pretrained(first)
    processor.save_pretrained(first)
    save(first, folder, 5, written)
    running = Running(first, [folder], half)
    try:
        model = running.engine.model
        kinds = {name: half if name in products(model) else torch.float32 for name in model.state_dict()}
        assert half in kinds.values()
        for directory in (first, folder):
            assert {name: value.dtype for name, value in model.state_dict().items()} == kinds
            plain = Engine(Qwen3VL.from_pretrained(directory), running.processor, autocast=half)
            (expected,) = plain.generate([PICTURED])
            status, found = running.generate(PICTURED)
            assert status == 200, found
            assert [one["token_ids"] for one in found["choices"]] == [one.token_ids for one in expected]
            for choice, one in zip(found["choices"], expected, strict=True):
                assert [each["logprob"] for each in choice["logprobs"]["content"]] == one.log_probs
            assert running.load(folder)[0] == 200
        state = folders.read(folder, model.config)
        maps = mapped(folder / "model.safetensors")
        assert all(any(first <= value.data_ptr() < end for first, end in maps) for value in state.values())
        assert not any(first <= value.data_ptr() < end for first, end in maps for value in model.state_dict().values())
    finally:
        running.close()


def mapped(file: Path) -> list[tuple[int, int]]:
    """Where a file lies in this process's memory."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    borders = [tuple(int(one, 16) for one in line[0].split("-")) for line in lines]
    return [(first, end) for first, end in borders]


def test_weights_of_another_model_are_refused(server: Running, weights: Path, tmp_path: Path) -> None:
    version = server.engine.weight_version
    processor = make_tokenizer_files(tmp_path, tiny_tokenizer())
    config = tiny_config(processor)
    other = replace(config, text=replace(config.text, rope_theta=77.0))
    vllm_sync.save_untied(Qwen3VL(other), processor, weights / "other", torch.float32)
    status, found = server.load(weights / "other")
    assert status == 400
    assert found["error"]["message"] == "the weights are of another model than this server's: text.rope_theta differ"
    untied = Qwen3VL(replace(config, tie_word_embeddings=False), seed=1)
    untied.save_pretrained(weights / "untied")
    assert "a head of their own" in server.load(weights / "untied")[1]["error"]["message"]
    (weights / "other" / "model.safetensors").write_bytes(b"junk")
    assert "cannot be read" in server.load(weights / "other")[1]["error"]["message"]
    assert server.engine.weight_version == version, "nothing has changed"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"top": 1}, "sampling_params.top: unknown option"),
        ({"ignore_eos": False}, "sampling_params.ignore_eos"),
        ({"stop_token_ids": [3]}, "the closing token is"),
        ({"n": 0}, "sampling_params.n"),
        ({"max_tokens": 10**6}, "beyond the model's"),
        ({"stop": [""]}, "an empty stop string"),
        ({"temperature": -1}, "sampling_params.temperature"),
    ],
)
def test_options_that_are_not_read_or_cannot_be_are_refused(
    server: Running, changes: dict[str, Any], said: str
) -> None:
    status, found = server.generate(PICTURED, **changes)
    assert status == 400
    assert said in found["error"]["message"]


def test_prompts_that_are_none_are_refused(server: Running) -> None:
    whole = body(server.processor, PICTURED)
    special = server.processor.special
    for ids, said in (
        ([], "token_ids"),
        ([10**6], "the model has"),
        ([-1], "token_ids.0"),
        ([5, 6], "0 placeholders of pictures in the prompt, and 1 pictures"),
        ([5, special["<|image_pad|>"], 6], "a picture stands between"),
        ([special["<|video_pad|>"]], "no video"),
    ):
        status, found = server.ask("POST", "/inference/v1/generate", {**whole, "token_ids": ids})
        assert status == 400
        assert said in found["error"]["message"]
    for address in ("http://127.0.0.1/x.png", "file:///etc/passwd", "data:image/png;base64,AAAA"):
        parts = [{"type": "image_url", "url": address}]
        assert server.ask("POST", "/inference/v1/generate", {**whole, "content_parts": parts})[0] == 400
    for method in ("save_weights", "apply_model"):
        asked = {"method": method, "kwargs": {"weights_path": "/"}}
        assert server.ask("POST", "/collective_rpc", asked)[0] == 400
