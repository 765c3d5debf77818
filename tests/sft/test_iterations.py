"""A stage in several iterations: graded anew by the model as it is, drawn by the grades, and whole after a kill."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_stages import Run

from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import load
from open4ov.sample import Sample, mastery_of
from open4ov.sft import curriculum, sets, trainer
from open4ov.sft.fit import Fit, fit
from open4ov.stages import sft as sft_stage

Picture = Callable[[str], Image.Image]
OPTIONS: dict[str, Any] = {
    "knowledge": {"tokens": 4800, "iterations": 3, "freeze_vision": True},
    "checkpoint_every": 2,
    "precision": "fp32",
}


class Teacher:
    """Grades by a hash of sample and model, so that another model gives other grades; draws none of the mastered."""

    def __init__(self) -> None:
        self.graded: list[int] = []
        self.brought: list[set[str | None]] = []
        self.drawn: list[list[str]] = []

    def grade(
        self, samples: Sequence[Sample], model: Qwen3VL, processor: Processor, image: Picture, iteration: int
    ) -> list[Sample]:
        self.graded.append(iteration)
        self.brought.append({s.mastery for s in samples})
        weights = model.text.embed.weight.detach().numpy().tobytes()
        graded: list[Sample] = []
        for sample in samples:
            rate = hashlib.sha256(weights + sample.id.encode()).digest()[0] % 3 / 2
            graded.append(sample.model_copy(update={"pass_rate": rate, "mastery": mastery_of(rate)}))
        return graded

    def resample(self, samples: Sequence[Sample], iteration: int) -> list[Sample]:
        drawn = [s for s in samples for _ in range({"mastered": 0, "partial": 1, "unmastered": 2}[s.mastery or ""])]
        self.drawn.append([s.id for s in drawn])
        return drawn


def trained(run: Run) -> tuple[Teacher, bytes]:
    teacher = Teacher()
    trainer.run_stage(run.stage("sft_knowledge", ()), "knowledge", teacher.grade, teacher.resample)
    return teacher, (run.root / "sft_knowledge" / "model" / "model.safetensors").read_bytes()


def test_each_iteration_is_graded_and_drawn_anew(tiny_dir: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, tiny_dir, **OPTIONS)
    teacher, _ = trained(run)
    assert teacher.graded == [0, 1, 2]
    assert teacher.brought[0] == {None}
    assert None not in teacher.brought[1], "from the second on they bring their grades"
    assert len({tuple(ids) for ids in teacher.drawn}) == 3
    summary = run.read("sft_knowledge", "summary.json")
    parts = summary["iterations"]
    assert [sum(part["mastery"].values()) for part in parts] == [summary["samples"]] * 3
    assert len({tuple(part["mastery"].items()) for part in parts}) > 1
    for done, part in enumerate(parts, 1):
        assert sum(one["tokens"] for one in parts[:done]) == pytest.approx(1600 * done, abs=150), part
    assert summary["tokens"] == sum(part["tokens"] for part in parts)
    curve = run.read("sft_knowledge", "curve.json")
    rates = [point["lr"] for point in curve]
    assert [point["step"] for point in curve] == list(range(1, summary["steps"] + 1))
    assert rates.index(max(rates)) < len(rates) / 2, "one schedule over all of them"
    assert rates[-1] < 0.2 * max(rates)


@pytest.mark.slow
def test_killed_in_the_middle_of_the_second_iteration_it_ends_the_same(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = trained(Run(tmp_path / "whole", tiny_dir, **OPTIONS))
    run = Run(tmp_path / "broken", tiny_dir, **OPTIONS)
    calls = Counter[str]()

    def dying(*arguments: Any, **named: Any) -> Fit:
        calls["fit"] += 1
        if calls["fit"] == 2:
            done = fit(*arguments, **named, stop_after=7)
            assert done.summary["steps"] == 7
            raise KeyboardInterrupt
        return fit(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "fit", dying)
        with pytest.raises(KeyboardInterrupt):
            trained(run)
    steps = [int(path.name[5:]) for path in (run.root / "sft_knowledge.scratch" / "checkpoints").glob("step-*")]
    assert steps == [6], "in the second iteration, whose first step is the fifth or so"
    teacher, again = trained(run)
    assert teacher.graded == [2], "the first two gradings lie in the scratch folder"
    assert again == whole


def test_the_epochs_of_a_blend_are_those_of_the_stage(tiny_dir: Path, tmp_path: Path) -> None:
    """Not those of each of its iterations."""
    ability = {"tokens": 6000, "iterations": 3, "blend_epochs": 2.0, "replay": 0.3}
    run = Run(tmp_path, tiny_dir, ability=ability, **{k: v for k, v in OPTIONS.items() if k != "knowledge"})
    names = list(curriculum.by_ability(sets.training(tmp_path / "sets" / "ability")))
    shares = dict.fromkeys(names, 0.5 / (len(names) - 1)) | {names[0]: 0.5}
    section = run.recipe.sft.ability.model_copy(update={"blend": shares})
    run.recipe.sft.ability = section
    teacher = Teacher()
    trainer.run_stage(run.stage("sft_ability", ()), "ability", teacher.grade, lambda samples, _: list(samples))
    told = run.read("sft_ability", "blend.json")["abilities"][names[0]]
    assert told["ran_out"]
    assert told["epochs"] == 2.0
    assert len(run.read("sft_ability", "summary.json")["iterations"]) == 3


@pytest.mark.slow
def test_real_rollouts_grade_a_model_under_way_with_adapters(tiny_dir: Path, tmp_path: Path) -> None:
    """The engine reads the weights as they are, adapters included; the first grading is of a model without them."""
    options = {**OPTIONS, "lora_rank": 2, "knowledge": {"tokens": 1600, "iterations": 2}}
    run = Run(tmp_path, tiny_dir, **options)
    sft_stage.run(run.stage("sft_knowledge", ()), "knowledge")
    parts = run.read("sft_knowledge", "summary.json")["iterations"]
    assert len(parts) == 2
    assert all("unmastered" in part["mastery"] for part in parts)
    assert (run.root / "sft_knowledge" / "adapter.safetensors").exists()


def test_a_set_that_is_mastered_altogether_is_said(tiny_dir: Path, tmp_path: Path) -> None:
    run, teacher = Run(tmp_path, tiny_dir, **OPTIONS), Teacher()
    with pytest.raises(UserError, match=r"sft\.knowledge, iteration 1: by their grades none of \d+ samples is drawn"):
        trainer.run_stage(run.stage("sft_knowledge", ()), "knowledge", teacher.grade, lambda samples, iteration: [])


def test_iterations_need_grades_and_tokens(tmp_path: Path) -> None:
    def fault(text: str) -> str:
        (tmp_path / "r.yaml").write_text(f"name: a\n{text}\n")
        with pytest.raises(UserError) as found:
            load(tmp_path / "r.yaml")
        return str(found.value).removeprefix(f"{tmp_path}/")

    two = "sft: {pack_tokens: 512, ability: {tokens: 1500, iterations: 2}"
    assert fault("admission: {mastery: {rollouts: 0}}\n" + two + "}") == (
        "r.yaml, line 3: sft.ability.iterations: has no effect: admission.mastery.rollouts is 0; remove it"
    )
    assert "has no effect: sft.schedule is single_stage" in fault(two + ", schedule: single_stage}")
    assert fault("sft: {pack_tokens: 512, ability: {tokens: 1500, iterations: 3}}") == (
        "r.yaml, line 2: sft.ability.iterations: 3 parts of 1500 tokens are less than a pack each "
        "(sft.pack_tokens = 512)"
    )
