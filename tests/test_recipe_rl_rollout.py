"""`rl.loss` and `rl.rollout`: what goes together, what is idle, and what makes no stage anew."""

from __future__ import annotations

from pathlib import Path

import pytest

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
        ("{rollout: {ahead: true, offload: true}}", "neither can make room"),
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
