"""Learning-rate factors, worked out by hand, and the average of weights against plain numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from open4ov.averaging import Average, interpolate
from open4ov.schedules import Kind, factor, warmup_cosine

GOLDEN: list[tuple[Kind, list[float]]] = [
    ("cosine", [0.5, 1.0, 0.969846, 0.883022, 0.75, 0.586824, 0.413176, 0.25, 0.116978, 0.030154]),
    ("wsd", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]),
    ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
]
"""Ten steps of ten tokens; two of them warm up, and wsd goes down over the last three."""


@pytest.mark.parametrize(("kind", "expected"), GOLDEN)
def test_factors_of_ten_steps(kind: Kind, expected: list[float]) -> None:
    found = [factor(kind, done, 10, 100, warmup=0.2, decay=0.3) for done in range(10, 110, 10)]
    assert found == pytest.approx(expected, abs=1e-6)
    floored = [factor(kind, done, 10, 100, warmup=0.2, decay=0.3, floor=0.1) for done in range(10, 110, 10)]
    risen = [0.5, *(0.1 + 0.9 * value for value in expected[1:])]
    assert floored == pytest.approx(floored if kind == "constant" else risen, abs=1e-6)


def test_cosine_by_steps() -> None:
    expected = [0.5 * (1 + math.cos(math.pi * k / 5)) for k in (1, 2, 3, 4)]
    assert [warmup_cosine(done, 4, 0.0) for done in range(4)] == pytest.approx(expected)


@given(
    st.sampled_from(["cosine", "wsd", "constant"]),
    st.lists(st.integers(1, 4096), min_size=1, max_size=60),
    st.floats(0, 1),
    st.floats(0.01, 1),
)
def test_a_factor_rises_then_falls_and_no_step_is_in_vain(
    kind: Kind, sizes: list[int], warmup: float, decay: float
) -> None:
    total, done, found = sum(sizes), 0, []
    for size in sizes:
        done += size
        found.append(factor(kind, done, size, total, warmup, decay))
    assert all(0 < value <= 1 for value in found)
    assert factor(kind, done + 999, sizes[-1], total, warmup, decay) == found[-1], "beyond the end it stays"
    even = [factor(kind, n + 1, 1, 40, warmup, decay) for n in range(40)]
    top = even.index(max(even))
    assert even[:top] == sorted(even[:top])
    assert even[top:] == sorted(even[top:], reverse=True)


def test_the_average_of_weights_by_hand() -> None:
    model = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(model.weight)
    model.bias.requires_grad_(False)
    average = Average(model, decay=0.5)
    assert set(average.weights) == {"weight"}
    expected = 0.0
    for step, value in enumerate([1.0, 2.0, -3.0, 4.0, 0.5, 7.0, 1.0, 1.0, 1.0, 2.0]):
        torch.nn.init.constant_(model.weight, value)
        average.update(model)
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * value
        assert float(average.weights["weight"]) == pytest.approx(expected, rel=1e-6)
    assert 0.5 < (1 + 9) / (10 + 9), "the last steps are averaged with the decay itself"


def test_weights_part_of_the_way() -> None:
    start, model = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(2, 1, bias=False).to(torch.bfloat16)
    start.weight.data = torch.tensor([[1.0, -2.0]])
    model.weight.data = torch.tensor([[5.0, 2.0]], dtype=torch.bfloat16)
    interpolate(model, start.named_parameters(), 0.75)
    assert model.weight.tolist() == [[4.0, 1.0]]
    assert model.weight.dtype == torch.bfloat16
    with pytest.raises(KeyError, match="weight"):
        interpolate(model, [], 0.5)
    with pytest.raises(KeyError, match="bias"):
        interpolate(model, torch.nn.Linear(2, 1).named_parameters(), 0.5)
