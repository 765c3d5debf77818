"""Loops and noise are stopped by the engine while it generates, and never count for anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from open4ov.engine import Completion, Engine, Request
from open4ov.engine.degeneration import EVERY, Degeneration
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe_rl_rollout import RolloutSection
from open4ov.rl import advantage, degenerate
from open4ov.sample import user

REASONS = ["stop", "length", "repetition", "garbled"]


def ended(*reasons: str) -> list[Completion]:
    return [Completion("", [1], [0.0], reason, 0) for reason in reasons]


def test_a_degenerate_response_is_wrong_and_never_better_than_its_group() -> None:
    group = ended("stop", "repetition", "length", "garbled")
    correct = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert degenerate.signal(group, correct).tolist() == [1, 0, 1, 0]
    assert correct.tolist() == [1, 1, 1, 0]
    assert degenerate.held_down(group, torch.tensor([0.5, 0.5, -0.5, -0.25])).tolist() == [0.5, 0, -0.5, -0.25]
    with pytest.raises(ValueError, match="4 responses"):
        degenerate.signal(group, correct[:2])


@settings(max_examples=40)
@given(st.lists(st.sampled_from(REASONS), min_size=2, max_size=8), st.integers(0, 255), st.floats(0, 3))
def test_no_degenerate_response_ever_has_a_positive_advantage(reasons: list[str], bits: int, weight: float) -> None:
    """Whatever the verifier says, and however the length channel likes it for being short."""
    group = ended(*reasons)
    correct = torch.tensor([float(bits >> i & 1) for i in range(len(group))], dtype=torch.float64)
    lengths = torch.where(degenerate.mask(group), 0.0, -1.0).double()
    judged = degenerate.signal(group, correct)
    found = advantage.pass_at_k(judged, 1) + advantage.centred_length(lengths, weight)
    held = degenerate.held_down(group, found)
    assert bool((held[degenerate.mask(group)] <= 0).all())
    assert torch.equal(held[~degenerate.mask(group)], found[~degenerate.mask(group)])


def test_what_is_looked_for_fits_the_longest_response() -> None:
    section = RolloutSection()
    assert degenerate.watch(section, 4096) == Degeneration()
    short = degenerate.watch(section, 64)
    assert short is not None
    assert short.repeated == 32
    assert degenerate.watch(RolloutSection(stop_loops=False), 64) is None


def looping(model: Qwen3VL) -> Qwen3VL:
    """The tiny model, made to say the same token for ever."""
    with torch.no_grad():
        for layer in model.text.layers:
            for weight in layer.parameters():
                weight.zero_()
        model.text.embed.weight[300] = model.text.embed.weight[300].sign() * 3
    return model


def test_the_engine_stops_a_loop_before_it_ends_by_its_length(tiny_dir: Path) -> None:
    model, processor = looping(Qwen3VL.from_pretrained(tiny_dir)), Processor.from_pretrained(tiny_dir)
    watched = degenerate.watch(RolloutSection(), 200)
    request = Request([user("x")], max_tokens=200, degeneration=watched, ignore_eos=True)
    ((stopped,),) = Engine(model, processor).generate([request])
    assert stopped.finish_reason == "repetition"
    assert len(stopped.token_ids) < 120
    ((whole,),) = Engine(model, processor).generate([Request([user("x")], max_tokens=200, ignore_eos=True)])
    assert whole.finish_reason == "length"
    assert watched is not None
    size = model.config.text.vocab_size
    found = watched.first(whole.token_ids, whole.log_probs, size, processor.decode)
    assert found == (len(stopped.token_ids), "repetition")  # what other engines' responses are cut by
    assert watched.first(whole.token_ids[:EVERY], whole.log_probs[:EVERY], size, processor.decode) is None
