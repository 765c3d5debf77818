from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from open4ov.rl import gspo

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "rl.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["gspo"])
def test_golden(case: dict) -> None:
    logp = torch.tensor(case["delta"], dtype=torch.float64, requires_grad=True)
    loss, statistics = gspo.loss(
        logp, torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.long), torch.tensor([case["advantage"]])
    )
    loss.backward()
    assert -loss.item() == pytest.approx(case["objective"], abs=1e-7)
    assert statistics.ratio == pytest.approx(case["ratio"], abs=1e-6)
    assert logp.grad is not None
    assert bool(logp.grad.any()) is case["flows"]
    assert statistics.clipped_low + statistics.clipped_high == (0 if case["flows"] else 1)


def test_every_response_weighs_the_same_and_prompts_nothing() -> None:
    """On policy the gradient of response i is -A_i / (B |y_i|) at each of its tokens."""
    logp = torch.tensor([-5.0, -1, -2, -9, -3], dtype=torch.float64, requires_grad=True)
    documents = torch.tensor([-1, 0, 0, -1, 1])
    loss, statistics = gspo.loss(logp, logp.detach(), documents, torch.tensor([0.5, -2.0]))
    loss.backward()
    assert loss.item() == pytest.approx(0.75)
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([0, -0.125, -0.125, 0, 1.0])
    assert (statistics.clipped_low, statistics.clipped_high) == (0, 0)


def test_interleaved_tokens_find_their_response() -> None:
    new = torch.tensor([0.3, 0.1, -0.2, 0.5])
    old = torch.zeros(4)
    loss, _ = gspo.loss(new, old, torch.tensor([0, 1, 0, 1]), torch.tensor([-1.0, -1.0]))
    expected = (torch.tensor(0.05).exp() + torch.tensor(0.3).exp()) / 2
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_response_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"without tokens: \[1\]"):
        gspo.loss(torch.zeros(2), torch.zeros(2), torch.tensor([0, 0]), torch.ones(2))
