"""`python -m bench.rl` and `bench.dpo`: the work is as it is said to be, and what is counted is what both sides do."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import dpo, dpo_ours, rl, rl_contest, rl_work
from bench.rl_job import Job, alike
from bench.rl_ours import Loop
from bench.rl_pace import Phases
from bench.rl_report import Counted, Figures, markdown
from bench.steps import NANO
from open4ov.model import Processor, Qwen3VL, pack
from open4ov.rl.rollout import extended


def test_prompts_and_responses_have_the_wanted_lengths(tmp_path: Path) -> None:
    processor = Processor.from_pretrained(NANO)
    shape = rl_work.Shape(90, 12, 5)
    rl_work.make_pairs(tmp_path / "a", processor, shape, 2)
    rl_work.make_pairs(tmp_path / "b", processor, shape, 2)
    assert (tmp_path / "a" / "work.json").read_bytes() == (tmp_path / "b" / "work.json").read_bytes()
    tasks, _ = rl_work.read(tmp_path / "a")
    for task in tasks:
        document = processor.encode(task.prompt, task.images, generate=True)
        assert len(document) == 90
        assert int((document.input_ids == processor.image_id).sum()) == 25
    for pair in rl_work.read_pairs(tmp_path / "a"):
        assert [len(processor.tokenize(text)) + 1 for text in pair] == [12, 12]
    rl_work.make(tmp_path / "c", processor, shape, 2, 3)
    assert [len(one) for one in rl_work.read(tmp_path / "c")[1]] == [12] * 6
    with pytest.raises(ValueError, match="no room for the picture"):
        rl_work.make(tmp_path / "d", processor, rl_work.Shape(20, 12, 12), 1, 1)


def test_our_step_is_that_of_whole_documents(tiny_dir: Path, tmp_path: Path) -> None:
    """The gradient norm of the first update, by one document for each response."""
    processor = Processor.from_pretrained(tiny_dir)
    rl_work.make(tmp_path, processor, rl_work.Shape(40, 5, 3), 2, 4)
    tasks, responses = rl_work.read(tmp_path)
    responses = [[token % processor.eos_id for token in one] for one in responses]
    told = {
        "model": str(tiny_dir),
        "rate": 0.0,
        "minibatches": 1,
        "group": 4,
        "response": 5,
        "fed": True,
        "precision": "fp32",
    }
    found = Loop(told, Phases()).step(tasks, responses, 0)
    model = Qwen3VL.from_pretrained(tiny_dir)
    model.vision.requires_grad_(False)
    whole = pack(
        [
            extended(processor.encode(tasks[i // 4].prompt, tasks[i // 4].images, generate=True), responses[i])
            for i in range(8)
        ]
    )
    logp = model.log_probs(whole)[0][whole.targets].view(8, 5)
    rewards = torch.tensor(rl_work.RIGHT[:4])
    (-(logp.mean(1) * (rewards - rewards.mean()).repeat(2)).mean()).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert found["norm"][0] == pytest.approx(float(norm), rel=1e-4)
    assert found["logp"][0] == pytest.approx(logp.mean().item(), abs=1e-5)
    assert found["loss"][0] == pytest.approx(0.0, abs=1e-6)
    assert found["response"] == 40
    assert set(found["phases"]) == {"rollout", "score", "update"}


class Steps:
    """Keeps what is told of each step."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    def step(self, **figures: Any) -> None:
        self.reports.append(figures)


