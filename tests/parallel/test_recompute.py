"""Recomputation changes what is kept, never what comes out."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from oracle import conversations
from packs import shared_pack
from tiny import moe_config
from torch import Tensor

from open4ov.errors import UserError
from open4ov.model import Pack, Processor, Qwen3VL, pack
from open4ov.model.moe import Routing
from open4ov.parallel import recompute
from open4ov.rl.prefix import SharedPrefix, log_probs
from open4ov.sample import user


@pytest.fixture(params=["dense", "experts"])
def model(request: pytest.FixtureRequest, tiny_dir: Path) -> Qwen3VL:
    if request.param == "dense":
        return Qwen3VL.from_pretrained(tiny_dir)
    return Qwen3VL(moe_config(Processor.from_pretrained(tiny_dir), router_aux_loss_coef=0.1), seed=1)


@pytest.fixture
def batch(tiny_dir: Path) -> Pack:
    return pack(conversations(Processor.from_pretrained(tiny_dir))["batch"])


def gradients(model: Qwen3VL, batch: Pack) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = model.loss(batch)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_values_and_gradients_stay_and_less_is_kept(model: Qwen3VL, batch: Pack) -> None:
    kept: dict[str, int] = {}
    loss, plain = gradients(model, batch)
    for mode in ("none", "op", "full"):
        recompute.apply(model, language=mode, vision=mode)
        kept[mode] = recompute.saved_bytes(lambda: model.loss(batch))
        again, found = gradients(model, batch)
        torch.testing.assert_close(again, loss)
        assert found.keys() == plain.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, plain[name], atol=1e-6, rtol=1e-5, msg=name)
    assert kept["none"] > 1.3 * kept["op"] > 1.3 * kept["full"]


def test_language_and_vision_are_told_apart(model: Qwen3VL, batch: Pack) -> None:
    plain = recompute.saved_bytes(lambda: model.loss(batch))
    recompute.apply(model, vision="full")
    vision = recompute.saved_bytes(lambda: model.loss(batch))
    recompute.apply(model, language="full")
    language = recompute.saved_bytes(lambda: model.loss(batch))
    recompute.apply(model)
    assert plain > vision
    assert plain > language
    assert vision != language
    # other threads of the process may allocate a little beside it
    assert recompute.saved_bytes(lambda: model.loss(batch)) == pytest.approx(plain, rel=0.02)


def test_routings_are_counted_once(tiny_dir: Path, batch: Pack) -> None:
    model = Qwen3VL(moe_config(Processor.from_pretrained(tiny_dir)), seed=1)
    recompute.apply(model, language="op")
    routings: list[Routing] = []
    model.hidden_states(batch, routings=routings).sum().backward()
    assert len(routings) == 3


def test_an_unknown_mode_is_refused(model: Qwen3VL) -> None:
    with pytest.raises(UserError, match="language is 'some'; it can be none, op, full"):
        recompute.apply(model, language="some")  # pyright: ignore[reportArgumentType]


def test_a_copy_is_on_its_own(model: Qwen3VL, batch: Pack) -> None:
    recompute.apply(model, language="full", vision="op")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    twin.loss(batch).backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert float(twin.loss(batch).detach()) != float(model.loss(batch).detach())


def test_shared_prefixes_recompute_too(tiny_dir: Path) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    prompt = processor.encode([user("red green blue " * 5)], [], generate=True)
    groups = SharedPrefix.build([(prompt, None)], [[[5, 6, 7]] * 3])
    kept, found = [], []
    for mode in ("none", "full"):
        recompute.apply(model, language=mode)
        kept.append(recompute.saved_bytes(lambda: log_probs(model, groups)[0].sum()))
        model.zero_grad()
        log_probs(model, groups)[0].sum().backward()
        found.append(model.text.layers[0].attention.q.weight.grad.clone())
    assert kept[0] > 2 * kept[1]
    torch.testing.assert_close(found[0], found[1])


def test_packs_with_a_shared_beginning_recompute_with_experts(tiny_dir: Path) -> None:
    """What their routing adds up is weighed by how many documents a token stands in."""
    processor = Processor.from_pretrained(tiny_dir)
    model, found = Qwen3VL(moe_config(processor, router_aux_loss_coef=0.5), seed=1), []
    for mode in ("none", "op", "full"):
        recompute.apply(model, language=mode)
        found.append(gradients(model, shared_pack(processor)))
    for loss, own in found[1:]:
        assert torch.equal(loss, found[0][0])
        for name, gradient in own.items():
            torch.testing.assert_close(gradient, found[0][1][name], msg=name)


@pytest.mark.parametrize("left_out", [("mm", "addmm"), ("bmm",), ("_grouped_mm",)])
def test_products_are_kept(
    tiny_dir: Path, batch: Pack, left_out: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a product in the list, `op` keeps less."""
    model = Qwen3VL(moe_config(Processor.from_pretrained(tiny_dir)), seed=1)
    recompute.apply(model, language="op", vision="op")

    def kept() -> int:
        with torch.autocast("cpu", torch.bfloat16):
            return recompute.saved_bytes(lambda: model.loss(batch))

    before = kept()
    monkeypatch.setattr(recompute, "KEPT", tuple(name for name in recompute.KEPT if name not in left_out))
    assert kept() < before
