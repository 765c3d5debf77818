"""The losses of offline RL: by hand, by TRL's own functions, and as validation measures them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from open4ov.recipe import DpoSection
from open4ov.rl import dpo
from open4ov.rl.preference import watch

GOLDEN = Path(__file__).parents[2] / "golden"
BY_HAND = json.loads((GOLDEN / "rl.json").read_text())["dpo"]
TRL = json.loads((GOLDEN / "dpo_losses.json").read_text())["cases"]


def row(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("case", BY_HAND)
def test_golden(case: dict[str, float]) -> None:
    value, figures = dpo.loss(
        torch.tensor([float(case["chosen"])]), torch.tensor([float(case["rejected"])]), case["beta"]
    )
    assert value.item() == pytest.approx(case["loss"], abs=1e-6)
    assert figures["accuracy"] == float(case["chosen"] > case["rejected"])


@pytest.mark.parametrize("case", TRL, ids=[f"{n} {case['kind']}" for n, case in enumerate(TRL)])
def test_trl_agrees(case: dict[str, Any]) -> None:
    numbers = {name: row(value) for name, value in case.items() if isinstance(value, list)}
    reference = None
    if case["kind"] == "reference":
        reference = numbers["reference_chosen"], numbers["reference_rejected"]
    value, _ = dpo.loss(
        numbers["chosen"],
        numbers["rejected"],
        float(str(case["beta"])),
        chosen_lengths=numbers["chosen_lengths"],
        rejected_lengths=numbers["rejected_lengths"],
        reference=reference,
        length_normalised=case["kind"] == "simpo",
        margin=float(str(case["margin"])),
        label_smoothing=float(str(case["label_smoothing"])),
    )
    assert value.item() == pytest.approx(float(str(case["loss"])), abs=1e-8)


def test_nll_is_a_mean_over_tokens_and_wants_lengths() -> None:
    chosen, rejected = torch.tensor([-20.0, -3.0]), torch.tensor([-25.0, -8.0])
    plain, _ = dpo.loss(chosen, rejected, 0.1)
    value, figures = dpo.loss(chosen, rejected, 0.1, 0.5, torch.tensor([10, 3]))
    assert value.item() == pytest.approx(plain.item() + 0.5 * 1.5)
    assert figures["nll"] == pytest.approx(1.5)
    with pytest.raises(ValueError, match="chosen_lengths"):
        dpo.loss(chosen, rejected, 0.1, 0.5)
    with pytest.raises(ValueError, match="rejected_lengths"):
        dpo.loss(chosen, rejected, 0.1, length_normalised=True)


def test_the_lead_asked_for_is_margin_over_beta_nats() -> None:
    """At that lead the loss is that of no preference, log 2; the figure is the lead itself, whatever beta is."""
    chosen, rejected = row([-3.0]), row([-13.0])
    value, figures = dpo.loss(chosen, rejected, 0.1, margin=1.0)
    assert value.item() == pytest.approx(0.6931472)
    assert figures["lead"] == pytest.approx(10.0)


@pytest.mark.parametrize(
    "options",
    [{"nll_weight": 0.5}, {"length_normalised": True, "beta": 2.0, "margin": 1.0}, {"label_smoothing": 0.2}],
    ids=lambda options: "+".join(options),
)
def test_validation_measures_the_loss_that_is_trained(options: dict[str, Any]) -> None:
    sums, lengths = torch.tensor([[-30.0, -60.0], [-8.0, -5.0]]), torch.tensor([[10, 40], [4, 5]])
    section = DpoSection.model_validate(options)
    trained, told = dpo.loss(
        sums[:, 0],
        sums[:, 1],
        section.beta,
        section.nll_weight,
        lengths[:, 0],
        lengths[:, 1],
        length_normalised=section.length_normalised,
        margin=section.margin,
        label_smoothing=section.label_smoothing,
    )
    found = watch.figures((sums, lengths), section)
    assert found["loss"] == pytest.approx(trained.item(), abs=1e-5)
    assert found["lead"] == pytest.approx(told["lead"], abs=1e-4)
