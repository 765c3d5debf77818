"""vLLM beside our engine: plans read by vLLM's own parser, equal answers, and weights that cannot be stale unseen.

Those marked `vllm` start it for real, in the environment that OPEN4OV_VLLM_PYTHON or .venv-vllm names.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_generate import mixed_requests, picture
from test_server import KEY, Running

from open4ov.assets import base_dir
from open4ov.engine import Completion, Engine, Request, vllm_sync
from open4ov.engine.degeneration import Degeneration
from open4ov.engine.grammar import Grammars
from open4ov.engine.vllm import MAPPED, PYTHON, REFUSED, VLLM, find_python
from open4ov.engine.vllm_plan import plan
from open4ov.engine.vllm_sync import WeightsDiffer
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import user

Parts = tuple[Qwen3VL, Processor]


def load(folder: Path) -> Parts:
    return Qwen3VL.from_pretrained(folder), Processor.from_pretrained(folder)


def test_an_untied_checkpoint_is_the_same_model(tiny_dir: Path, tmp_path: Path) -> None:
    model, processor = load(tiny_dir)
    assert model.head is None
    vllm_sync.save_untied(model, processor, tmp_path, torch.float32)
    again = Qwen3VL.from_pretrained(tmp_path)
    assert again.head is not None
    request = Request([user("What?", 1)], [picture(1)])
    ids = [5, 6, 7]
    own = vllm_sync.own_log_probs(model, processor, request, ids)
    assert torch.equal(own, vllm_sync.own_log_probs(again, Processor.from_pretrained(tmp_path), request, ids))


def test_every_field_of_a_request_is_told_to_vllm_or_refused(tiny_dir: Path) -> None:
    assert {field.name for field in fields(Request)} == MAPPED | REFUSED
    assert not MAPPED & REFUSED
    model, processor = load(tiny_dir)
    engine = object.__new__(VLLM)  # without a process: only what would be sent
    engine.model, engine.processor, engine.longest, engine.images = model, processor, 256, 16
    one = Request([user("What?")], max_tokens=4)
    assert engine._wire(replace(one, salt="a tenant's"), {})[1]["salt"] == "a tenant's"
    grammar = Grammars(processor, model.config.text.vocab_size).regex("[ab]")
    for name, value in {"ahead": 3, "grammar": grammar, "adapter": "a"}.items():
        with pytest.raises(UserError, match=f"{name}: not available with vLLM"):
            engine._wire(replace(one, **{name: value}), {})


def answers_of(model: Qwen3VL, processor: Processor) -> list[Completion]:
    return [one for (one,) in Engine(model, processor).generate(vllm_sync.probes(processor))]


def test_answers_of_the_model_itself_pass(tiny_dir: Path) -> None:
    model, processor = load(tiny_dir)
    vllm_sync.check(model, processor, vllm_sync.probes(processor), answers_of(model, processor), 1e-4)


@pytest.mark.parametrize(
    ("part", "named"), [("text.layers.0.mlp.up.weight", "with a text alone"), ("vision.", "with a picture only")]
)
def test_answers_of_older_weights_are_named(tiny_dir: Path, part: str, named: str) -> None:
    model, processor = load(tiny_dir)
    old = answers_of(model, processor)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(part):
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(WeightsDiffer, match=named):
        vllm_sync.check(model, processor, vllm_sync.probes(processor), old, 0.002)


def test_log_probs_of_another_temperature_are_found(tiny_dir: Path) -> None:
    model, processor = load(tiny_dir)
    asked = vllm_sync.probes(processor)
    answers = [one for (one,) in Engine(model, processor).generate([replace(r, temperature=1.0) for r in asked])]
    with pytest.raises(WeightsDiffer, match=r"sampled tokens of the text probe.*while sampling only"):
        vllm_sync.check(model, processor, asked, answers, 0.002)


def test_a_plan_says_only_what_was_asked() -> None:
    (one,) = plan("m")
    assert not {"--quantization", "--max-num-batched-tokens", "--tensor-parallel-size"} & set(one.arguments)
    encode, language = plan("m", encoder_store="/s", fp8=True, tensor_parallel=2)
    assert "--quantization" not in encode.arguments
    assert "--quantization" in language.arguments
    with pytest.raises(UserError, match="tensor_parallel"):
        plan("m", tensor_parallel=0)
    (rollout,) = plan("m", rollout=True)
    assert {"--enable-scale-out", "processed_logprobs"} <= set(rollout.arguments)
    assert rollout.environment["VLLM_SERVER_DEV_MODE"] == "1"
    assert "VLLM_SERVER_DEV_MODE" not in one.environment
    with pytest.raises(UserError, match="--rollout and --encoder-store"):
        plan("m", rollout=True, encoder_store="/s")


def test_a_plan_for_others_wants_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    for host in ("0.0.0.0", "::", "10.0.0.2"):
        with pytest.raises(UserError, match="VLLM_API_KEY"):
            plan("m", host=host)
    for host in ("127.0.0.1", "::1", "localhost"):
        assert plan("m", host=host)
    monkeypatch.setenv("VLLM_API_KEY", "a secret")
    (one,) = plan("m", host="0.0.0.0")
    assert "--host 0.0.0.0" in one.shell()
    assert "a secret" not in one.shell()


def test_without_vllm_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(PYTHON, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"scripts/vllm_venv\.sh"):
        find_python()


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return find_python().absolute()
    except UserError as error:
        pytest.skip(str(error))


PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.model_executor.layers.quantization.compressed_tensors.utils import should_ignore_layer
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
found = []
for arguments in json.load(sys.stdin):
    try:
        args = parser.parse_args(arguments)
    except SystemExit:
        found.append(None)
        continue
    validate_parsed_serve_args(args)
    engine = AsyncEngineArgs.from_cli_args(args)
    transfer, quantized = engine.ec_transfer_config, engine.quantization_config
    fused = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "qkv": ["qkv"]}
    layers = ["visual.blocks.0.attn.qkv", "visual.merger.linear_fc1", "language_model.model.layers.0.mlp.down_proj"]
    kept = quantized and [should_ignore_layer(x, quantized.ignore, fused, use_fnmatch=True) for x in layers]
    found.append({
        "role": transfer and transfer.ec_role, "store": transfer and transfer.ec_connector_extra_config,
        "quantization": engine.quantization, "cache": engine.kv_cache_dtype, "unquantized": kept,
        "step": engine.max_num_batched_tokens, "chunked": engine.enable_chunked_prefill, "port": args.port,
        "parallel": engine.tensor_parallel_size, "encoder": engine.mm_encoder_only, "host": args.host,
        "images": engine.limit_mm_per_prompt, "domains": engine.allowed_media_domains, "length": engine.max_model_len,
    })
json.dump(found, open(sys.argv[1], "w"))
"""


