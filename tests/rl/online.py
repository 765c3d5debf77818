"""Tasks, rewards and short trainings of the tiny model, for the tests of the online loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from open4ov.engine import Completion
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import RlSection
from open4ov.rl import trainer
from open4ov.rl.rollout import Group
from open4ov.rl.tasks import Task
from open4ov.sample import Sample, assistant, user

RED, BLUE = Image.new("RGB", (64, 64), (220, 30, 30)), Image.new("RGB", (64, 64), (30, 30, 220))


def begins_with_a_digit(response: str, sample: Sample) -> float:
    return float(response[:1].isdigit())


def odd(response: str, sample: Sample) -> float:
    """Right about half of the time, so that most groups are alive."""
    return float(len(response) % 2)


def never(response: str, sample: Sample) -> float:
    return 0.0


def half(response: str, sample: Sample) -> float:
    return 0.5


def unanswerable(response: str, sample: Sample) -> float:
    return float("nan")


def tasks(count: int) -> list[Task]:
    made = []
    for i in range(count):
        prompt, images = ([user("how many?", images=1)], [RED, BLUE][i % 2 :][:1]) if i % 3 else ([user("1 + 1 =")], [])
        about: dict[str, Any] = {"images": [""] * len(images), "messages": [*prompt, assistant("\\boxed{7}")]}
        made.append(Task(Sample(id=f"t{i}", source="t", task="t", answer="7", **about), prompt, images))
    return made


def section(**changes: object) -> RlSection:
    options = {
        "precision": "fp32",  # what is compared here is compared to fp32's accuracy, also where bf16 is fast
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


def train(
    tiny_dir: Path, pool: int | None = None, model: Qwen3VL | None = None, arguments: Any = None, **changes: object
) -> tuple[Qwen3VL, trainer.Fit]:
    """`pool`: how many tasks there are (as many as the steps need, if not given); `arguments`: of `fit`."""
    model, processor = model or Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    options = section(**changes)
    given = tasks(options.steps * options.prompts if pool is None else pool)
    return model, trainer.fit(model, processor, given, options, seed=0, **(arguments or {}))


def group(name: str, right: str, dead: bool = False) -> Group:
    """A group whose responses are right where `right` has a 1."""
    correct = torch.tensor([float(mark) for mark in right], dtype=torch.float64)
    zeros = torch.zeros_like(correct)
    responses = [Completion(mark, [5, 6], [-1.0, -1.0], "stop", 0) for mark in right]
    task = Task(Sample(id=name, source="t", task="t", answer="1"), [user("?")], [])
    return Group(task, responses, correct, zeros + 2, zeros, zeros if dead else correct - correct.mean() + 1e-3)


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    """Bit for bit."""
    other = b.state_dict()
    for name, value in a.state_dict().items():
        assert torch.equal(value, other[name]), name
