"""Online RL with the tiny random model: it learns what it is rewarded for, deterministically, with a frozen tower."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from online import odd, train

from open4ov import training
from open4ov.errors import UserError
from open4ov.model import Qwen3VL
from open4ov.recipe import load
from open4ov.sample import Sample
from open4ov.store import ImageStore


def test_the_rewarded_answer_becomes_likely(tiny_dir: Path) -> None:
    before = Qwen3VL.from_pretrained(tiny_dir).state_dict()
    model, result = train(tiny_dir, pass_k_share=0.5)
    curve = result.curve
    assert [p["phase"] for p in curve] == ["pass_at_k"] * 6 + ["diversity"] * 6
    assert curve[-1]["pass_rate"] > curve[0]["pass_rate"] + 0.3
    assert [p["weight_version"] for p in curve] == list(range(1, 13))
    assert (result.summary["diversity_from_step"], result.summary["responses"]) == (7, 12 * 4 * 8)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is name.startswith("vision."), name


@pytest.mark.slow
def test_it_learns_within_gspos_own_bounds(tiny_dir: Path) -> None:
    """3e-4 and 4e-4, which a step of this size leaves at once: they hold responses back, and the model learns."""
    curve = train(tiny_dir, clip_low=None, clip_high=None, minibatches=4)[1].curve
    assert sum(point["clip_low"] + point["clip_high"] for point in curve) > 0.1
    assert curve[-1]["pass_rate"] > curve[0]["pass_rate"] + 0.2


def test_a_tower_that_is_not_frozen_learns_too(tiny_dir: Path) -> None:
    before = Qwen3VL.from_pretrained(tiny_dir).state_dict()
    model, _ = train(tiny_dir, steps=2, reward="online:odd", freeze_vision=False)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"vision.patch.weight", "text.norm.weight"} <= changed


@pytest.mark.slow
def test_the_length_reward_alone_shortens_responses(tiny_dir: Path) -> None:
    limits = {"max_tokens": 40, "length_max": 40, "length_soft": 39, "length_weight": 1.0}
    curve = train(tiny_dir, **limits, reward="online:never", steps=15)[1].curve
    assert curve[0]["length"] > 30
    assert curve[-1]["length"] < curve[0]["length"] - 10


def test_groups_without_advantage_change_nothing(tiny_dir: Path) -> None:
    before = Qwen3VL.from_pretrained(tiny_dir).state_dict()
    model, result = train(tiny_dir, reward="online:never", steps=2)
    assert [(p["dead"], p["updates"]) for p in result.curve] == [(1.0, 0)] * 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("rollout", "told"),
    [
        ({}, r"step 2: the responses' log-probabilities are no numbers.*tasks of this batch: t4"),
        ({"tis": "always"}, r"step 2: the responses' log-probabilities are no numbers"),
        ({"ahead": True}, r"step 2: the sum of the responses' log-probabilities is nan: lower rl\.learning_rate"),
    ],
)
def test_a_policy_that_came_apart_ends_the_run_also_where_no_group_is_alive(
    tiny_dir: Path, rollout: dict[str, Any], told: str
) -> None:
    options: dict[str, Any] = {"steps": 4, "minibatches": 1, "reward": "online:odd", "rollout": rollout}
    with pytest.raises(training.Diverged, match=told):
        train(tiny_dir, learning_rate=1e30, **options)


def right_at_first(response: str, sample: Sample) -> float:
    """Of tasks of the first step half of the responses, later none."""
    return odd(response, sample) if sample.id in ("t0", "t1", "t2", "t3") else 0.0


@pytest.mark.parametrize(
    ("steps", "ahead", "reward"), [(1, False, "online:odd"), (2, True, "test_rl_trainer:right_at_first")]
)
def test_a_policy_that_came_apart_in_the_last_step_ends_the_run_too(
    tiny_dir: Path, steps: int, ahead: bool, reward: str
) -> None:
    """Also where the last step's responses are by the weights before, and teach nothing."""
    options: dict[str, Any] = {"steps": steps, "minibatches": 1, "reward": reward, "rollout": {"ahead": ahead}}
    told = (
        rf"step {steps}: the sum of the responses' log-probabilities after the update is nan: lower rl\.learning_rate"
    )
    with pytest.raises(training.Diverged, match=told + r".*tasks of this batch: t"):
        train(tiny_dir, learning_rate=1e30, **options)


def test_a_policy_that_came_apart_is_not_kept(tiny_dir: Path, tmp_path: Path) -> None:
    """Every checkpoint that is kept can be gone on from."""
    options: dict[str, Any] = {"steps": 3, "minibatches": 1, "reward": "online:odd", "checkpoint_every": 1}
    with pytest.raises(training.Diverged, match=r"step 1: .*after the update is nan"):
        train(tiny_dir, learning_rate=1e30, arguments={"checkpoints": tmp_path / "kept"}, **options)
    assert not [*tmp_path.glob("kept/step-*")]


