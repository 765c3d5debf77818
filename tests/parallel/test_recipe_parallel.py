"""`parallel`: what goes together, what is idle, and that it makes no stage anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from open4ov import keys
from open4ov.errors import UserError
from open4ov.recipe import Recipe, load


def told(tmp_path: Path, parallel: str) -> str:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: x\nparallel: {parallel}\n")
    try:
        load(path)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("parallel", "said"),
    [
        ("{pp: 2, dp_replicate: 2, cp: 2, tp: 2, ep: 4, timeout: 60}", ""),
        ("{pp: 2, schedule: zbv}", ""),
        ("{pp: 2, schedule: interleaved, chunks: 3}", ""),
        ("{pp: 0}", "parallel.pp: expected greater than or equal to 1"),
        ("{dp_shard: 0}", "parallel.dp_shard: 0 ranks hold nothing; use -1"),
        ("{dp_shard: 2, ep: 4}", "parallel.ep: 4 must divide dp_shard x cp x tp = 2 x 1 x 1 = 2"),
        ("{dp_shard: 2, tp: 2, ep: 4}", ""),
        ("{pp: 2, schedule: zbv, chunks: 3}", "parallel.chunks: 3, but schedule zbv has 2"),
        ("{pp: 2, chunks: 2}", "parallel.chunks: has no effect: parallel.schedule 1f1b has one piece"),
        ("{pp: 2, borders: [4]}", ""),
        ("{pp: 2, borders: [1, 2]}", "parallel.borders: 2 given, but 2 pieces need 1"),
        ("{pp: 2, schedule: interleaved, borders: [3, 3, 5]}", "parallel.borders: they must ascend from 1 on"),
        ("{pp: 2, borders: [0]}", "parallel.borders: they must ascend from 1 on"),
        ("{borders: [4]}", "parallel.borders: has no effect: parallel.pp is 1"),
        ("{pp: 2, borders: [4], visual_share: 0.7}", "parallel.visual_share: has no effect: parallel.borders says"),
        ("{schedule: gpipe}", "parallel.schedule: has no effect: parallel.pp is 1"),
        ("{vision: whole}", "parallel.vision: has no effect: parallel.cp and parallel.tp are 1"),
        ("{tp: 2, vision: heads}", "parallel.vision: expected 'pictures' or 'whole'"),
        ("{cp: 2, vision: whole}", ""),
        ("{dispatch: deepep}", "parallel.dispatch: has no effect: parallel.ep is 1"),
        ("{ep: 2, dispatch: nccl}", "parallel.dispatch: expected 'all_to_all'"),
        ("{dp_shard: 1, timeout: 60}", "parallel.timeout: has no effect: there is one process"),
        ("{timeout: 0}", "parallel.timeout"),
        ("{sp: 2}", "unknown key 'sp'"),
    ],
)
def test_rules(tmp_path: Path, parallel: str, said: str) -> None:
    assert said in told(tmp_path, parallel)
    assert said or not told(tmp_path, parallel)


@pytest.mark.parametrize(
    ("rest", "idle"),
    [
        ("sft: {lora_rank: 4}", True),
        ("sft: {schedule: single_stage, knowledge: {freeze_vision: true}}", True),
        ("sft: {schedule: single_stage, knowledge: {parts: {vision: {freeze: true}}}}", False),  # mergers are trained
        ("sft: {knowledge: {freeze_vision: true}}", False),
        ("sft: {lora_rank: 4}\nrl: {steps: 2, freeze_vision: false}", False),
    ],
)
def test_pictures_of_a_frozen_tower_are_not_shared_out(tmp_path: Path, rest: str, idle: bool) -> None:
    said = "parallel.vision: has no effect: no stage trains the vision tower"
    found = told(tmp_path, f"{{tp: 2, vision: whole}}\n{rest}")
    assert (said in found) == idle, found


def test_pieces() -> None:
    def pieces(**options: object) -> int:
        return Recipe.model_validate({"name": "x", "parallel": options}).parallel.pieces

    assert pieces() == 1
    assert pieces(pp=2) == 1
    assert pieces(pp=2, schedule="interleaved") == 2
    assert pieces(pp=2, schedule="interleaved", chunks=4) == 4


def test_another_mesh_makes_no_stage_anew() -> None:
    """What is computed is the same; so a run goes on with more ranks, or fewer."""
    one, many = Recipe(name="x"), Recipe.model_validate({"name": "x", "parallel": {"pp": 2, "tp": 2}})
    for name in (*keys.SFT, "rl", "dpo"):
        assert keys.training(name)(one) == keys.training(name)(many)
    for config in (keys.images, keys.data, keys.sets, keys.probe, keys.rl_pool, keys.evaluation):
        assert config(one) == config(many)


@pytest.mark.parametrize(
    ("parallel", "sft", "said"),
    [
        ("{dp_shard: 2}", "{compile: true}", "sft.compile: blocks are not compiled on several processes"),
        ("{cp: 2}", "{optimizer: muon}", "sft.optimizer: muon works on whole matrices"),
        ("{tp: 2}", "{lora_rank: 8}", "sft.lora_rank: adapters are not cut: with parallel.tp = 2"),
        ("{dp_shard: 2}", "{lora_rank: 8}", ""),
        ("{dp_shard: 1}", "{compile: true, optimizer: muon}", ""),
        ("{}", "{optimizer: muon}", ""),
    ],
)
def test_what_several_processes_cannot_do_is_refused_at_once(
    tmp_path: Path, parallel: str, sft: str, said: str
) -> None:
    found = told(tmp_path, f"{parallel}\nsft: {sft}")
    assert said in found
    assert said or not found
