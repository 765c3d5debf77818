"""Rollouts by our own engine: the model itself, copies of it, 8-bit weights with what corrects for them, and phases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from casts import Casts
from PIL import Image
from tiny import moe_config, tiny_config
from vllm_like import asking, shaken

from open4ov import training
from open4ov.engine import Completion, Engine, Request, VisionCache, int8
from open4ov.engine.half import products
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe_rl_rollout import RolloutSection
from open4ov.rl import importance
from open4ov.rl.generation import generator
from open4ov.rl.generation.offload import Away, Phases
from open4ov.rl.prefix import SharedPrefix, log_probs
from open4ov.rl.rollout import encoded_prompts
from open4ov.rl.tasks import Task
from open4ov.sample import Sample

PICTURE = Image.new("RGB", (64, 96), (200, 30, 40))
int8_here = pytest.mark.skipif(not int8.available(), reason="this PyTorch has no FBGEMM")


@pytest.fixture
def parts(tiny_dir: Path) -> tuple[Qwen3VL, Processor]:
    model = Qwen3VL.from_pretrained(tiny_dir)
    training.freeze_vision(model)
    return model, Processor.from_pretrained(tiny_dir)


def section(**options: object) -> RolloutSection:
    return RolloutSection.model_validate(options)


def tokens(found: Sequence[Sequence[Completion]]) -> list[list[list[int]]]:
    return [[one.token_ids for one in group] for group in found]


def scored(
    model: Qwen3VL, processor: Processor, requests: Sequence[Request], found: list[list[Completion]]
) -> torch.Tensor:
    """log p of every response token by the model, as the trainer computes it [R]."""
    tasks = [Task(Sample(id="t", source="t", task="t"), r.messages, r.images) for r in requests]
    prompts = encoded_prompts(processor, tasks, Engine(model, processor).vision_cache)
    with torch.no_grad():
        return log_probs(model, SharedPrefix.build(prompts, tokens(found)), requests[0].temperature)[0]


def said(found: list[list[Completion]]) -> torch.Tensor:
    return torch.tensor([value for group in found for one in group for value in one.log_probs])


@pytest.mark.parametrize("options", [{}, {"ahead": True}])
def test_it_says_what_the_policy_says_and_is_stamped(
    parts: tuple[Qwen3VL, Processor], options: dict[str, bool]
) -> None:
    model, processor = parts
    rolls = generator.build(model, processor, section(**options), version=3)
    assert rolls.apart == bool(options)
    requests = asking(4, PICTURE, temperature=0.8)
    for version in (3, 4):
        found = rolls.generate(requests)
        assert tokens(found) == tokens(Engine(model, processor).generate(requests))
        assert {one.weight_version for group in found for one in group} == {version}
        torch.testing.assert_close(said(found), scored(model, processor, requests, found), atol=1e-4, rtol=1e-4)
        shaken(model)
        assert rolls.update_weights() == version + 1
    rolls.close()


def test_a_copy_does_not_change_under_an_update_and_shares_a_frozen_tower(parts: tuple[Qwen3VL, Processor]) -> None:
    model, processor = parts
    rolls = generator.CopyGenerator(model, processor)
    requests = asking(4, PICTURE)
    before = rolls.generate(requests)
    shaken(model)
    assert tokens(rolls.generate(requests)) == tokens(before)
    assert rolls.engine.model.vision is model.vision
    assert rolls.engine.model.text.embed.weight.data_ptr() != model.text.embed.weight.data_ptr()
    assert rolls.vision_cache is rolls.engine.vision_cache
    mine = VisionCache(model, processor)
    assert generator.build(model, processor, section(), mine).vision_cache is mine
    ahead = generator.build(model, processor, section(ahead=True), mine)
    assert ahead.vision_cache is mine
    assert isinstance(ahead, generator.CopyGenerator)
    assert ahead.engine.vision_cache is mine
    trained = next(model.text.parameters())
    assert trained.requires_grad  # the copy has none, and takes nobody's
    assert not any(p.requires_grad for p in rolls.engine.model.parameters())


def test_a_trained_tower_is_copied_and_the_trainers_features_are_its_own(tiny_dir: Path) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    rolls = generator.CopyGenerator(model, processor)
    requests = asking(2, PICTURE)
    before = rolls.generate(requests)
    with torch.no_grad():
        for weight in model.vision.parameters():
            weight.mul_(1.5)
    assert tokens(rolls.generate(requests)) == tokens(before)
    assert rolls.vision_cache.model is model
    rolls.update_weights()
    assert said(rolls.generate(requests)).tolist() == said(Engine(model, processor).generate(requests)).tolist()
    assert next(model.vision.parameters()).requires_grad


@int8_here
def test_eight_bits_are_not_exact_and_importance_weights_say_by_how_much(parts: tuple[Qwen3VL, Processor]) -> None:
    model, processor = parts
    rolls = generator.build(model, processor, section(weights="int8"))
    requests = asking(8, PICTURE)
    for _ in range(2):
        found = rolls.generate(requests)
        old = scored(model, processor, requests, found)
        weights = importance.weights(old, said(found))
        assert float((weights - 1).abs().mean()) > 1e-4
        response = torch.cat([torch.full((len(o.token_ids),), i) for i, o in enumerate(o for g in found for o in g)])
        told = importance.statistics(old, said(found), response, 16)
        assert 1e-4 < told.gap < 0.1  # a copy that was not made anew would be far off
        assert abs(told.geometric - 1) < 0.1
        shaken(model, 0.2)
        rolls.update_weights()


def test_fp8_needs_a_gpu_and_says_so(parts: tuple[Qwen3VL, Processor]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match="fp8 is computed on an NVIDIA GPU"):
        generator.build(*parts, section(weights="fp8"))


def test_an_engine_that_gave_its_memory_up_answers_as_before(parts: tuple[Qwen3VL, Processor]) -> None:
    model, processor = parts
    rolls = generator.OwnGenerator(model, processor)
    requests = asking(4, PICTURE)
    before = rolls.generate(requests)
    held = rolls.engine._store.keys.nbytes
    assert held > 0
    rolls.release()
    assert rolls.engine._store.keys.nbytes == rolls.engine._store.values.nbytes == 0
    after = rolls.generate(requests)
    assert rolls.engine._store.keys.nbytes == held
    assert (tokens(after), said(after).tolist()) == (tokens(before), said(before).tolist())
    number = rolls.engine.add(requests[0])
    with pytest.raises(RuntimeError, match="at work"):
        rolls.release()
    rolls.engine.abort(number)


def stepped(model: Qwen3VL, optimizer: training.Optimizer, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=g)
    training.step(model, optimizer, 1e-3, 1.0)


@pytest.mark.parametrize("make", [training.adamw, training.muon])
def test_phases_leave_every_bit_as_it_was(tiny_dir: Path, make: object) -> None:
    """`cpu:0` is another device than `cpu` to PyTorch: the state really moves, if not far."""
    ends = []
    for on in (False, True):
        model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
        training.freeze_vision(model)
        optimizer = make(model, 1e-3)  # type: ignore[operator]
        rolls = generator.OwnGenerator(model, processor)
        phases = Phases(rolls, optimizer, on)
        phases._away.device = torch.device("cpu", 0)
        found = []
        for step in range(3):
            with phases.generation():
                there = {one.data_ptr() for one in phases._away._there.values()}
                held = {value.data_ptr() for held in optimizer.state.values() for value in held.values()}
                assert held == there if on else not there
                found.append(tokens(rolls.generate(asking(2, PICTURE))))
            with phases.update():
                assert (rolls.engine._store.keys.nbytes == 0) is on
                stepped(model, optimizer, step)
            rolls.update_weights()
        state = [value.clone() for held in optimizer.state.values() for value in held.values()]
        ends.append((found, [p.clone() for p in model.parameters()], state))
    assert ends[0][0] == ends[1][0]
    for plain, moved in zip([*ends[0][1], *ends[0][2]], [*ends[1][1], *ends[1][2]], strict=True):
        assert torch.equal(plain, moved)


def test_the_optimizers_state_is_elsewhere_meanwhile(parts: tuple[Qwen3VL, Processor]) -> None:
    model, _ = parts
    optimizer = training.adamw(model, 1e-3)
    with Away(optimizer, "meta"):
        assert not optimizer.state  # nothing yet, before the first step
    stepped(model, optimizer, 0)
    Away(optimizer, "meta").__enter__()
    assert {v.device.type for held in optimizer.state.values() for v in held.values()} == {"meta"}


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("config", [tiny_config, moe_config])
def test_products_weights_in_what_is_computed_in_change_no_bit(tiny_dir: Path, config: Any, tie: bool) -> None:
    """What processes generate with; also after an update."""
    processor, half = Processor.from_pretrained(tiny_dir), torch.bfloat16
    model, twin = (Qwen3VL(config(processor, tie), seed=2) for _ in range(2))
    names = products(twin)
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(False)
        parameter.data = parameter.data.to(half if name in names else parameter.dtype)
    assert ("head.weight" in names) == (not tie)
    assert sum(twin.get_parameter(name).numel() for name in names) > sum(p.numel() for p in twin.text.parameters()) / 2
    engine, other = Engine(model, processor, autocast=half), Engine(twin, processor, autocast=half)
    requests = asking(4, PICTURE, temperature=0.8)
    for _ in range(2):
        wanted, found = engine.generate(requests), other.generate(requests)
        assert tokens(found) == tokens(wanted)
        assert said(found).equal(said(wanted))
        shaken(model)
        engine.update_weights()
        twin.load_state_dict(model.state_dict())
        other.update_weights()


@pytest.mark.parametrize("config", [tiny_config, moe_config])
def test_a_copy_holds_what_it_computes_with_and_says_the_same(tiny_dir: Path, config: Any) -> None:
    """One step ahead in bf16, before and after an update."""
    processor, half = Processor.from_pretrained(tiny_dir), torch.bfloat16
    model = Qwen3VL(config(processor), seed=2)
    training.freeze_vision(model)
    engine = Engine(model, processor, autocast=half)
    ahead = generator.build(model, processor, section(ahead=True), autocast=half)
    assert isinstance(ahead, generator.CopyGenerator)
    twin = ahead.engine.model
    requests = asking(4, PICTURE, temperature=0.8)
    for _ in range(2):
        held = {name: p.dtype for name, p in twin.named_parameters() if p.dtype != torch.float32}
        assert held == dict.fromkeys(products(twin), half)
        wanted = engine.generate(requests)
        with Casts(twin) as casts:
            found = ahead.generate(requests)
        assert casts.counts["text.embed.weight"] == 1, "the head's, which is tied"
        assert tokens(found) == tokens(wanted)
        assert said(found).equal(said(wanted))
        shaken(model)
        engine.update_weights()
        ahead.update_weights()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
