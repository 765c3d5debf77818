"""A model cut into stages computes what the whole one does: values and gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from packs import grouped_pack, model_of, plain_pack, shared_pack
from torch import Tensor

from open4ov.errors import UserError
from open4ov.model import Memory, Pack, Processor, Qwen3VL, VisionFeatures
from open4ov.model import pack as laid
from open4ov.model.moe import Routing
from open4ov.parallel.layout import Layout
from open4ov.parallel.stage import Stage, cut
from open4ov.sample import assistant, user

BORDERS = [[], [1], [1, 2], [0, 3]]
"""Two taps, three layers: taps cross a border where the first stage has none or one layer; ends without layers"""


def through(
    stages: list[Stage],
    pack: Pack,
    vision: VisionFeatures | None,
    rows: Tensor,
    memory: Memory | None = None,
    routings: list[Routing] | None = None,
    room: int | None = None,
) -> Tensor:
    if vision is None and len(pack.pixels):
        vision = stages[0].vision(pack.pixels, pack.grids)  # pyright: ignore[reportOptionalCall]
    x = taps = None
    for stage in stages:
        layout = Layout.of(pack, stage.config, room=room)
        given = vision if stage.begins else None
        assert x is None or (taps is not None and taps.shape[:2] == (stage.taps_in(), layout.room))
        x, taps = stage(layout, x, taps, given, memory, routings, rows if stage.ends else None)
        assert stage.ends or len(taps) == stage.taps_out()
    assert x is not None
    return x


def compare(
    model: Qwen3VL, borders: list[int], compute: Callable[[Qwen3VL | list[Stage]], Tensor], exact: bool = True
) -> None:
    stages = cut(copy.deepcopy(model), borders)
    values = [compute(one) for one in (model, stages)]
    assert torch.equal(*values)
    weights = torch.linspace(-1, 1, values[0].numel()).view_as(values[0])
    for value in values:
        (value * weights).sum().backward()
    found: dict[str, Tensor | None] = {}
    for stage in stages:
        found |= {name: p.grad for name, p in stage.named_parameters()}
    expected = {name: p.grad for name, p in model.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        other = found[name]
        assert (gradient is None) == (other is None), name
        if gradient is not None and other is not None:
            far = (other - gradient).abs().max() / gradient.abs().max().clamp(min=1e-12)
            assert far <= 1e-5, f"{name}: {far:.1e} of its largest value"


@pytest.fixture
def processor(tiny_dir: Path) -> Processor:
    return Processor.from_pretrained(tiny_dir)


@pytest.mark.parametrize("borders", BORDERS, ids=str)
@pytest.mark.parametrize("kind", ["dense", "untied", "experts"])
def test_stages_compute_what_the_whole_model_does(processor: Processor, kind: str, borders: list[int]) -> None:
    model = model_of(processor, kind)
    for pack in (plain_pack(processor), shared_pack(processor)):
        rows = pack.predicted - 1
        seen: dict[type, list[Routing]] = {list: [], Qwen3VL: []}

        def hidden(
            one: Qwen3VL | list[Stage],
            pack: Pack = pack,
            rows: Tensor = rows,
            seen: dict[type, list[Routing]] = seen,
        ) -> Tensor:
            if isinstance(one, list):
                return through(one, pack, None, rows, routings=seen[list], room=50)
            return one.hidden_states(pack, rows=rows, routings=seen[Qwen3VL])

        model.zero_grad()
        compare(model, borders, hidden)
        assert len(seen[list]) == len(seen[Qwen3VL]) == (3 if kind == "experts" else 0)
        for a, b in zip(*seen.values(), strict=True):
            assert torch.equal(a.balance(), b.balance())


@pytest.mark.parametrize("borders", [[], [1], [1, 2]], ids=str)
@pytest.mark.parametrize("kind", ["dense", "experts"])
def test_stages_attend_over_a_memory(processor: Processor, kind: str, borders: list[int]) -> None:
    model = model_of(processor, kind)
    shared = grouped_pack(processor, model)

    def hidden(one: Qwen3VL | list[Stage]) -> Tensor:
        if isinstance(one, list):
            return through(one, shared.pack, shared.vision, shared.read, memory=shared)
        return one.hidden_states(shared.pack, shared.vision, memory=shared, rows=shared.read)

    compare(model, borders, hidden)


def test_a_pack_without_pictures(processor: Processor) -> None:
    model = model_of(processor, "dense")
    text = laid([processor.encode([user("1 + 1 ="), assistant("2")], [])])

    def hidden(one: Qwen3VL | list[Stage]) -> Tensor:
        rows = text.predicted - 1
        return through(one, text, None, rows) if isinstance(one, list) else one.hidden_states(text, rows=rows)

    compare(model, [1], hidden)


def test_names_are_those_of_the_whole_model(processor: Processor) -> None:
    model = model_of(processor, "dense")
    names = [name for name, _ in model.named_parameters()]
    stages = cut(model, [1, 2])
    assert sorted({name for stage in stages for name, _ in stage.named_parameters()}) == sorted(names)
    assert [stage.twin for stage in stages] == ["text.embed.weight", None, "text.embed.weight"]
    assert [(stage.begins, stage.ends) for stage in stages] == [(True, False), (False, False), (False, True)]
    assert stages[2].head_weight is stages[0].get_parameter("text.embed.weight")


def test_a_misfit_names_its_document(processor: Processor) -> None:
    model = model_of(processor, "dense")
    pack = plain_pack(processor)
    vision = model.encode_images(pack.pixels, pack.grids)
    less = VisionFeatures(vision.merged[1:], [tap[1:] for tap in vision.deepstack])
    (stage,) = cut(model, [])
    with pytest.raises(UserError, match="placeholders"):
        stage(Layout.of(pack, stage.config), vision=less)
    with pytest.raises(ValueError, match="taps of 3 rows"):
        Layout.of(pack, stage.config, room=3)


def test_a_later_stage_is_no_model_of_its_own(processor: Processor) -> None:
    with pytest.raises(ValueError, match="layers 2 to 3"):
        Stage(model_of(processor, "dense"), 2, 4)
