"""Advantages against vectors worked out elsewhere and against brute-force enumeration of every subset."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from open4ov.rl import advantage, rewards

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "rl.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["pass_at_k"], ids=lambda c: f"n{c['n']}k{c['k']}p{c['p']}")
def test_pass_at_k_golden(case: dict[str, float]) -> None:
    n, k, p = int(case["n"]), int(case["k"]), int(case["p"])
    values = advantage.pass_at_k(torch.tensor([1] * p + [0] * (n - p)), k).tolist()
    assert values == pytest.approx([case["right"]] * p + [case["wrong"]] * (n - p), abs=1e-6)


def enumerated(values: list[int], k: int) -> list[float]:
    """Each response's mean, over the k-subsets that hold it, of the subsets' standardised best reward."""
    subsets = list(combinations(range(len(values)), k))
    best = [max(values[i] for i in subset) for subset in subsets]
    spread = pstdev(best)
    if spread == 0:
        return [0.0] * len(values)
    return [
        fmean((b - fmean(best)) / spread for b, subset in zip(best, subsets, strict=True) if i in subset)
        for i in range(len(values))
    ]


@pytest.mark.parametrize("n", range(1, 13))
def test_pass_at_k_is_the_mean_over_all_subsets(n: int) -> None:
    for k in range(1, n + 1):
        for p in range(n + 1):
            values = [1] * p + [0] * (n - p)
            values = values[::2] + values[1::2]
            got = advantage.pass_at_k(torch.tensor(values), k)
            assert got.tolist() == pytest.approx(enumerated(values, k), abs=2e-5)
            assert got.sum().item() == pytest.approx(0, abs=1e-9)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=16))
def test_k_of_one_is_grpo(values: list[int]) -> None:
    mean, spread = fmean(values), pstdev(values)
    expected = [(value - mean) / spread if spread else 0.0 for value in values]
    assert advantage.pass_at_k(torch.tensor(values), 1).tolist() == pytest.approx(expected, abs=1e-9)


def test_dead_groups_are_those_without_any_advantage() -> None:
    for p, is_dead in ((0, True), (1, False), (4, False), (5, True), (8, True)):
        group = torch.tensor([1] * p + [0] * (8 - p))
        assert advantage.dead(advantage.pass_at_k(group, 4)) is is_dead
    assert not advantage.dead(advantage.pass_at_k(torch.tensor([1] * 5 + [0] * 3), 1))


@pytest.mark.parametrize(
    ("values", "k"), [([0.5, 1.0], 1), ([1.0, 0.0], 3), ([1.0, 0.0], 0), ([], 1), ([float("nan")], 1)]
)
def test_pass_at_k_refuses_what_it_cannot_grade(values: list[float], k: int) -> None:
    with pytest.raises(ValueError, match=r"pass_at_k|one group"):
        advantage.pass_at_k(torch.tensor(values), k)


@given(st.integers(1, 12), st.data())
def test_pass_at_k_property(n: int, data: st.DataObject) -> None:
    """Any order of right and wrong, any k: the mean over the subsets, which sums to zero; a wrong one never gains."""
    values = data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    k = data.draw(st.integers(1, n))
    got = advantage.pass_at_k(torch.tensor(values), k)
    assert got.tolist() == pytest.approx(enumerated(values, k), abs=1e-6)
    assert got.sum().item() == pytest.approx(0, abs=1e-9)
    assert all((gain >= 0) if value else (gain <= 0) for gain, value in zip(got.tolist(), values, strict=True))
    assert advantage.dead(got) is (sum(values) == 0 or n - sum(values) < k)
    if 0 < sum(values) < n:
        right, wrong = got[values.index(1)], got[values.index(0)]
        assert advantage.gap(n, sum(values), k) == pytest.approx(float(right - wrong), abs=1e-12)


@pytest.mark.parametrize("case", GOLDEN["pass_at_k_reward"], ids=lambda c: f"n{c['n']}k{c['k']}p{c['p']}")
def test_the_groups_mean_reward_golden(case: dict[str, float]) -> None:
    """R of the advantages' formula: a right response has (1 - R) / s, s = sqrt(R (1 - R))."""
    n, k, p, reward = int(case["n"]), int(case["k"]), int(case["p"]), case["reward"]
    if not 0 < reward < 1:
        return
    right = advantage.pass_at_k(torch.tensor([1] * p + [0] * (n - p)), k)[0].item()
    assert 1 / (1 + right**2) == pytest.approx(reward, abs=1e-6)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(wrong: float) -> None:
    for compute in (advantage.diversity, advantage.dead):
        with pytest.raises(advantage.RewardError, match="finite"):
            compute(torch.tensor([0.0, wrong]))