def test_our_dpo_is_the_stage_s_training_and_counts_its_pictures(tiny_dir: Path, tmp_path: Path) -> None:
    """Loss, gradient norm and log-probability of the first update, by a document for each answer; the pass that encodes
    the pictures is a phase of every step."""
    processor, model = Processor.from_pretrained(tiny_dir), Qwen3VL.from_pretrained(tiny_dir)
    rl_work.make_pairs(tmp_path, processor, rl_work.Shape(40, 8, 3), 4)
    told = {"model": str(tiny_dir), "data": str(tmp_path), "pairs": 2, "beta": 0.5, "rate": 1e-4, "precision": "fp32"}
    pace = Steps()
    reports = pace.reports
    dpo_ours.run({**told, "steps": 2}, pace)
    assert [one["tokens"] for one in reports] == [4 * 8] * 2
    assert all(set(one["phases"]) == {"look", "step"} for one in reports)
    assert reports[0]["phases"]["look"] == reports[1]["phases"]["look"]
    reports.clear()
    dpo_ours.run({**told, "steps": 1}, pace)
    model.vision.requires_grad_(False)
    prompts = [processor.encode(t.prompt, t.images, generate=True) for t in rl_work.read(tmp_path)[0][:2]]
    answers = [
        [*processor.tokenize(text), processor.eos_id] for pair in rl_work.read_pairs(tmp_path)[:2] for text in pair
    ]
    whole = pack([extended(prompts[i // 2], answers[i]) for i in range(4)])
    sums = model.log_probs(whole)[0][whole.targets].view(4, 8).sum(1)
    loss = -torch.nn.functional.logsigmoid(0.5 * (sums[::2] - sums[1::2])).mean()
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    (first,) = reports
    assert first["loss"] == pytest.approx(loss.item(), abs=2e-5)
    assert first["norm"] == pytest.approx(float(norm), rel=1e-3)
    assert first["logp"] == pytest.approx(sums.mean().item(), rel=1e-5)


def test_phases_are_timed_apart() -> None:
    phases = Phases()
    phases.begin("a")
    time.sleep(0.02)
    phases.begin("b")
    phases.begin("a")
    phases.begin("")
    time.sleep(0.05)
    spent = phases.take()
    assert set(spent) == {"a", "b"}
    assert spent["a"][0] >= 0.02
    assert phases.take() == {}


def job(kind: str, ratio: str, folder: Path) -> Job:
    return Job(kind, ratio, folder, Path("python"), Namespace(quick=True))


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nano's shape, without a model on disk."""
    config = Qwen3VL.from_pretrained(NANO).config
    monkeypatch.setattr(Job, "config", property(lambda self: config))


@pytest.mark.usefixtures("counting")
def test_what_is_allowed_is_what_the_tokens_say(tmp_path: Path) -> None:
    """With 8 responses and a prompt four times as long, 40 lengths are computed against 12; the head and attention pull
    the ratio down a little, the tower up."""
    long, short = (rl.counted(job("nano", ratio, tmp_path)) for ratio in ("4", "1"))
    assert 2.3 < long.without_vision / long.ours < 40 / 12
    assert 1.3 < short.without_vision / short.ours < 16 / 9
    assert long.allowed > long.without_vision / long.ours
    assert long.allowed == pytest.approx(long.peer / long.ours)
    with_reference, without = dpo.counted(job("nano", "4", tmp_path)).values()
    assert with_reference.ours == without.ours
    assert (
        4 / 3 < with_reference.peer / without.peer < 2
    )  # one more forward pass: beside three, beside one of the tower


def report(seconds: float, peak: int) -> dict[str, Any]:
    phases = {"rollout": [seconds, 1.0], "score": [1.0, 1.0], "update": [2 * seconds, 4.0]}
    return {"peak": peak, "steps": [{"phases": phases}]}


def test_the_table_has_each_phase_and_the_share_of_what_is_allowed() -> None:
    ours, peer = Figures(), Figures()
    for seconds in (1.0, 2.0, 3.0):
        ours.add(report(seconds, 2**30), "wall")
        peer.add(report(4 * seconds, 2**31), "wall")
    assert ours.of("update") == 4.0
    assert ours.whole == 7.0
    counted = Counted(ours=1e9, peer=5e9, without_vision=4e9)
    text = markdown("## title", {}, "at once", {"ours": ours, "peer": peer}, counted)
    assert "| rollout | 2.00 | 8.00 | 4.00 (4.00 to 4.00) |" in text
    assert "| peak resident memory, MiB | 1024 | 2048 | 2.00 |" in text
    assert "of 5.00 (shared prompt 4.00 x tower 1.25); measured 4.00, **80 % of it**" in text
    busy = Figures()
    busy.add(report(1.0, 1), "cpu")
    assert busy.of("update") == 4.0


def test_other_work_is_found() -> None:
    alike("norm", 1.0001, 1.0, "fp32")
    with pytest.raises(AssertionError, match=r"norm is .* apart in fp32"):
        alike("norm", 1.01, 1.0, "fp32")
    with pytest.raises(AssertionError):
        alike("norm", math.nan, 1.0, "fp32")


class Turns:
    """Workers whose steps take as long as they are told to; `turns` has the order in which they came."""

    def __init__(self, turns: list[str], name: str, seconds: list[float]) -> None:
        self.turns, self.name, self.seconds = turns, name, iter(seconds)

    def block(self, steps: int) -> dict[str, Any]:
        self.turns.append(self.name)
        return {"steps": [{"phases": {"step": [next(self.seconds), 0.0]}}], "peak": 7 if self.name == "ours" else 9}

    def close(self) -> None:
        self.turns.append(f"{self.name} closed")


def test_settings_are_tried_and_the_sides_take_turns(tmp_path: Path) -> None:
    turns: list[str] = []
    took = {"slow": [1.0, 4.0], "fast": [9.0, 2.0], "fast; compiled": [30.0, 1.0]}
    contest = rl_contest.Contest(
        name="none",
        title="",
        settings=("slow", "fast"),
        phases=("step",),
        prepare=lambda job: None,
        first=lambda job: {},
        try_out=lambda job, setting: Turns(turns, setting, took[setting]),  # pyright: ignore
        sides=lambda job, setting: {
            "ours": Turns(turns, "ours", [8.0, 1.0, 2.0]),
            "peer": Turns(turns, setting, [9.0, 3.0, 5.0]),
        },  # pyright: ignore
        steps=lambda job: 2,
        told=lambda *_: "",
        operations=lambda job: None,
    )
    here = job("nano", "4", tmp_path)
    here.options = Namespace(clock="wall", compile=True)
    tuned = rl_contest.tune(contest, here)
    assert {name: one.seconds for name, one in tuned.items()} == {
        "slow": {"step": [4.0]},
        "fast": {"step": [2.0]},
        "fast; compiled": {"step": [1.0]},
    }, "the first step warms up, and the faster one is compiled"
    assert [rl_contest.plain(name) for name in ("fast", "fast; compiled")] == [("fast", False), ("fast", True)]
    turns.clear()
    found = rl_contest.race(contest, here, "fast")
    assert turns == ["ours", "fast"] * 3 + ["ours closed", "fast closed"]
    assert {side: (one.seconds["step"], one.peak) for side, one in found.items()} == {
        "ours": ([1.0, 2.0], 7),
        "peer": ([3.0, 5.0], 9),
    }
