"""New weights: all or none, and nothing of the old ones is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_generate import mixed_requests
from torch import Tensor

from open4ov.engine import Engine, weights
from open4ov.engine.quantize import quantize
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL

State = dict[str, Tensor]
FIRST, LAST = "text.embed.weight", "text.norm.weight"


@pytest.fixture(scope="module")
def processor(tiny_dir: Path) -> Processor:
    return Processor.from_pretrained(tiny_dir)


@pytest.fixture
def engine(tiny_dir: Path, processor: Processor) -> Engine:
    return Engine(Qwen3VL.from_pretrained(tiny_dir), processor, watch=False)


@pytest.fixture
def other(tiny_dir: Path) -> State:
    return Qwen3VL(Qwen3VL.from_pretrained(tiny_dir).config, seed=9).state_dict()


def tokens(engine: Engine) -> list[list[int]]:
    return [one.token_ids for found in engine.generate(mixed_requests()[:3]) for one in found]


def bits(engine: Engine) -> State:
    return {name: value.clone() for name, value in engine.model.state_dict().items()}


BAD: dict[str, tuple[Callable[[State], object], str]] = {
    "another shape": (lambda state: state.update({LAST: torch.ones(3)}), rf"{LAST} has shape \[3\]"),
    "one is missing": (lambda state: state.pop(LAST), f"{LAST} is missing"),
    "one too many": (lambda state: state.update({"text.layers.99.x": torch.ones(1)}), "text.layers.99.x is unknown"),
    "complex numbers": (lambda state: state.update({LAST: state[LAST] + 1j}), f"{LAST} holds no plain real"),
    "no numbers": (lambda state: state.update({LAST: state[LAST].to("meta")}), f"{LAST} holds no plain real"),
    "nothing that fits": (lambda state: state.clear(), "is missing.* more; nothing was changed"),
}


@pytest.mark.parametrize("case", BAD)
def test_weights_that_do_not_fit_change_nothing(engine: Engine, other: State, case: str) -> None:
    change, said = BAD[case]
    before, held = tokens(engine), bits(engine)
    change(other)
    with pytest.raises(UserError, match=said):
        engine.update_weights(other)
    assert all(torch.equal(held[name], value) for name, value in engine.model.state_dict().items())
    assert engine.weight_version == 0
    assert tokens(engine) == before


def test_an_update_that_breaks_off_is_not_answered_with(
    engine: Engine, other: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half old and half new would be a model that nobody has trained. A whole update mends it, and nothing that was
    computed before or between is used."""
    tokens(engine)
    load = engine.model.load_state_dict

    def break_off(state: State) -> None:
        load({name: other[name] if name == FIRST else value for name, value in bits(engine).items()})
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine.model, "load_state_dict", break_off)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.update_weights(other)
    with pytest.raises(RuntimeError, match="update them again"):
        tokens(engine)
    assert not engine.busy
    monkeypatch.undo()
    engine.update_weights(other)
    fresh = Engine(Qwen3VL(engine.model.config, seed=9), engine.processor)
    assert tokens(engine) == tokens(fresh)


def test_what_fits_is_what_the_model_has(engine: Engine, other: State) -> None:
    weights.check(engine.model, engine.model.state_dict())
    names = dict(engine.model.state_dict())
    quantize(engine.model, "int8")
    weights.check(engine.model, names)
    name = "text.layers.0.mlp.up.weight"
    with pytest.raises(UserError, match=rf"{name} has numbers that are not finite"):
        weights.check(engine.model, {**names, name: names[name] * float("nan")})
    before = tokens(engine)
    with pytest.raises(UserError, match=rf"{name} has shape"):
        engine.update_weights({**other, name: other[name][:-1]})
    assert tokens(engine) == before