@pytest.mark.vllm
def test_vllms_own_parser_reads_every_plan(python: Path, tmp_path: Path) -> None:
    model = str(base_dir("nano"))
    plans = [
        *plan(model),
        *plan(model, fp8=True, step_tokens=4096, max_length=2048, tensor_parallel=4),
        *plan(model, encoder_store=tmp_path, step_tokens=512, port=9000),
    ]
    lines = [*(one.arguments for one in plans), ["--model", model, "--no-such-flag", "1"]]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | plans[0].environment
    subprocess.run(
        [python, "-c", PARSE, tmp_path / "found"], input=json.dumps(lines).encode(), env=environment, check=True
    )
    single, large, encode, language, invented = json.loads((tmp_path / "found").read_text())
    assert invented is None
    for one in (single, large, encode, language):
        assert (one["host"], one["domains"]) == ("127.0.0.1", ["none.invalid"])
        assert one["images"] == {"image": 16, "video": 0}
    assert (large["quantization"], large["cache"]) == ("fp8_per_channel", "fp8")
    assert large["unquantized"] == [True, True, False]
    assert (large["step"], large["chunked"], large["length"], large["parallel"]) == (4096, True, 2048, 4)
    assert (encode["role"], encode["encoder"], encode["port"]) == ("ec_producer", True, 9000)
    assert (language["role"], language["encoder"], language["port"]) == ("ec_consumer", False, 9001)
    assert encode["store"] == language["store"] == {"shared_storage_path": str(tmp_path)}
    assert (language["step"], encode["quantization"], single["quantization"]) == (512, None, None)


@pytest.fixture(scope="module")
def engine(python: Path) -> Iterator[VLLM]:
    with VLLM(*load(base_dir("nano")), python, max_length=512, images=2) as running:
        yield running