def test_the_first_minibatch_is_on_policy(tiny_dir: Path) -> None:
    curve = train(tiny_dir, steps=1, minibatches=1)[1].curve
    assert curve[0]["ratio"] == 1.0
    assert curve[0]["clip_low"] == curve[0]["clip_high"] == 0
    curve = train(tiny_dir, steps=1, minibatches=4)[1].curve
    assert curve[0]["updates"] > 1
    assert curve[0]["ratio"] != 1.0


def test_the_same_seed_gives_the_same_run(tiny_dir: Path) -> None:
    assert train(tiny_dir, steps=2)[1].curve == train(tiny_dir, steps=2)[1].curve


def test_figures_of_the_curve_are_those_of_the_journal(tiny_dir: Path, tmp_path: Path) -> None:
    """The journal has the times beside, the curve has none."""
    _, result = train(tiny_dir, steps=3, arguments={"folder": tmp_path})
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    parts = ("rollout", "reward", "score", "update")
    times = {f"{part}_{what}" for part in parts for what in ("seconds", "tokens_per_second")}
    times |= {"seconds", "tokens_per_second"}
    assert [{key: value for key, value in line.items() if key not in times} for line in lines] == result.curve
    for line in lines:
        assert times <= line.keys()
        assert line["seconds"] == pytest.approx(sum(line[f"{part}_seconds"] for part in parts), abs=1e-3)
        tokens = line["length"] * 32
        assert line["rollout_tokens_per_second"] == pytest.approx(tokens / line["rollout_seconds"], rel=0.05)


def test_speed_is_that_of_what_was_computed(tiny_dir: Path, tmp_path: Path) -> None:
    """Dead groups and a first mini-batch that is not scored make no update or score faster, and a step that waited for
    responses has no speed of generating them."""

    def lines(name: str, **options: Any) -> list[dict[str, Any]]:
        train(tiny_dir, arguments={"folder": tmp_path / name}, steps=2, **options)
        return [json.loads(line) for line in (tmp_path / name / "train.jsonl").read_text().splitlines()]

    for line in lines("dead", reward="online:never"):
        assert line["reward_tokens_per_second"] > line["score_tokens_per_second"] == 0
        assert line["update_tokens_per_second"] == 0
    for line in lines("single", reward="online:odd", minibatches=1):
        assert line["updates"] == 1
        assert line["update_tokens_per_second"] > line["score_tokens_per_second"] == 0
    for line in lines("ahead", reward="online:odd", rollout={"ahead": True}):
        assert "rollout_tokens_per_second" not in line
        assert "rollout_seconds" in line  # of waiting, which may be none


def test_k_of_pass_at_k_is_read_in_every_phase(tiny_dir: Path, tmp_path: Path) -> None:
    """The curve has pass_at_k for it: to set it says something, with rl.pass_k_share at 0 too."""
    (tmp_path / "r.yaml").write_text("name: t\nrl: {pass_k_share: 0, pass_k: 2}\n")
    options = load(tmp_path / "r.yaml").rl
    curve = train(tiny_dir, steps=1, reward="online:odd", pass_k_share=0, pass_k=options.pass_k)[1].curve
    other = train(tiny_dir, steps=1, reward="online:odd", pass_k_share=0, pass_k=1)[1].curve
    assert curve[0]["pass_at_k"] > other[0]["pass_at_k"]


def test_tensorboard_gets_the_numbers(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the phase, which is a word. A package that is not there is said by RL's own option."""
    added: list[tuple[str, float, int]] = []
    writer = SimpleNamespace(add_scalar=lambda *given: added.append(given), close=lambda: None)
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = lambda folder, purge_step: writer  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    _, result = train(tiny_dir, steps=1, tensorboard=True, arguments={"folder": tmp_path})
    told = {name: value for name, value, step in added if step == 1}
    assert told["train/pass_rate"] == result.curve[0]["pass_rate"]
    assert "train/rollout_seconds" in told
    assert "train/phase" not in told
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"rl\.tensorboard: .*pip install 'open4ov\[tensorboard\]'"):
        train(tiny_dir, steps=1, tensorboard=True, arguments={"folder": tmp_path})


def test_the_first_and_the_last_step_are_shown(tiny_dir: Path, tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    _, result = train(tiny_dir, steps=3, arguments={"images": store})
    assert [one["step"] for one in result.shown] == [1, 3]
    groups = result.shown[0]["groups"]
    assert [group["dead"] for group in groups] == sorted(group["dead"] for group in groups)
    pictured = next(group for group in groups if group["pictures"])
    assert store.get(pictured["pictures"][0]).size == (64, 64)
    assert (len(pictured["responses"]), pictured["reference"]) == (8, "7")
    json.dumps(result.shown, allow_nan=False)


def test_pass_at_k_refuses_other_rewards_and_missing_functions(tiny_dir: Path) -> None:
    with pytest.raises(UserError, match=r"rewards of 0 or 1.*pass_k_share"):
        train(tiny_dir, reward="online:half", steps=1, pass_k_share=1.0)
    with pytest.raises(UserError, match=r"rl.reward.*nowhere"):
        train(tiny_dir, reward="online:nowhere")
