"""`torchrun -m open4ov run`: a whole pipeline on two processes ends as on one, also killed on the way; rounds, too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from whole_run import KILL, RECIPE, kill_rank, start

sys.path.append(str(Path(__file__).parents[1]))

from rollout_nodes import Node

pytestmark = pytest.mark.distributed
TRAINED = ("sft_knowledge", "sft_ability", "sft_preference", "rl", "dpo")
ROUNDED = ("loss", "preference_loss", "nll", "entropy", "ratio", "grad_norm", "val_loss")
"""Figures that depend on the order in which numbers are added"""

GAP = {"rollout_gap"}
"""Of the copies of the weights that processes generate with: one process has none"""


@pytest.fixture
def folder(tmp_path: Path, tiny_dir: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(RECIPE + f"model: {tiny_dir}\n")
    return tmp_path


def ended(process: subprocess.Popen[str]) -> str:
    """What a process that ended well has said."""
    said, told = process.communicate(timeout=1200)
    assert process.returncode == 0, told
    return said


def finished(root: Path) -> dict[str, int]:
    """Stages with the time at which each was made."""
    return {path.parent.name: path.stat().st_mtime_ns for path in root.glob("*/stage.json")}


def curve(root: Path, stage: str) -> list[dict[str, Any]]:
    return json.loads((root / stage / "curve.json").read_text())


def assert_alike(found: Path, wanted: Path, stages: Sequence[str] = TRAINED) -> None:
    """Two runs have the same stages and files, and computed the same in these trainings."""
    assert finished(found).keys() == finished(wanted).keys()
    for stage in finished(wanted):
        files = [{path.relative_to(root / stage) for path in (root / stage).rglob("*")} for root in (found, wanted)]
        assert files[0] == files[1], stage
    for stage in stages:
        near = 1e-2 if stage in ("rl", "dpo") else 2e-4  # responses are drawn: rounding may draw another token
        for a, b in zip(curve(found, stage), curve(wanted, stage), strict=True):
            assert a.keys() ^ b.keys() <= GAP, stage
            for key in b:
                if key in ROUNDED:
                    assert a[key] == pytest.approx(b[key], abs=near, rel=near), (stage, key)
        state, other = (load_file(root / stage / "model" / "model.safetensors") for root in (found, wanted))
        for name, value in other.items():
            own = state[name].float()
            # AdamW's first steps are of one size, where a gradient is but rounding, too
            assert (own - value.float()).norm() < max(near, 2e-3) * value.float().norm() + 1e-4, (stage, name)


@pytest.mark.slow
def test_a_run_on_two_processes_that_is_killed_twice_ends_as_on_one(folder: Path) -> None:
    ended(start(folder, "one", processes=1))
    assert sum(point["updates"] for point in curve(folder / "one", "rl")) > 6, "RL learns"
    assert len(curve(folder / "one", "dpo")) > 2

    scratch = folder / "two" / ".work" / "sft_ability.scratch"
    killed = start(folder, "two")
    kill_rank(killed, 1, lambda: [*scratch.glob("checkpoints/step-*")])
    assert killed.communicate(timeout=600)[0] == ""
    assert killed.returncode, "a rank was killed in a stage of SFT"
    before = finished(folder / "two")
    assert "sft_knowledge" in before
    assert "sft_ability" not in before

    at = folder / "kill"
    at.write_text("11")  # of the eight rewards a step that each process computes
    killed = start(folder, "two", **{KILL: str(at)})
    _, told = killed.communicate(timeout=600)
    assert killed.returncode, "a rank was killed in RL"
    assert not at.exists(), told
    assert [*folder.glob("two/.work/rl.scratch/checkpoints/*")]
    assert "rl" not in finished(folder / "two")

    ended(start(folder, "two"))
    after = finished(folder / "two")
    assert {stage: after[stage] for stage in before} == before, "nothing that was finished is made again"
    assert_alike(folder / "two", folder / "one")


@pytest.mark.whole
def test_rounds_on_two_processes_end_as_on_one(folder: Path) -> None:
    """The second round has another blend than the recipe that the processes were started with. In it a rank is
    killed."""
    ended(start(folder, "one", "--iterations", "2", processes=1))
    second = folder / "two" / "round-2"
    killed = start(folder, "two", "--iterations", "2")
    kill_rank(killed, 1, lambda: [*second.glob(".work/sft_ability.scratch/checkpoints/step-*")])
    killed.communicate(timeout=600)
    assert killed.returncode
    assert "sft_ability" not in finished(second)
    ended(start(folder, "two", "--iterations", "2"))
    plan = json.loads((second / "plan.json").read_text())
    assert plan["abilities"], "or the second round is trained as the first"
    for number in (1, 2):
        # DPO's pairs are responses that the RL model draws: rounding in two rounds of training makes them others
        assert_alike(folder / "two" / f"round-{number}", folder / "one" / f"round-{number}", TRAINED[:-1])
    assert (folder / "two" / "rounds.json").exists()


@pytest.mark.whole
def test_rollouts_of_a_run_on_two_processes_by_a_server(folder: Path, tiny_dir: Path) -> None:
    """Our server at an address has the weights of every step, by name and by log-probabilities, and answers as the
    engine in the processes does."""
    until = ("--until", "rl")
    ended(start(folder, "own", *until, "--set", "rl.rollout.tis=always"))
    weights = folder / "weights"
    weights.mkdir()
    node = Node(tiny_dir, weights, folder / "log")
    try:
        served = {"backend": "served", "url": node.url, "folder": str(weights)}
        options = [word for key, value in served.items() for word in ("--set", f"rl.rollout.{key}={value}")]
        ended(start(folder, "served", *until, *options))
        assert node.tokens() >= 3 * 4 * 4 * 4, "steps, prompts, responses, tokens"
        assert node.version() not in ("", "default")
    finally:
        node.kill()
    found, wanted = (curve(folder / name, "rl") for name in ("served", "own"))
    assert [point["weight_version"] for point in found] == [1, 2, 3]
    for a, b in zip(found, wanted, strict=True):
        assert a["tis_gap"] < 1e-3
        assert (a["reward"], a["length"], a["updates"]) == (b["reward"], b["length"], b["updates"])
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-3)
