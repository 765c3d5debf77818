"""RL and DPO on several processes compute what one process does: gradients, weights after two steps, curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import world  # pyright: ignore[reportMissingImports]  # `spread_rl` has put its folder on the path
from online import RED, section, tasks
from spread_rl import (
    Case,
    all_computed,
    all_online,
    computed,
    in_half,
    online_run,
    perturbed,
    preference_pairs,
    stage_run,
    stages,
    torn,
)

from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import DpoSection
from open4ov.rl.preference.training import train
from open4ov.stages import rl
from open4ov.store import ImageStore, write_json, write_samples

TWO = [
    Case({"dp_shard": 2}),
    Case({"dp_shard": 2}, options={"max_update_tokens": 40, "replay": {"share": 0.4, "weight": 0.5}}),
    Case({"tp": 2}),
    Case({"cp": 2}, options={"loss": "dapo"}),
    Case({"dp_shard": 2, "ep": 2}, kind="experts", options={"freeze_vision": False}),
    Case({"dp_shard": 2}, "dpo", options={"reference": True, "part_tokens": 60}),
    Case({"tp": 2}, "dpo", options={"nll_weight": 0.3}),
    Case({"cp": 2}, "dpo", kind="experts"),
]
PIPED = [
    Case({"pp": 2}, kind="untied"),
    Case({"pp": 2}, options={"max_update_tokens": 40, "replay": {"share": 0.4, "weight": 0.5}}),
    Case({"pp": 2}, "dpo", options={"reference": True}),
]
FOUR = [
    Case({"dp_shard": 4}),
    Case({"dp_replicate": 2, "dp_shard": 2}, "dpo", options={"reference": True}),
    Case({"dp_shard": 2, "tp": 2}, options={"replay": {"share": 0.4, "weight": 0.5}}),
    Case({"cp": 2, "tp": 2}, kind="untied"),
    Case({"dp_shard": 2, "cp": 2}, "dpo", kind="experts"),
    Case({"pp": 2, "dp_shard": 2}),
    Case({"pp": 2, "dp_shard": 2}, "dpo"),
]


def compare(directory: Path, processes: int, cases: list[Case]) -> None:
    results = world.run(all_computed, processes, directory, cases, timeout=900)
    faults: list[str] = []
    for number, case in enumerate(cases):
        wanted = computed(directory, case, alone=True)
        for rank, outcomes in enumerate(results):
            found = outcomes[number]
            for what in ("gradients", "weights"):
                own, other = getattr(found, what), getattr(wanted, what)
                assert own.keys() == other.keys(), (case, what, own.keys() ^ other.keys())
                far = {n: float((own[n] - other[n]).abs().max() / other[n].abs().max().clamp(min=1e-12)) for n in own}
                worst = max(far, key=lambda n: far[n])
                if far[worst] > 1e-5:
                    faults.append(f"{case}, rank {rank}: {what} of {worst}: {far[worst]:.1e}")
            for a, b in zip(found.figures, wanted.figures, strict=True):
                if abs(b.get("lead", 1)) < 1e-4:  # whose sign is rounding
                    a, b = ({k: v for k, v in one.items() if k != "accuracy"} for one in (a, b))
                if a != pytest.approx(b, abs=3e-4, rel=1e-4):
                    faults.append(f"{case}, rank {rank}: {a}, and not {b}")
    assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes(tiny_dir: Path) -> None:
    compare(tiny_dir, 2, TWO)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_pipeline(tiny_dir: Path) -> None:
    compare(tiny_dir, 2, PIPED)


@pytest.mark.slow
@pytest.mark.distributed
def test_four_processes(tiny_dir: Path) -> None:
    compare(tiny_dir, 4, FOUR)


@pytest.mark.slow
@pytest.mark.distributed
def test_online_training_on_two_processes(tiny_dir: Path, tmp_path: Path) -> None:
    """The same tasks, responses and rewards; a training that is interrupted ends as one that is not."""
    sizes = [{"dp_shard": 2}, {"tp": 2}]
    curve, weights, summary = online_run(tiny_dir, None, None, None)
    same = ("phase", "reward", "pass_rate", "length", "dead", "updates", "rolled", "unused", "weight_version", "lag")
    results = world.run(all_online, 2, tiny_dir, tmp_path / "checkpoints", sizes, timeout=600)
    for outcomes in results:
        for own_curve, own_weights, own_summary in outcomes:
            for a, b in zip(own_curve, curve, strict=True):
                assert {k: a[k] for k in same} == {k: b[k] for k in same}
                assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
                assert a["rollout_gap"] < 1e-4
                assert "rollout_gap" not in b
            assert own_summary == pytest.approx(summary)
            for name, value in weights.items():
                torch.testing.assert_close(own_weights[name], value, atol=3e-5, rtol=1e-3, msg=name)
        whole, resumed = outcomes[0][1], outcomes[-1][1]
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    _, again, _ = online_run(tiny_dir, None, tmp_path / "checkpoints", None)
    for name, value in weights.items():
        torch.testing.assert_close(again[name], value, atol=3e-5, rtol=1e-3, msg=name)
    first: dict[str, Any] = results[0][0][1]
    assert all(torch.equal(first[name], results[1][0][1][name]) for name in first)


@pytest.mark.distributed
def test_what_one_process_sees_is_not_finite_ends_the_update_of_all(tiny_dir: Path) -> None:
    """None is left waiting for the others. A token held for impossible alone would not make the loss infinite."""
    values = [math.nan, -math.inf]
    first, second = world.run(torn, 2, tiny_dir, values, timeout=120)
    told = [f"the sum of the responses' log-probabilities is {value}: lower rl.learning_rate" for value in values]
    assert first == second
    assert [line.split(" (")[0] for line in first[:2]] == told
    assert math.isfinite(float(first[2]))
    assert first[3].startswith("the sum of the responses' log-probabilities after the update is nan")


@pytest.mark.distributed
def test_copies_with_other_weights_are_noticed(tiny_dir: Path) -> None:
    for told in world.run(perturbed, 2, tiny_dir, timeout=300):
        assert "nats a token from those of the policy (more than 0.002)" in told
        assert "the engines do not have its weights" in told


@pytest.mark.slow
@pytest.mark.distributed
def test_the_stages_call_the_other_processes(tiny_dir: Path, tmp_path: Path) -> None:
    """What they leave is what one process leaves."""
    store = ImageStore(tmp_path / "image-store")
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "model").symlink_to(tiny_dir)
    pool = [t.sample.model_copy(update={"images": [store.put(one) for one in t.images]}) for t in tasks(8)]
    write_samples(tmp_path / "pool" / "pool.parquet", pool)
    write_json(tmp_path / "pool" / "pool.json", {"wanted": 8})
    general = [
        one.model_copy(update={"rejected": None, "split": "train"}) for one in preference_pairs() if not one.images
    ]
    write_samples(tmp_path / "data" / "general.parquet", general)
    red = store.put(RED)
    pairs = [one.model_copy(update={"images": [red for _ in one.images]}) for one in preference_pairs()]
    write_samples(tmp_path / "pairs.parquet", pairs)
    options: dict[str, Any] = {
        "rl": section(steps=2, reward="online:odd", replay={"share": 0.5}, learning_rate=1e-3),
        "dpo": DpoSection(epochs=1, batch=5, learning_rate=1e-3, precision="fp32"),
    }
    world.run(stages, 2, tmp_path, options, timeout=600)
    run = stage_run(tmp_path, "rl", **options)
    rl.run(run)
    torch.set_flush_denormal(False)
    curve, alone = (json.loads((folder / "curve.json").read_text()) for folder in (tmp_path / "rl", run.out))
    for a, b in zip(curve, alone, strict=True):
        for key in ("reward", "length", "dead", "updates", "weight_version"):
            assert a[key] == b[key]
        for key in ("loss", "entropy", "replay_loss"):
            assert a[key] == pytest.approx(b[key], abs=2e-4)
    for name in ("rollouts.json", "summary.json", "failed.parquet", "train.jsonl"):
        assert (tmp_path / "rl" / name).exists() == (run.out / name).exists()
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    found = train(model, processor, pairs, store.get, options["dpo"], 0)
    torch.set_flush_denormal(False)
    told = json.loads((tmp_path / "dpo" / "curve.json").read_text())
    assert [one["loss"] for one in told] == pytest.approx([one["loss"] for one in found.curve], abs=2e-5)
    other = Qwen3VL.from_pretrained(tmp_path / "dpo" / "model").state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other[name], value, atol=3e-5, rtol=1e-3, msg=name)


@pytest.mark.slow
@pytest.mark.distributed
def test_copies_in_bf16_generate_as_those_in_float32(tiny_dir: Path) -> None:
    for (curve, weights), (other, others), held in world.run(in_half, 2, tiny_dir, timeout=600):
        assert held == [{torch.float32, torch.bfloat16}, {torch.float32}]
        assert curve == other
        assert all(torch.equal(weights[name], others[name]) for name in others)
