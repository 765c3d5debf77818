"""Adapters chosen by request: each answers as its merged model does, whatever is beside it, and nothing mixes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_disaggregated import answers, tokens
from test_generate import mixed_requests
from test_server import Running, words

from open4ov.engine import Completion, Engine, Request
from open4ov.engine.disaggregated.decode import Decode
from open4ov.engine.disaggregated.stages import PrefillPolicy
from open4ov.engine.disaggregated.threads import Prefill
from open4ov.engine.quantize import QuantisedLinear, load
from open4ov.engine.service import Service
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, lora
from open4ov.model.checkpoint import hf_name
from open4ov.sample import user

LONG = "What colour is the circle? How many squares are there? " * 3


def write(directory: Path, path: Path, seed: int, rank: int = 3, targets: tuple[str, ...] = lora.LINEAR) -> Path:
    """An adapter that changes answers."""
    model = Qwen3VL.from_pretrained(directory)
    generator = torch.Generator().manual_seed(seed)
    for parameter in lora.add(model, rank, alpha=5, targets=targets, seed=seed):
        parameter.data += 0.15 * torch.randn(parameter.shape, generator=generator)
    lora.save(model, path)
    return path


@pytest.fixture(scope="module")
def files(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "all": write(tiny_dir, folder / "all.safetensors", 1),
        "some": write(tiny_dir, folder / "some.safetensors", 2, rank=5, targets=("q", "v", "down")),
    }


@pytest.fixture(scope="module")
def processor(tiny_dir: Path) -> Processor:
    return Processor.from_pretrained(tiny_dir)


def engine(
    directory: Path, processor: Processor, files: dict[str, Path], kind: str | None = None, **options: Any
) -> Engine:
    made = Engine(load(directory, kind), processor, **options)
    for name, path in files.items():
        made.adapters.add(name, path)
    return made


def asked(files: dict[str, Path]) -> list[Request]:
    names = ["", *files]
    return [replace(one, adapter=names[place % 3]) for place, one in enumerate(mixed_requests(top_log_probs=2) * 2)]


def alike(found: list[list[Completion]], wanted: list[list[Completion]]) -> None:
    for (one,), (other,) in zip(found, wanted, strict=True):
        assert one.token_ids == other.token_ids
        torch.testing.assert_close(torch.tensor(one.log_probs), torch.tensor(other.log_probs), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("options", [{}, {"max_batch": 3, "step_tokens": 16}], ids=["whole", "pieces"])
def test_each_answers_as_its_merged_model(
    tiny_dir: Path, processor: Processor, files: dict[str, Path], options: dict[str, Any]
) -> None:
    """Twenty conversations of three models in one batch; the oracle has the adapter's product in its weights."""
    requests = asked(files)
    found = engine(tiny_dir, processor, files, **options).generate(requests)
    seen = set[str]()
    for name in ("", *files):
        own = [place for place, one in enumerate(requests) if one.adapter == name]
        merged = Engine(load(tiny_dir, adapter=files.get(name)), processor)
        alike([found[place] for place in own], merged.generate([replace(requests[place], adapter="") for place in own]))
        seen.add(merged.generate([Request(mixed_requests()[0].messages, max_tokens=12)])[0][0].text)
    assert len(seen) == 3  # the adapters do change answers


def test_what_was_computed_with_one_is_not_found_with_another(
    tiny_dir: Path, processor: Processor, files: dict[str, Path], tmp_path: Path
) -> None:
    held = engine(tiny_dir, processor, files)
    one = replace(mixed_requests()[1], max_tokens=6)
    for name, again in (("", False), ("all", False), ("some", False), ("all", True)):
        before = held.scheduler.found_tokens
        fresh = engine(tiny_dir, processor, files).generate([replace(one, adapter=name)])
        alike(held.generate([replace(one, adapter=name)]), fresh)
        assert (held.scheduler.found_tokens > before) == again
    held.adapters.add("all", write(tiny_dir, tmp_path / "other.safetensors", 9))  # the same name, other weights
    found = held.scheduler.found_tokens
    wanted = Engine(load(tiny_dir, adapter=tmp_path / "other.safetensors"), processor).generate([one])
    alike(held.generate([replace(one, adapter="all")]), wanted)
    assert held.scheduler.found_tokens == found


def test_beside_quantised_weights(tiny_dir: Path, processor: Processor, files: dict[str, Path]) -> None:
    """One adapted layer, by hand: the quantised product and the adapter's, which is not rounded."""
    held = engine(tiny_dir, processor, files, kind="int8")
    layer = cast(QuantisedLinear, held.model.get_submodule("text.layers.0.attention.q"))
    x = torch.randn(5, layer.in_features)
    plain = layer(x)
    state = load_file(files["all"])
    a, b = (state[f"text.layers.0.attention.q.{part}"] for part in ("lora_a", "lora_b"))
    adapter = held.adapters.get("all")
    with held.adapters.used([(None, 2), (adapter, 3)]):
        found = layer(x)
    torch.testing.assert_close(found[:2], plain[:2])
    torch.testing.assert_close(found[2:], plain[2:] + x[2:] @ a.T @ b.T * (5 / 3), atol=1e-4, rtol=1e-4)
    assert held.generate([replace(mixed_requests()[0], adapter="all")])


