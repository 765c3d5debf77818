"""Loops and noise are stopped by the engine while it generates."""

from __future__ import annotations

from pathlib import Path

import torch

from open4ov.engine import Engine, Request
from open4ov.engine.degeneration import EVERY, Degeneration
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe_rl_rollout import RolloutSection
from open4ov.rl.generation import degenerate
from open4ov.sample import user


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