def near(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and torch.allclose(torch.tensor(a), torch.tensor(b), atol=1e-3)


@pytest.mark.vllm
def test_greedy_equals_our_engine(engine: VLLM) -> None:
    requests = mixed_requests(prompt_log_probs=True, top_log_probs=3)
    seen: list[tuple[int, int]] = []
    theirs = engine.generate(requests, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)
    for (own,), (other,) in zip(Engine(engine.model, engine.processor).generate(requests), theirs, strict=True):
        assert (own.token_ids, own.text, own.finish_reason) == (other.token_ids, other.text, other.finish_reason)
        assert near(own.log_probs, other.log_probs)
        assert near(own.prompt_log_probs, other.prompt_log_probs)
        for ours, others in zip(own.top_log_probs, other.top_log_probs, strict=True):
            assert near([value for _, value in ours], [value for _, value in others])


@pytest.mark.vllm
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.6, "top_p": 0.8, "top_k": 20, "min_p": 0.01},
        {"temperature": 1.3, "repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.3},
        {"temperature": 0.0, "repetition_penalty": 1.2},
    ],
)
def test_log_probs_are_the_models_own(engine: VLLM, options: dict[str, Any]) -> None:
    """Whatever is taken off for sampling, log p is the model's at that temperature; requests of others beside it."""
    requests = [*mixed_requests(n=2, **options), *mixed_requests(temperature=0.9)]
    for request, completions in zip(requests, engine.generate(requests), strict=True):
        for one in completions:
            own = vllm_sync.own_log_probs(engine.model, engine.processor, request, one.token_ids)
            assert near(own[-len(one.token_ids) :].tolist(), one.log_probs)


@pytest.mark.vllm
def test_seeds_give_the_same_again_and_completions_differ(engine: VLLM) -> None:
    request = Request([user("Describe it.", 1)], [picture(2)], max_tokens=24, temperature=1.5, n=4, seed=3)
    (first,), (again, *_) = engine.generate([request]), engine.generate([request, *mixed_requests()])
    assert [one.token_ids for one in first] == [one.token_ids for one in again]
    assert len({tuple(one.token_ids) for one in first}) > 1
    (other,) = engine.generate([replace(request, seed=4)])
    assert not {tuple(one.token_ids) for one in first} & {tuple(one.token_ids) for one in other}


@pytest.mark.vllm
def test_with_ignore_eos_the_closing_token_does_not_finish(engine: VLLM) -> None:
    requests = [replace(request, ignore_eos=True, max_tokens=20) for request in mixed_requests()]
    own, other = Engine(engine.model, engine.processor).generate(requests), engine.generate(requests)
    assert any(engine.processor.eos_id in one.token_ids[:-1] for (one,) in own)
    assert [one.token_ids for (one,) in own] == [one.token_ids for (one,) in other]
    assert {one.finish_reason for (one,) in other} == {"length"}


@pytest.mark.vllm
def test_stop_strings_end_where_our_engine_ends(engine: VLLM) -> None:
    request = Request([user("Describe the picture.", 1)], [picture(4)], max_tokens=24)
    ((whole,),) = engine.generate([request])
    assert len(whole.text) > 4
    request = replace(request, stop=(whole.text[2:4],))
    ((own,),), ((other,),) = Engine(engine.model, engine.processor).generate([request]), engine.generate([request])
    assert (own.text, own.token_ids, own.finish_reason) == (other.text, other.token_ids, other.finish_reason)
    assert other.text == whole.text[: whole.text.index(whole.text[2:4])]


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"temperature": 0.001}, "temperature"),
        ({"temperature": 0.5, "prompt_log_probs": True}, "prompt_log_probs"),
        ({"max_tokens": 600}, "beyond the 512"),
        ({"messages": [user("?", 3)], "images": [picture(i) for i in range(3)]}, "3 pictures"),
    ],
)
def test_what_cannot_be_mapped_is_refused(engine: VLLM, options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=f"request 1: .*{named}"):
        engine.generate([Request([user("a")]), Request(**{"messages": [user("b")], **options})])
    assert engine.generate([Request([user("a")], max_tokens=2)])[0][0].token_ids  # and the next is answered