def test_a_single_response_teaches_nothing() -> None:
    for values in (torch.ones(1), torch.zeros(1)):
        for found in (advantage.pass_at_k(values, 1), advantage.diversity(values)):
            assert found.tolist() == [0.0]


@pytest.mark.parametrize("case", GOLDEN["diversity"], ids=lambda c: "".join(c["clusters"]))
@pytest.mark.parametrize("clusters", [False, True])
def test_diversity_golden(case: dict[str, Any], clusters: bool) -> None:
    kinds = sorted(set(case["clusters"]))
    embeddings = torch.eye(len(kinds))[[kinds.index(c) for c in case["clusters"]]]
    scores = rewards.diversity_scores(embeddings, 0.3, clusters=clusters)
    assert scores.tolist() == pytest.approx(case["scores"], abs=1e-6)
    right = torch.tensor(case["rewards"], dtype=torch.float64)
    found = rewards.combine(right, torch.zeros_like(right), length_weight=0.0, diversity=scores)
    assert found.tolist() == pytest.approx(case["advantages"], abs=1e-6)
    weighted = torch.tensor(case["weighted"], dtype=torch.float64)
    assert (found - found[0]).tolist() == pytest.approx((weighted - weighted[0]).tolist(), abs=1e-6)


def test_a_uniform_right_group_earns_the_floor_and_is_dead() -> None:
    scores = rewards.diversity_scores(torch.ones(4, 1), 0.3)
    right, none = torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    assert advantage.dead(rewards.combine(right, none, length_weight=0.0, diversity=scores))
    right[0] = 0.0
    found = rewards.combine(right, none, length_weight=0.0, diversity=scores)
    assert float(found[1] - found[0]) == pytest.approx(0.1), "a right answer of a uniform group earns the floor"
    assert advantage.dead(advantage.diversity(torch.full((7,), 0.1)))


def test_similarity_need_not_be_transitive() -> None:
    """a ~ b ~ c but a !~ c: eq. 7 averages pairs, where clusters would merge all three."""
    rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.28, 0.96]], dtype=torch.float64)
    assert rewards.diversity_scores(rows, 0.4).tolist() == pytest.approx([0.5, 0, 0.5])
    assert rewards.diversity_scores(rows, 0.4, clusters=True).tolist() == [0, 0, 0]


@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=7, max_size=7))
def test_clusters_are_what_chains_join(near: list[list[bool]]) -> None:
    """Against union-find, over any graph of seven responses."""
    cluster = list(range(7))
    adjacency = torch.eye(7, dtype=torch.float64)
    for i in range(7):
        for j in range(i):
            if near[i][j]:
                adjacency[i, j] = adjacency[j, i] = 1
                old, new = cluster[i], cluster[j]
                cluster = [new if one == old else one for one in cluster]
    values, vectors = torch.linalg.eigh(adjacency + 7 * torch.eye(7, dtype=torch.float64))
    rows = vectors * values.sqrt()
    rows = rows / rows.norm(dim=-1, keepdim=True)  # cosine 1/8 where two are joined, else 0
    found = rewards.diversity_scores(rows, 1 - 1 / 16, clusters=True).tolist()
    assert found == pytest.approx([(7 - cluster.count(one)) / 6 for one in cluster])


def test_length_channel_only_ranks_inside_the_group() -> None:
    values = advantage.centred_length(rewards.length([10, 30, 60], 48, 24), 0.5)
    assert values.tolist() == pytest.approx([0.5 * (x + 1.25 / 3) for x in (0, -0.25, -1)])
    assert advantage.dead(advantage.centred_length(torch.full((3,), -0.25), 0.5))
