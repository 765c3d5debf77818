"""Online RL with the tiny random model: it learns what it is rewarded for, deterministically, with a frozen tower."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import RlSection
from open4ov.rl import trainer
from open4ov.rl.tasks import Task, from_corpora
from open4ov.sample import Sample, user

RED, BLUE = Image.new("RGB", (64, 64), (220, 30, 30)), Image.new("RGB", (64, 64), (30, 30, 220))


def begins_with_a_digit(response: str, sample: Sample) -> float:
    return float(response[:1].isdigit())


def half(response: str, sample: Sample) -> float:
    return 0.5


def tasks(count: int) -> list[Task]:
    made = []
    for i in range(count):
        prompt, images = ([user("how many?", images=1)], [RED, BLUE][i % 2 :][:1]) if i % 3 else ([user("1 + 1 =")], [])
        made.append(Task(Sample(id=f"t{i}", source="t", task="t", answer="7"), prompt, images))
    return made


def section(**changes: object) -> RlSection:
    options = {
        "steps": 12,
        "prompts": 4,
        "group": 8,
        "minibatches": 2,
        "pass_k": 2,
        "max_tokens": 6,
        "length_max": 6,
        "length_soft": 3,
        "length_weight": 0.0,
        "learning_rate": 1e-2,
        "clip_low": 0.2,
        "clip_high": 0.28,
        "reward": f"{__name__}:begins_with_a_digit",
    }
    return RlSection.model_validate(options | changes)


def fit(tiny_dir: Path, **changes: object) -> tuple[Qwen3VL, trainer.Curve]:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    options = section(**changes)
    curve = trainer.fit(model, processor, tasks(options.steps * options.prompts), options, seed=0)
    return model, curve


def test_the_rewarded_answer_becomes_likely(tiny_dir: Path) -> None:
    before = Qwen3VL.from_pretrained(tiny_dir).state_dict()
    model, curve = fit(tiny_dir, pass_k_share=0.5)
    assert [p["phase"] for p in curve] == ["pass_at_k"] * 6 + ["diversity"] * 6
    assert curve[-1]["pass_rate"] > curve[0]["pass_rate"] + 0.3
    assert [p["weight_version"] for p in curve] == list(range(1, 13))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is name.startswith("vision."), name


def test_the_length_reward_alone_shortens_responses(tiny_dir: Path) -> None:
    limits = {"max_tokens": 40, "length_max": 40, "length_soft": 39, "length_weight": 1.0}
    _, curve = fit(tiny_dir, **limits, reward=f"{__name__}:never", steps=15)
    assert curve[0]["length"] > 30
    assert curve[-1]["length"] < curve[0]["length"] - 10


def never(response: str, sample: Sample) -> float:
    return 0.0


def test_groups_without_advantage_change_nothing(tiny_dir: Path) -> None:
    before = Qwen3VL.from_pretrained(tiny_dir).state_dict()
    model, curve = fit(tiny_dir, reward=f"{__name__}:never", steps=2)
    assert [(p["dead"], p["updates"]) for p in curve] == [(1.0, 0)] * 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_first_minibatch_is_on_policy(tiny_dir: Path) -> None:
    _, curve = fit(tiny_dir, steps=1, minibatches=1)
    assert curve[0]["ratio"] == 1.0
    assert curve[0]["clip_low"] == curve[0]["clip_high"] == 0
    _, curve = fit(tiny_dir, steps=1, minibatches=4)
    assert curve[0]["updates"] > 1
    assert curve[0]["ratio"] != 1.0


def test_the_same_seed_gives_the_same_run(tiny_dir: Path) -> None:
    assert fit(tiny_dir, steps=2)[1] == fit(tiny_dir, steps=2)[1]


def test_pass_at_k_refuses_other_rewards_and_missing_functions(tiny_dir: Path) -> None:
    with pytest.raises(UserError, match=r"rewards of 0 or 1.*pass_k_share"):
        fit(tiny_dir, reward=f"{__name__}:half", steps=1, pass_k_share=1.0)
    with pytest.raises(UserError, match=r"rl.reward.*nowhere"):
        fit(tiny_dir, reward=f"{__name__}:nowhere")


def test_tasks_of_the_corpora_ask_for_a_box_once() -> None:
    made = from_corpora(10, 0.2, seed=0)
    assert sum(not task.images for task in made) == 2
    assert all(task.prompt[-1].text.count("\\boxed{}") == 1 for task in made)
    assert all(task.sample.split == "train" for task in made)
    assert [t.sample.id for t in from_corpora(10, 0.2, seed=0)] == [t.sample.id for t in made]
