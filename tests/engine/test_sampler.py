"""Sampling frequencies against the distribution they are drawn from, and what top-k and top-p leave out."""

from __future__ import annotations

import math

import pytest
import torch

from open4ov.engine.sampler import Sampling, sample

LOGITS = torch.log(torch.tensor([0.05, 0.4, 0.25, 0.3]))


def drawn(count: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, **options: object) -> torch.Tensor:
    rows = [Sampling(temperature, top_k, top_p, seed=3, index=index, **options) for index in range(count)]  # type: ignore[arg-type]
    return torch.bincount(sample(LOGITS.repeat(count, 1), rows).tokens, minlength=4) / count


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0.05, 0.4, 0.25, 0.3]),
        ({"temperature": 0.5}, [0.0025 / 0.315, 0.16 / 0.315, 0.0625 / 0.315, 0.09 / 0.315]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.69}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.71}, [0, 8 / 19, 5 / 19, 6 / 19]),
        ({"top_k": 3, "top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]),
        ({"min_p": 0.7}, [0, 4 / 7, 0, 3 / 7]),
        ({"min_p": 0.6, "top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        (
            {"presence": math.log(2), "tokens": [1, 1, 3], "prompt": 1},
            [0.05 / 0.65, 0.2 / 0.65, 0.25 / 0.65, 0.15 / 0.65],
        ),
        ({"frequency": math.log(2), "tokens": [1, 1, 1], "prompt": 1}, [0.05 / 0.7, 0.1 / 0.7, 0.25 / 0.7, 0.3 / 0.7]),
        ({"presence": 9.0, "tokens": [1, 3], "prompt": 2}, [0.05, 0.4, 0.25, 0.3]),
    ],
)
def test_frequencies(options: dict[str, float], wanted: list[float]) -> None:
    seen = drawn(6000, **options)  # type: ignore[arg-type]
    assert seen == pytest.approx(torch.tensor(wanted), abs=0.025)
    assert ((seen > 0) == (torch.tensor(wanted) > 0)).all()


def test_greedy_and_sampled_rows_share_a_batch() -> None:
    rows = [Sampling(0.0, 0, 1.0, 0, 0), Sampling(1.0, 0, 1.0, 0, 0), Sampling(0.0, 1, 0.1, 0, 0)]
    found = sample(LOGITS.repeat(3, 1), rows)
    tokens, log_probs = found.tokens, found.log_probs
    assert tokens[0] == tokens[2] == 1
    assert log_probs[0].exp().item() == pytest.approx(0.4, abs=1e-6)


def test_log_prob_is_of_the_whole_distribution_at_temperature() -> None:
    log_probs = sample(LOGITS[None], [Sampling(0.5, 1, 1.0, 0, 0)]).log_probs
    assert log_probs.exp().item() == pytest.approx(0.16 / 0.315, abs=1e-6)


def test_a_row_owns_its_noise() -> None:
    def alone() -> Sampling:
        return Sampling(1.0, 0, 1.0, seed=11, index=2)

    row, lonely = alone(), alone()
    others = [Sampling(1.0, 0, 1.0, seed=11, index=i) for i in range(2)]
    for _ in range(20):
        assert sample(LOGITS.repeat(3, 1), [*others, row]).tokens[2] == sample(LOGITS[None], [lonely]).tokens[0]


def test_repetition_divides_and_multiplies() -> None:
    """Positive logits are divided, negative ones multiplied, of prompt and response alike (transformers' rule)."""
    logits = torch.tensor([[2.0, -1.0, 1.0, 0.5]])
    processor = pytest.importorskip("transformers").RepetitionPenaltyLogitsProcessor(1.5)
    expected = processor(torch.tensor([[0, 1, 1]]), logits.clone()).softmax(-1)[0]
    row = [Sampling(1.0, 0, 1.0, 3, index, repetition=1.5, tokens=[0, 1, 1], prompt=1) for index in range(6000)]
    found = torch.bincount(sample(logits.repeat(6000, 1), row).tokens, minlength=4) / 6000
    assert found == pytest.approx(expected, abs=0.025)


def test_log_probs_know_nothing_of_penalties_and_the_likeliest_are_given() -> None:
    rows = [Sampling(0.0, 0, 1.0, 0, 0, presence=5.0, tokens=[1], top=2), Sampling(0.0, 0, 1.0, 0, 0)]
    found = sample(LOGITS.repeat(2, 1), rows)
    assert found.tokens.tolist() == [3, 1]
    assert found.log_probs.exp().tolist() == pytest.approx([0.3, 0.4])
    assert [token for token, _ in found.top[0]] == [1, 3]
    assert [math.exp(value) for _, value in found.top[0]] == pytest.approx([0.4, 0.3])
    assert found.top[1] == []
