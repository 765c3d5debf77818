"""`rl.loss` and `rl.rollout`: what goes together, what is idle, and what makes no stage anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from open4ov import keys
from open4ov.errors import UserError
from open4ov.recipe import load


def told(tmp_path: Path, rl: str) -> str:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: x\nrl: {rl}\n")
    try:
        load(path)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("rl", "said"),
    [
        ("{clip_low: 1e-3, clip_high: 2e-3}", ""),
        ("{loss: dapo, clip_high: 0.3}", ""),
        ("{clip_high: 0.28}", "rl.clip_high: 0.28 is a bound for the ratio of a token"),
        ("{loss: dapo, clip_low: 3e-4}", "rl.clip_low: 0.0003 is a bound for the ratio of a whole response"),
        ("{loss: grpo, clip_low: 1.5}", "use a value below 1"),
        ("{loss: ppo}", "rl.loss: expected 'gspo', 'grpo' or 'dapo'"),
        ("{rollout: {weights: int8, tis_cap: 8.0}}", ""),
        ("{rollout: {tis_cap: 8.0}}", "rl.rollout.tis_cap: has no effect"),
        ("{rollout: {tis: always, tis_cap: 8.0}}", ""),
        ("{rollout: {tis: never}}", "rl.rollout.tis: has no effect: the rollouts are of the very policy"),
        ("{rollout: {ahead: true, tis: never}}", ""),
        ("{temperature: 0.001, rollout: {backend: vllm}}", "rl.temperature: 0.001 is taken as another by vLLM"),
        ("{rollout: {weights: int8, tis: never, tis_cap: 8.0}}", "rl.rollout.tis_cap: has no effect"),
        ("{rollout: {url: 'http://h:1'}}", "rl.rollout.url: has no effect: rl.rollout.backend is own"),
        ("{rollout: {backend: vllm}}", ""),
        ("{rollout: {backend: vllm, url: 'http://h:1', folder: w}}", ""),
        ("{rollout: {backend: vllm, url: 'http://h:1'}}", "rl.rollout.folder: is missing"),
        ("{rollout: {backend: vllm, url: 'h:1', folder: w}}", "is no address"),
        ("{rollout: {backend: vllm, url: 'http://u:p@h:1', folder: w}}", "rl.rollout.key_env"),
        ("{rollout: {backend: vllm, weights: int8}}", "rl.rollout.weights: has no effect"),
        ("{rollout: {backend: vllm, folder: w}}", "rl.rollout.folder: has no effect: rl.rollout.url is empty"),
        ("{rollout: {backend: vllm, kv_tokens: 1024}}", "rl.rollout.kv_tokens: has no effect"),
        ("{rollout: {backend: served, url: ['http://h:1', 'https://i:2'], folder: w}}", ""),
        ("{rollout: {backend: vllm, url: ['http://h:1', 'http://i:2'], folder: w, tis_cap: 3}}", ""),
        ("{rollout: {backend: served}}", "rl.rollout.url: is missing"),
        ("{rollout: {backend: served, url: [], folder: w}}", "rl.rollout.url: is an empty list"),
        ("{rollout: {backend: served, url: ['http://h:1', 'h'], folder: w}}", "'h' is no address"),
        ("{rollout: {backend: served, url: ['http://h:1', 'http://h:1/v1'], folder: w}}", "more than once"),
        ("{rollout: {backend: served, url: 'http://h:1', folder: w, batch: 4}}", "a server sets its own (--max-batch)"),
        ("{rollout: {backend: served, url: 'http://h:1', folder: w, weights: int8}}", "(start it with --quantize)"),
        ("{rollout: {backend: served, url: 'http://h:1', folder: w, kv_tokens: 99}}", "a server has its own memory"),
        ("{rollout: {ahead: true, offload: true}}", "neither can make room"),
        ("{device: cpu, rollout: {offload: true}}", "rl.rollout.offload: makes room on a GPU, and rl.device is cpu"),
        ("{device: cpu, rollout: {weights: fp8}}", "rl.rollout.weights: fp8 is computed on a GPU"),
        ("{device: cuda, rollout: {weights: int8}}", "rl.rollout.weights: int8 is computed on the CPU"),
        ("{device: cuda, rollout: {weights: fp8, offload: true}}", ""),
        ("{rollout: {weights: fp8}}", ""),
        ("{precision: fp16}", "rl.precision: expected 'auto', 'bf16' or 'fp32'"),
        ("{grad_clip: 0}", "rl.grad_clip"),
        ("{steps: 0, rollout: {ahead: true}}", "rl.rollout: has no effect: rl.steps is 0"),
    ],
)
def test_rules(tmp_path: Path, rl: str, said: str) -> None:
    found = told(tmp_path, rl)
    assert (said in found) if said else not found, found


def test_an_address_makes_no_stage_anew_and_another_loss_does(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: x\nrl: {rollout: {backend: vllm, url: 'http://h:1', folder: w}}\n")
    config = keys.training("rl")
    plain = config(load(path))
    moved = config(load(path, ["rl.rollout.url=http://other:2", "rl.rollout.tries=9"]))
    assert plain == moved
    assert plain != config(load(path, ["rl.loss=dapo"]))
    assert plain != config(load(path, ["rl.rollout.tis_cap=3"]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, where these can be computed")
@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("rl", "rl.rollout.offload=true", "rl.rollout.offload: makes room on a GPU, and there is no CUDA device here"),
        ("rl", "rl.rollout.weights=fp8", "rl.rollout.weights: quantize: fp8 is computed on an NVIDIA GPU"),
        ("rl", "rl.device=cuda", "rl.device: there is no CUDA device here"),
        ("dpo", "dpo.device=cuda", "dpo.device: there is no CUDA device here"),
    ],
)
def test_what_needs_a_gpu_is_told_before_anything_runs(tmp_path: Path, name: str, change: str, said: str) -> None:
    """`rl.device: auto` finds none here."""
    path = tmp_path / "r.yaml"
    path.write_text("name: x\n")
    with pytest.raises(UserError, match=said):
        keys.training(name)(load(path, [change]))


def test_the_leakage_screen_asks_in_the_precision_of_training(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: x\nrl: {leakage: {rollouts: 8}}\n")
    assert keys.rl_pool(load(path)) != keys.rl_pool(load(path, ["rl.precision=bf16"]))
