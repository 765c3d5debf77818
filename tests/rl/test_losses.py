"""GSPO, GRPO and DAPO against TRL's own loss function, values and gradients, and what the weights of TIS do to them."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from open4ov.rl import grpo, gspo, losses

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "trl_losses.json").read_text())["cases"]
SCRIPT = Path(__file__).with_name("trl_losses.py")


@dataclass
class Clips:
    clip_low: float | None = None
    clip_high: float | None = None


def named(case: dict[str, Any]) -> str:
    return f"{case['loss']}-{case['weighted'] or 'none'}"


def flat(rows: list[list[float]]) -> Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=torch.float64)


def ours(case: dict[str, Any]) -> tuple[Tensor, Tensor, losses.RatioStatistics]:
    logp = flat(case["logp"]).requires_grad_()
    response = torch.tensor([i for i, row in enumerate(case["logp"]) for _ in row])
    weights = None if case["weights"] is None else flat(case["weights"])
    clips = Clips(case["low"], case["high"])
    advantages = torch.tensor(case["advantages"], dtype=torch.float64)
    value, statistics = losses.loss(case["loss"], logp, flat(case["old"]), response, advantages, clips, weights)
    value.backward()
    assert logp.grad is not None
    return value, logp.grad, statistics


@pytest.mark.parametrize("case", GOLDEN, ids=named)
def test_values_and_gradients_are_trls(case: dict[str, Any]) -> None:
    value, gradient, statistics = ours(case)
    assert value.item() == pytest.approx(case["value"], abs=1e-9)
    assert statistics.clipped_low == pytest.approx(case["clipped_low"], abs=1e-6)
    assert statistics.clipped_high == pytest.approx(case["clipped_high"], abs=1e-6)
    if (case["loss"], case["weighted"]) != ("gspo", "token"):
        torch.testing.assert_close(gradient, flat(case["gradient"]), atol=1e-9, rtol=1e-7)
        return
    # GSPO with weights of tokens: TRL moves all tokens of a response by its mean weight, we each by its own
    means = [sum(row) / len(row) for row in case["weights"]]
    shares = torch.cat([torch.tensor(row) / mean for row, mean in zip(case["weights"], means, strict=True)])
    torch.testing.assert_close(gradient, flat(case["gradient"]) * shares, atol=1e-9, rtol=1e-7)
    assert not torch.allclose(gradient, flat(case["gradient"]), atol=1e-9)


def test_the_golden_cases_clip_and_do_not_clip() -> None:
    shares = {(case["loss"], side): 0.0 for case in GOLDEN for side in ("clipped_low", "clipped_high")}
    for case in GOLDEN:
        for side in ("clipped_low", "clipped_high"):
            shares[case["loss"], side] += case[side]
            assert case[side] < 1
    assert all(shares.values()), shares


@pytest.mark.slow
def test_trl_says_so_still(tmp_path: Path) -> None:
    python = os.environ.get("OPEN4OV_TRL_PYTHON")
    if not python:
        pytest.skip("OPEN4OV_TRL_PYTHON names no interpreter with TRL (scripts/trl_venv.sh DIR makes an environment)")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    asked = subprocess.run([python, SCRIPT, "--cases"], capture_output=True, check=True, env=environment).stdout
    done = subprocess.run([python, SCRIPT], input=asked, capture_output=True, check=True, env=environment)
    fresh = json.loads(done.stdout)["cases"]
    assert [named(case) for case in fresh] == [named(case) for case in GOLDEN]
    for old, new in zip(GOLDEN, fresh, strict=True):
        assert new["logp"] == old["logp"]
        assert new["value"] == pytest.approx(old["value"], abs=1e-12)
        torch.testing.assert_close(flat(new["gradient"]), flat(old["gradient"]), atol=1e-12, rtol=1e-12)


def made(seed: int, sizes: list[int], spread: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    response = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    old = -torch.rand(len(response), generator=g, dtype=torch.float64) * 3
    logp = (old + torch.randn(len(old), generator=g, dtype=torch.float64) * spread).requires_grad_()
    advantages = torch.randn(len(sizes), generator=g, dtype=torch.float64)
    weights = torch.rand(len(old), generator=g, dtype=torch.float64) * 2
    return logp, old, response, advantages, weights


SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@settings(max_examples=40)
@given(st.integers(0, 10**6), SIZES)
def test_the_weighted_gspo_gradient_is_the_derived_one(seed: int, sizes: list[int]) -> None:
    """dJ_i/dlogp_t = w_t s_i A_i / |y_i| where the bound does not hold it back, else 0; the loss is minus the mean."""
    logp, old, response, advantages, weights = made(seed, sizes, 5e-4)
    value, _ = gspo.loss(logp, old, response, advantages, weights=weights)
    value.backward()
    size = torch.tensor(sizes, dtype=torch.float64)
    with torch.no_grad():
        means = torch.zeros(len(sizes), dtype=torch.float64).index_add(0, response, logp - old) / size
        s = means.exp()
        held = ((s > 1 + 4e-4) & (advantages > 0)) | ((s < 1 - 3e-4) & (advantages < 0))
        expected = -(weights * (s * advantages * ~held / size)[response]) / len(sizes)
        objective = torch.minimum(s * advantages, s.clamp(1 - 3e-4, 1 + 4e-4) * advantages)
        mean_weight = torch.zeros(len(sizes), dtype=torch.float64).index_add(0, response, weights) / size
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, expected)
    torch.testing.assert_close(value.detach(), -(mean_weight * objective).mean())


@settings(max_examples=40)
@given(st.integers(0, 10**6), SIZES, st.sampled_from(sorted(losses.KINDS)))
def test_weights_of_one_change_nothing(seed: int, sizes: list[int], kind: str) -> None:
    logp, old, response, advantages, _ = made(seed, sizes, 5e-4 if kind == "gspo" else 0.3)
    found = []
    for weights in (None, torch.ones_like(old)):
        value, _ = losses.loss(kind, logp, old, response, advantages, Clips(), weights)
        found.append((value.detach(), *torch.autograd.grad(value, logp)))
    for plain, weighted in zip(*found, strict=True):
        torch.testing.assert_close(plain, weighted)


@settings(max_examples=40)
@given(st.integers(0, 10**6), SIZES)
def test_on_policy_weighted_gspo_and_grpo_have_one_gradient(seed: int, sizes: list[int]) -> None:
    logp, _, response, advantages, weights = made(seed, sizes, 0)
    gradients = []
    for one in (gspo, grpo):
        value, statistics = one.loss(logp, logp.detach(), response, advantages, weights=weights)
        assert (statistics.ratio, statistics.ratio_min, statistics.ratio_max) == (1, 1, 1)
        gradients.append(torch.autograd.grad(value, logp)[0])
    torch.testing.assert_close(*gradients)


def test_weights_have_no_gradient_and_prompts_no_part() -> None:
    logp = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    weights = torch.tensor([9.0, 0.5, 0.25], requires_grad=True)
    for kind in losses.KINDS:
        value, _ = losses.loss(
            kind, logp, logp.detach(), torch.tensor([-1, 0, 0]), torch.tensor([2.0]), Clips(), weights
        )
        gradient, nothing = torch.autograd.grad(value, (logp, weights), allow_unused=True)
        assert nothing is None
        assert gradient.tolist() == [0, -0.5, -0.25]


def test_long_responses_weigh_more_in_dapo_only() -> None:
    logp = torch.zeros(4, requires_grad=True)
    response = torch.tensor([0, 0, 0, 1])
    expected = {"gspo": [-1 / 6] * 3 + [-0.5], "grpo": [-1 / 6] * 3 + [-0.5], "dapo": [-0.25] * 4}
    for kind, gradient in expected.items():
        value, _ = losses.loss(kind, logp, torch.zeros(4), response, torch.ones(2), Clips())
        assert torch.autograd.grad(value, logp)[0].tolist() == pytest.approx(gradient)


@pytest.mark.parametrize("kind", sorted(losses.KINDS))
def test_parts_of_a_batch_make_the_whole_when_weighed(kind: str) -> None:
    sizes = [3, 1, 5, 2]
    logp, old, response, advantages, weights = made(3, sizes, 0.1)
    clips = Clips(0.05, 0.06)
    whole, _ = losses.loss(kind, logp, old, response, advantages, clips, weights)
    total = 0.0
    for first, last in ((0, 1), (1, 4)):
        mine = (response >= first) & (response < last)
        part, _ = losses.loss(
            kind, logp[mine], old[mine], response[mine] - first, advantages[first:last], clips, weights[mine]
        )
        share = losses.mean_over(kind, last - first, sum(sizes[first:last])) / losses.mean_over(kind, 4, sum(sizes))
        total = total + part * share
    torch.testing.assert_close(total, whole)


def test_bounds_follow_the_loss_unless_they_are_set() -> None:
    assert losses.bounds("gspo", Clips()) == (3e-4, 4e-4)
    assert losses.bounds("grpo", Clips()) == (0.2, 0.2)
    assert losses.bounds("dapo", Clips()) == (0.2, 0.28)
    assert losses.bounds("dapo", Clips(0.1)) == (0.1, 0.28)
    with pytest.raises(ValueError, match="'gpso'; did you mean 'gspo'"):
        losses.bounds("gpso", Clips())


def test_ratios_are_told_with_their_extremes() -> None:
    logp = torch.tensor([0.0, 0.4, -0.3, -0.1])
    _, found = losses.loss("dapo", logp, torch.zeros(4), torch.tensor([0, 0, 1, 1]), torch.tensor([1.0, -1.0]), Clips())
    assert found.ratio_min == pytest.approx(torch.tensor(-0.3).exp().item())
    assert found.ratio_max == pytest.approx(torch.tensor(0.4).exp().item())
    assert (found.clipped_low, found.clipped_high) == (0.25, 0.25)


@pytest.mark.parametrize("kind", sorted(losses.KINDS))
def test_a_response_without_tokens_is_refused_by_all(kind: str) -> None:
    with pytest.raises(ValueError, match=r"without tokens: \[1\]"):
        losses.loss(kind, torch.zeros(2), torch.zeros(2), torch.tensor([0, 0]), torch.ones(2), Clips())