@pytest.mark.vllm
def test_loops_end_where_our_engine_stops_them(engine: VLLM) -> None:
    watched = Degeneration(period=8, times=2, repeated=16, window=24, surprise=0.3)
    requests = [replace(one, degeneration=watched, max_tokens=200, ignore_eos=True) for one in mixed_requests()]
    own, theirs = Engine(engine.model, engine.processor).generate(requests), engine.generate(requests)
    assert {one.finish_reason for (one,) in own} & {"repetition", "garbled"}
    assert [(one.token_ids, one.finish_reason) for (one,) in own] == [
        (one.token_ids, one.finish_reason) for (one,) in theirs
    ]


@pytest.mark.vllm
def test_text_that_spells_a_placeholder_stays_text(engine: VLLM) -> None:
    request = Request([user("<|image_pad|> <|im_end|>", 1)], [picture(5)], max_tokens=4)
    ((own,),), ((other,),) = Engine(engine.model, engine.processor).generate([request]), engine.generate([request])
    assert own.token_ids == other.token_ids


def shake(model: Qwen3VL, part: str, size: float) -> None:
    with torch.no_grad():
        for index, (name, weight) in enumerate(model.named_parameters()):
            if name.startswith(part):
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(index)) * size)


@pytest.mark.vllm
def test_weights_changed_in_place_are_taken_over(engine: VLLM) -> None:
    """The same pictures and prompts as before: anything kept from the old weights would show."""
    requests = mixed_requests()
    for part in ("vision.", "text."):
        before, version = engine.generate(requests), engine.weight_version
        shake(engine.model, part, 0.02)
        after = engine.generate(requests)
        assert engine.weight_version == version + 1
        assert {one.weight_version for (one,) in after} == {version + 1}
        assert [one.log_probs for (one,) in before] != [one.log_probs for (one,) in after]
        for (own,), (other,) in zip(Engine(engine.model, engine.processor).generate(requests), after, strict=True):
            assert own.token_ids == other.token_ids
            assert near(own.log_probs, other.log_probs)


@pytest.mark.vllm
def test_a_tied_checkpoint_leaves_an_old_head_and_is_found_out(engine: VLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_tied(model: Qwen3VL, processor: Processor, folder: Path, dtype: torch.dtype) -> None:
        model.save_pretrained(folder, dtype)
        processor.save_pretrained(folder)

    state = {name: weight.clone() for name, weight in engine.model.state_dict().items()}
    state["text.embed.weight"] += 0.05 * torch.randn(state["text.embed.weight"].shape)
    version = engine.weight_version
    with monkeypatch.context() as patched:
        patched.setattr(vllm_sync, "save_untied", save_tied)
        with pytest.raises(WeightsDiffer, match="with a text alone: the decoder or its head"):
            engine.update_weights(state)
    with pytest.raises(WeightsDiffer, match="update them again"):
        engine.generate([Request([user("a")])])
    assert engine.update_weights() == version + 1
    assert engine.generate([Request([user("a")], max_tokens=2)])[0][0].weight_version == version + 1


@pytest.mark.vllm
def test_a_process_that_dies_is_reported(python: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)vLLM failed: .*gpu_memory_utilization"):
        VLLM(*load(base_dir("nano")), python, max_length=256, gpu_share=7.0)


@pytest.mark.vllm
@pytest.mark.parametrize("kind", ["text", "pictures"])
def test_vllms_benchmark_client_works_against_our_server(python: Path, tmp_path: Path, kind: str) -> None:
    folder = base_dir("nano")
    server = Running(folder)
    script = "import argparse; from vllm.benchmarks import serve; p = argparse.ArgumentParser(); "
    script += "serve.add_cli_args(p); serve.main(p.parse_args())"
    dataset = ["--dataset-name", "random"]
    if kind == "pictures":
        dataset = ["--dataset-name", "random-mm", "--random-mm-base-items-per-request", "2"]
        dataset += ["--random-mm-limit-mm-per-prompt", '{"image": 2, "video": 0}']
        dataset += ["--random-mm-bucket-config", "{(64, 96, 1): 1.0}"]
    command = [python, "-c", script, "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
    command += ["--base-url", f"http://127.0.0.1:{server.port}", "--model", "tiny", "--tokenizer", folder, *dataset]
    command += ["--random-input-len", "24", "--random-output-len", "8", "--num-prompts", "6", "--disable-tqdm"]
    command += ["--save-result", "--save-detailed", "--result-filename", tmp_path / "result.json"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= plan("m")[0].environment | {"OPENAI_API_KEY": KEY}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    finally:
        server.close()
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result["failed"]) == (6, 0), result.get("errors")
