"""What a step's responses earn: channels as they are optimised, and checks that hang side by side."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from online import section, tasks

from open4ov import answers_symbolic
from open4ov.engine import Completion
from open4ov.recipe import load
from open4ov.rl import figures, rewards, schedule
from open4ov.rl.judging import Judge


def said(text: str, finish_reason: str = "stop", tokens: int = 3) -> Completion:
    return Completion(text, [5] * tokens, [-1.0] * tokens, finish_reason, 0)


def test_symbolic_checks_of_a_step_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all its groups: each of four checks, two a group, ends only when all have begun."""
    together = threading.Barrier(4)

    def hangs_until_all_do(given: str, reference: str) -> bool:
        together.wait(10)
        return given.startswith("x")

    monkeypatch.setattr(rewards, "WORKERS", 4)
    monkeypatch.setattr(answers_symbolic, "equivalent", hangs_until_all_do)
    asked = tasks(2)
    for task in asked:
        task.sample.answer = "y + 1"
    judge = Judge(section(reward="open4ov.rl.rewards:exact", group=2))
    responses = [[said(f"\\boxed{{{letter} + {i} + 2}}") for letter in "xz"] for i in range(2)]
    groups = judge.groups(asked, responses, "pass_at_k")
    assert [group.correct.tolist() for group in groups] == [[1, 0], [1, 0]]


def test_the_curve_has_the_reward_that_is_optimised() -> None:
    """A response that became a loop has the least length reward, however short it is."""
    options = section(length_weight=0.5, group=3, pass_k=1)
    judge = Judge(options)
    (group,) = judge.groups(tasks(1), [[said("7"), said("7", "repetition"), said("x")]], "pass_at_k")
    assert group.correct.tolist() == [1, 0, 0]
    assert group.length_rewards.tolist() == [0, -1, 0]
    assert figures.of_groups([group], options)["reward"] == pytest.approx((1 - 0.5) / 3, abs=1e-4)
    again = rewards.combine(group.correct, group.length_rewards, length_weight=0.5, pass_k=1)
    assert group.advantages.tolist() == again.tolist()


def test_the_recipe_of_grpo(tmp_path: Path) -> None:
    """As docs/rl.md has it: the same advantage in the last step as in the first, standardised rewards alone."""
    (tmp_path / "r.yaml").write_text("name: t\nrl: {loss: grpo, pass_k: 1, pass_k_share: 1, length_weight: 0}\n")
    options = load(tmp_path / "r.yaml").rl.model_copy(update={"reward": "online:begins_with_a_digit", "group": 4})
    done = [{"step": step, "phase": "pass_at_k", "pass_at_k": 0.5} for step in range(1, options.steps)]
    assert {schedule.phase(options, done[:n]) for n in range(options.steps)} == {"pass_at_k"}
    (group,) = Judge(options).groups(tasks(1), [[said("7", tokens=60), said("x"), said("y"), said("z")]], "pass_at_k")
    assert group.advantages.tolist() == pytest.approx([3**0.5, *[-(3**-0.5)] * 3])
