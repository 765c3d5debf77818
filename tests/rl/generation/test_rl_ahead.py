"""One step ahead: the weights of exactly one update before, the same bytes for one seed, and a run that goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vllm_like import asking, shaken

from open4ov import training
from open4ov.engine import Completion, Engine, Request
from open4ov.engine.generate import Progress
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe_rl_rollout import RolloutSection
from open4ov.rl.generation import generator
from open4ov.rl.generation.ahead import Ahead

PICTURE = Image.new("RGB", (64, 96), (200, 30, 40))
STEPS = 4


def requests(step: int) -> list[Request] | None:
    return [replace(one, seed=100 * step + one.seed) for one in asking(3, PICTURE)] if step < STEPS else None


def parts(tiny_dir: Path) -> tuple[Qwen3VL, Processor]:
    model = Qwen3VL.from_pretrained(tiny_dir)
    training.freeze_vision(model)
    return model, Processor.from_pretrained(tiny_dir)


def built(model: Qwen3VL, processor: Processor) -> generator.Generator:
    return generator.build(model, processor, RolloutSection(ahead=True))


def run(tiny_dir: Path) -> list[list[list[Completion]]]:
    model, processor = parts(tiny_dir)
    found = []
    with Ahead(built(model, processor), requests) as ahead:
        for step in range(STEPS):
            found.append(ahead.next(step))
            shaken(model)
    return found


def test_the_policy_is_that_of_one_update_before(tiny_dir: Path) -> None:
    found = run(tiny_dir)
    assert [{one.weight_version for group in step for one in group} for step in found] == [{0}, {0}, {1}, {2}]
    model, processor = parts(tiny_dir)
    for step, responses in enumerate(found):
        if step > 1:  # of step 2 by the weights after the update of step 0
            shaken(model)
        asked = requests(step)
        assert asked is not None
        expected = Engine(model, processor).generate(asked)
        for group, own in zip(responses, expected, strict=True):
            assert [one.token_ids for one in group] == [one.token_ids for one in own]
            for one, other in zip(group, own, strict=True):
                assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)


def test_the_same_seed_gives_the_same_bytes(tiny_dir: Path) -> None:
    assert run(tiny_dir) == run(tiny_dir)


def test_a_run_that_goes_on_has_the_same_responses(tiny_dir: Path) -> None:
    whole = run(tiny_dir)
    model, processor = parts(tiny_dir)
    with Ahead(built(model, processor), requests) as ahead:
        for step in range(2):
            ahead.next(step)
            shaken(model)
        kept = json.loads(json.dumps(ahead.state()))
    rolls = generator.build(model, processor, RolloutSection(ahead=True), version=2)  # of the model as it is by now
    with Ahead(rolls, requests, kept) as ahead:
        with pytest.raises(ValueError, match="step 2 was generated ahead, not 3"):
            ahead.next(3)
        assert ahead.next(2) == whole[2]
        shaken(model)
        assert ahead.next(3) == whole[3]
        assert ahead.state() is None


class Slow:
    """A generator that generates for as long as it is told to, and says who called it."""

    apart, weight_version = True, 0

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.fault: Exception | None = None

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Completion]]:
        if self.fault:
            raise self.fault
        if any(one.seed >= 100 for one in requests):
            self.begun.set()
            assert self.go.wait(20)
        return [[] for _ in requests]

    def update_weights(self) -> int:
        return 0


def test_the_caller_goes_on_while_responses_are_generated() -> None:
    slow = Slow()
    ahead = Ahead(slow, requests)  # type: ignore[arg-type]
    assert ahead.next(0) == [[], [], []]
    assert slow.begun.wait(20)  # the next step's are under way, and we are here
    slow.go.set()
    slow.fault = generator.GeneratorGone("gone")
    assert ahead.next(1) == [[], [], []]
    with pytest.raises(generator.GeneratorGone, match="gone"):
        ahead.next(2)
    ahead.close()


def test_the_trained_model_itself_cannot_generate_ahead(tiny_dir: Path) -> None:
    with pytest.raises(ValueError, match="build it with `ahead`"):
        Ahead(generator.build(*parts(tiny_dir), RolloutSection()), requests)


@pytest.mark.parametrize("ahead", [True, False])
def test_nothing_is_recorded_while_a_training_waits_for_the_gpu(
    tiny_dir: Path, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the whole card ends a recording under way in another thread."""
    model, processor = parts(tiny_dir)
    asked: list[object] = []

    def noted(*args: Any, **options: Any) -> Engine:
        asked.append(options["graphs"])
        return Engine(*args, **options)

    monkeypatch.setattr(generator, "Engine", noted)
    generator.build(model, processor, RolloutSection(ahead=ahead))
    assert asked == [not ahead]
