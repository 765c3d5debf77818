"""What the evaluations of a run share: held features change no bit of an answer, and belong to one tower."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from open4ov.evaluate import reading, suites
from open4ov.evaluate.scores import Answer
from open4ov.model import Processor, Qwen3VL
from open4ov.model.vision import VisionModel
from open4ov.recipe import EvaluateSection

SECTION = EvaluateSection(items=4, sampled_items=2, samples=2, max_tokens=3)


@pytest.fixture(autouse=True)
def _nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_latest", None)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Patches of each pass of a tower."""
    seen: list[int] = []
    forward = VisionModel.forward

    def counted(self: VisionModel, pixels: torch.Tensor, *rest: object) -> object:
        seen.append(len(pixels))
        return forward(self, pixels, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(VisionModel, "forward", counted)
    return seen


def asked(model: Qwen3VL, folder: Path, seed: int = 0) -> list[Answer]:
    return suites.ask(model, Processor.from_pretrained(folder), SECTION, seed)


def test_the_next_model_has_the_pictures_and_answers_as_if_it_had_not(
    tiny_dir: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, later = Qwen3VL.from_pretrained(tiny_dir), Qwen3VL.from_pretrained(tiny_dir)
    with torch.no_grad():
        later.text.embed.weight.mul_(-1.5)
    first = asked(base, tiny_dir)
    once = len(passes)
    assert once > 0
    second = asked(later, tiny_dir)
    assert len(passes) == once, "the tower is the same, and so are the questions"
    assert [one.responses for one in second] != [one.responses for one in first]
    monkeypatch.setattr(reading, "_latest", None)
    assert asked(later, tiny_dir) == second
    assert len(passes) == 2 * once


def test_in_half_precision_the_next_model_has_them_too(tiny_dir: Path, passes: list[int]) -> None:
    """Features held outside of autocast are still those that were computed in it."""
    half = SECTION.model_copy(update={"precision": "bf16"})
    base, later = Qwen3VL.from_pretrained(tiny_dir), Qwen3VL.from_pretrained(tiny_dir)
    first = suites.ask(base, Processor.from_pretrained(tiny_dir), half, 0)
    once = len(passes)
    assert once > 0
    assert suites.ask(later, Processor.from_pretrained(tiny_dir), half, 0) == first
    assert len(passes) == once


def test_another_tower_sees_for_itself(tiny_dir: Path, passes: list[int]) -> None:
    base, trained = Qwen3VL.from_pretrained(tiny_dir), Qwen3VL.from_pretrained(tiny_dir)
    with torch.no_grad():
        next(iter(trained.vision.parameters())).mul_(1.001)
    asked(base, tiny_dir)
    once = len(passes)
    asked(trained, tiny_dir)
    assert len(passes) == 2 * once


def test_other_questions_are_read_anew(tiny_dir: Path, passes: list[int]) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    first = asked(model, tiny_dir)
    other = asked(model, tiny_dir, seed=1)
    assert {one.id for one in first} != {one.id for one in other}
    assert [one.question for one in other] == [one.text for one in suites.questions(4, 2, 1)]
    once = len(passes)
    asked(model, tiny_dir)  # the questions of seed 0 are drawn anew: other objects, which nobody vouches for
    assert len(passes) > once


def test_pictures_beyond_what_is_held_are_encoded_when_they_are_asked_about(
    tiny_dir: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    whole = asked(model, tiny_dir)
    monkeypatch.setattr(reading, "_latest", None)
    monkeypatch.setattr(reading, "HELD_BYTES", 1)
    monkeypatch.setattr(reading, "TOGETHER", 4)
    few = asked(model, tiny_dir)
    assert [one.id for one in few] == [one.id for one in whole]
    once = len(passes)
    asked(model, tiny_dir)
    assert len(passes) > once
