"""Sampling frequencies against the distribution they are drawn from, and what top-k and top-p leave out."""

from __future__ import annotations

import pytest
import torch

from open4ov.engine.sampler import Sampling, sample

LOGITS = torch.log(torch.tensor([0.05, 0.4, 0.25, 0.3]))


def drawn(count: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> torch.Tensor:
    rows = [Sampling(temperature, top_k, top_p, seed=3, index=index) for index in range(count)]
    tokens, _ = sample(LOGITS.repeat(count, 1), rows)
    return torch.bincount(tokens, minlength=4) / count


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0.05, 0.4, 0.25, 0.3]),
        ({"temperature": 0.5}, [0.0025 / 0.315, 0.16 / 0.315, 0.0625 / 0.315, 0.09 / 0.315]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.69}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.71}, [0, 8 / 19, 5 / 19, 6 / 19]),
        ({"top_k": 3, "top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_frequencies(options: dict[str, float], wanted: list[float]) -> None:
    seen = drawn(20000, **options)  # type: ignore[arg-type]
    assert seen == pytest.approx(torch.tensor(wanted), abs=0.015)
    assert ((seen > 0) == (torch.tensor(wanted) > 0)).all()


def test_greedy_and_sampled_rows_share_a_batch() -> None:
    rows = [Sampling(0.0, 0, 1.0, 0, 0), Sampling(1.0, 0, 1.0, 0, 0), Sampling(0.0, 1, 0.1, 0, 0)]
    tokens, log_probs = sample(LOGITS.repeat(3, 1), rows)
    assert tokens[0] == tokens[2] == 1
    assert log_probs[0].exp().item() == pytest.approx(0.4, abs=1e-6)


def test_log_prob_is_of_the_whole_distribution_at_temperature() -> None:
    _, log_probs = sample(LOGITS[None], [Sampling(0.5, 1, 1.0, 0, 0)])
    assert log_probs.exp().item() == pytest.approx(0.16 / 0.315, abs=1e-6)


def test_a_row_owns_its_noise() -> None:
    def alone() -> Sampling:
        return Sampling(1.0, 0, 1.0, seed=11, index=2)

    row, lonely = alone(), alone()
    others = [Sampling(1.0, 0, 1.0, seed=11, index=i) for i in range(2)]
    for _ in range(20):
        assert sample(LOGITS.repeat(3, 1), [*others, row])[0][2] == sample(LOGITS[None], [lonely])[0][0]