def test_prompts_with_one_are_not_computed_by_stages(
    tiny_dir: Path, processor: Processor, files: dict[str, Path]
) -> None:
    """A prefill stage has the model alone: what it computed would be another model's."""
    requests = [replace(one, adapter=("all", "")[place % 2]) for place, one in enumerate(mixed_requests())]
    held = engine(tiny_dir, processor, files)
    stage = Prefill(load(tiny_dir), processor, PrefillPolicy(chunk=40, rows=4), watch=False)
    decode = Decode(held, prefill=stage)
    service = Service(held, decode=decode)
    try:
        found = tokens(answers(service, requests))
    finally:
        service.stop()
        decode.close()
        stage.stop()
    wanted = engine(tiny_dir, processor, files).generate(requests)
    assert found == [[one.token_ids for one in each] for each in wanted]
    assert 0 < decode.metrics.value("stage_answers", stage="prefill") <= len(requests) / 2


@pytest.mark.parametrize("root", [False, True])
def test_a_folder_of_peft(
    tiny_dir: Path, processor: Processor, files: dict[str, Path], tmp_path: Path, root: bool
) -> None:
    """The same adapter under PEFT's names: scale alpha / r, or alpha / sqrt(r)."""
    state = load_file(files["all"])
    parts = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
    theirs = {}
    for name, tensor in state.items():
        layer, _, part = name.rpartition(".")
        theirs[f"base_model.model.{hf_name(layer + '.weight').removesuffix('weight')}{parts[part]}"] = tensor
    assert "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight" in theirs
    save_file(theirs, tmp_path / "adapter_model.safetensors")
    alpha = 5 / math.sqrt(3) if root else 5
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": alpha, "use_rslora": root, "bias": "none"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    requests = [replace(one, adapter="all") for one in mixed_requests()]
    wanted = engine(tiny_dir, processor, files).generate(requests)
    alike(engine(tiny_dir, processor, {"all": tmp_path}).generate(requests), wanted)
    merged = Engine(load(tiny_dir, adapter=tmp_path), processor)
    alike(merged.generate([replace(one, adapter="") for one in requests]), wanted)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("peft_type", "IA3", "only LORA is read"),
        ("use_dora", True, "use_dora is not read"),
        ("bias", "all", "bias must be none"),
        ("lora_alpha", None, "lora_alpha must be a number"),
        ("alpha_pattern", {"q_proj": 3}, "alpha_pattern is not read"),
    ],
)
def test_what_peft_has_and_we_have_not(tiny_dir: Path, tmp_path: Path, setting: str, value: object, said: str) -> None:
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 5, setting: value}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=said):
        lora.read(Qwen3VL.from_pretrained(tiny_dir), tmp_path)


def test_what_does_not_fit_is_refused(
    tiny_dir: Path, processor: Processor, files: dict[str, Path], tmp_path: Path
) -> None:
    held = engine(tiny_dir, processor, files)
    with pytest.raises(UserError, match="there is no adapter 'al'; did you mean 'all'"):
        held.add(Request(mixed_requests()[0].messages, adapter="al"))
    state = load_file(files["all"])
    short = {
        name: tensor[:, :-1].contiguous() if name.endswith("q.lora_a") else tensor for name, tensor in state.items()
    }
    save_file(short, tmp_path / "short.safetensors", metadata={"scale": "1"})
    with pytest.raises(UserError, match=r"short.safetensors: is for another model: text.layers.0.attention.q takes"):
        held.adapters.add("short", tmp_path / "short.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 3, "lora_alpha": 5}))
    save_file(
        {"base_model.model.model.visual.x.lora_A.weight": torch.ones(3, 4)}, tmp_path / "adapter_model.safetensors"
    )
    with pytest.raises(UserError, match="belongs to no linear layer of this model's decoder"):
        held.adapters.add("vision", tmp_path)
    assert held.adapters.names == ["all", "some"]


class Adapted(Running):
    """A server whose model has adapters."""

    def __init__(self, directory: Path, files: dict[str, Path]) -> None:
        self.files = files
        super().__init__(directory)

    def serve(self, queue: int) -> Service:
        for name, path in self.files.items():
            self.engine.adapters.add(name, path)
        return super().serve(queue)


def test_over_http_the_model_names_the_adapter(tiny_dir: Path, processor: Processor, files: dict[str, Path]) -> None:
    running = Adapted(tiny_dir, files)
    try:
        listed = running.client.models.list().data
        parents = [(one.id, getattr(one, "parent", None)) for one in listed]
        assert parents == [("tiny", None), ("all", "tiny"), ("some", "tiny")]
        texts = list[str]()
        for name in ("tiny", "all", "some"):
            told = running.client.chat.completions.create(model=name, messages=words(LONG), max_tokens=9, temperature=0)  # pyright: ignore[reportCallIssue, reportArgumentType]
            asked = Request([user(LONG)], max_tokens=9, adapter="" if name == "tiny" else name)
            wanted = engine(tiny_dir, processor, files).generate([asked])[0][0].text
            assert (told.model, told.choices[0].message.content) == (name, wanted)
            texts.append(wanted)
            opened = running.ask(
                "POST", "/v1/sessions", json.dumps({"model": name, "temperature": 0, "max_tokens": 9}).encode()
            )
            path = f"/v1/sessions/{opened[1]['id']}"
            assert running.ask("POST", f"{path}/text", json.dumps({"append": LONG}).encode())[0] == 200
            status, answer, _ = running.ask("POST", f"{path}/commit", b"{}")
            assert (status, answer["model"], answer["choices"][0]["message"]["content"]) == (200, name, wanted)
        assert len(set(texts)) == 3
        status, content, _ = running.ask(
            "POST", "/v1/chat/completions", json.dumps({"model": "al", "messages": words("x")}).encode()
        )
        assert status == 404
        assert "there is 'tiny', 'all', 'some'" in content["error"]["message"]
    finally:
        running.close()
