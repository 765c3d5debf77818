"""Latent classes: planted ones are found, where there are none one class is, and a hidden imbalance is told."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from made import sample

from open4ov.admission.latent import attributes, length_bin, project, study
from open4ov.admission.mixtures import Floats, Ints, assign, gaussians, latent_classes, one_hot
from open4ov.admission.uniformity import chi_square_p, spread, worth
from open4ov.recipe_balance import BalanceSection
from open4ov.sample import Sample


def adjusted_rand(one: Sequence[int] | Ints, other: Sequence[int] | Ints) -> float:
    """How alike two partitions of the same things are: 1 the same, about 0 as by chance (Hubert and Arabie 1985)."""
    a, b = np.unique(np.asarray(one), return_inverse=True)[1], np.unique(np.asarray(other), return_inverse=True)[1]
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)

    def pairs(counts: Floats) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, first, second, every = pairs(table), pairs(table.sum(1)), pairs(table.sum(0)), len(a) * (len(a) - 1) / 2
    expected = first * second / every if every else 0.0
    most = (first + second) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


@pytest.mark.parametrize("criterion", ["bic", "icl"])
@pytest.mark.parametrize("seed", range(3))
def test_planted_gaussians_are_found(seed: int, criterion: str) -> None:
    random = np.random.default_rng(seed)
    planted = random.choice(4, size=400, p=[0.4, 0.3, 0.2, 0.1])
    rows = np.eye(4)[planted] * 6 + random.normal(size=(400, 4)) * random.uniform(0.5, 1, size=4)
    found = gaussians(rows, 8, 4, seed, criterion)  # type: ignore[arg-type]
    assert found.classes == 4
    assert not found.edge
    assert adjusted_rand(planted, assign(found.model, rows)) > 0.95
    assert [point["classes"] for point in found.curve] == [1, 2, 3, 4, 5, 6, 7]  # three worse ones end the search


@pytest.mark.parametrize("seed", range(4))
def test_planted_categories_are_found(seed: int) -> None:
    random = np.random.default_rng(seed)
    planted = random.integers(0, 3, size=600)
    rows = np.stack(
        [np.where(random.random(600) < 0.85, planted, random.integers(0, 3, 600)) for _ in range(6)], axis=1
    )
    rows[random.random(rows.shape) < 0.1] = -1  # not known
    told = one_hot(rows, [3] * 6)
    found = latent_classes(told, [3] * 6, 7, 4, seed)
    assert found.classes == 3
    assert adjusted_rand(planted, assign(found.model, told)) > 0.9


@pytest.mark.parametrize("seed", range(4))
def test_without_structure_there_is_one_class(seed: int) -> None:
    random = np.random.default_rng(seed)
    assert gaussians(random.normal(size=(300, 5)) * [1, 2, 3, 4, 5], 6, 3, seed).classes == 1
    told = one_hot(random.integers(0, 4, size=(400, 5)), [4] * 5)
    assert latent_classes(told, [4] * 5, 6, 3, seed).classes == 1


def test_bic_is_that_of_a_gaussian_worked_out_by_hand() -> None:
    rows = np.array([[0.0], [2.0], [4.0]])
    (point,) = gaussians(rows, 1, 1, 0).curve
    variance = 8 / 3
    likelihood = -1.5 * (math.log(2 * math.pi * variance) + 1)
    assert point["log_likelihood"] == pytest.approx(likelihood, abs=1e-3)
    assert point["bic"] == pytest.approx(-2 * likelihood + 2 * math.log(3), abs=1e-3)


def test_the_same_twice() -> None:
    rows = np.random.default_rng(1).normal(size=(200, 3))
    one, other = (gaussians(rows, 4, 3, 5) for _ in range(2))
    assert one.curve == other.curve
    assert np.array_equal(one.model.log_joint(rows), other.model.log_joint(rows))


def test_adjusted_rand_of_known_partitions() -> None:
    # the example of Hubert and Arabie's formula in scikit-learn's documentation
    assert adjusted_rand([0, 0, 1, 2], [0, 0, 1, 1]) == pytest.approx(0.571428, abs=1e-5)
    assert adjusted_rand([0, 0, 1, 1], [5, 5, 3, 3]) == 1
    assert adjusted_rand([0, 0, 0, 0], [0, 1, 2, 3]) == 0


def test_chi_square_of_the_tables() -> None:
    for statistic, freedom, p in ((3.841459, 1, 0.05), (18.307038, 10, 0.05), (135.8067, 100, 0.01), (6.2514, 3, 0.1)):
        assert chi_square_p(statistic, freedom) == pytest.approx(p, rel=1e-4)
    assert chi_square_p(10, 2) == pytest.approx(math.exp(-5), rel=1e-12)  # two degrees of freedom: e^(−x/2)
    assert chi_square_p(0, 4) == 1


def test_spread_of_known_volumes() -> None:
    even, odd, one, gap = spread([5, 5, 5, 5]), spread([8, 4, 2, 2]), spread([7]), spread([4, 0])
    assert (even["entropy"], even["effective"], even["gini"], even["max_min"], even["p"]) == (1, 4, 0, 1, 1)
    assert odd["entropy"] == 0.875  # 1.75 bits of 2
    assert odd["gini"] == 0.3125
    assert odd["chi_square"] == 6  # Σ (n − 4)² / 4
    assert (one["entropy"], one["p"]) == (1, None)
    assert (gap["max_min"], gap["gini"]) == (None, 0.5)
    assert spread([])["entropy"] is None
    assert spread([8, 4, 2, 2], worth([2] * 8))["chi_square"] == 3  # eight samples, each twice
    assert worth([2] * 8) == 8


def test_lengths_and_projections() -> None:
    assert [length_bin(text) for text in ("yes", "五个字的话", "word " * 17)] == [
        "at most 4 words", "at most 16 words", "at most 48 words",
    ]  # fmt: skip
    rows = np.random.default_rng(0).normal(size=(40, 6))
    projected = project(rows, np.arange(40))
    assert projected.shape == (40, 4)
    assert np.array_equal(projected, project(rows, np.arange(40)))
    assert (projected.var(axis=0)[:-1] >= projected.var(axis=0)[1:]).all()


def planted(big: int, small: int) -> list[Sample]:
    """One label over two kinds of samples that look nothing alike, so many of each."""
    return [
        sample(
            number,
            "Cars ~ Lights",
            "Naming",
            task="a" if number < big else "b",
            language="en" if number < big else "zh",
        )
        for number in range(big + small)
    ]


def looks(samples: Sequence[Sample]) -> Floats:
    random = np.random.default_rng(0)
    return np.array([[9.0 if one.task == "a" else 0, 0, 0] for one in samples]) + random.normal(size=(len(samples), 3))


def test_a_label_that_hides_an_imbalance_is_found_out() -> None:
    samples = planted(180, 20)
    found = study(samples, [1] * 200, BalanceSection(samples=200, max_clusters=6), looks)
    for kind in ("attributes", "embedding"):
        told = found[kind]
        assert told["classes"] == 2
        assert told["hidden_imbalance"]
        assert [(row["before"], row["after"]) for row in told["clusters"]] == [(180, 180), (20, 20)]
        assert told["labels"]["domain"] == [
            {"label": "Cars", "clusters": [180, 20], "entropy": 0.468996, "gini": 0.4, "max_min": 9.0}
        ]
    assert found["embedding"]["clusters"][1]["task"] == [["b", 1.0]]
    evened = study(samples, [1 if one.task == "a" else 9 for one in samples], BalanceSection(samples=360), looks)
    assert not evened["embedding"]["hidden_imbalance"]
    assert evened["embedding"]["before"]["max_min"] == 9
    assert evened["embedding"]["after"]["max_min"] == 1


def test_more_samples_than_are_looked_at() -> None:
    found = study(planted(180, 20), [1] * 200, BalanceSection(samples=200, cluster_samples=50), looks)
    assert found["embedding"]["fitted_on"] == found["embedding"]["looked_at"] == 50


def test_what_says_nothing_is_left_out_of_attributes() -> None:
    rows, values = attributes(planted(3, 2))
    assert values == [["a", "b"], ["en", "zh"]]
    assert rows.tolist() == [[0, 0]] * 3 + [[1, 1]] * 2
    same, none = attributes(planted(4, 0))
    assert (same.shape, none) == ((4, 0), [])
    alone = study(planted(4, 0), [1] * 4, BalanceSection(samples=4), None)
    assert alone["attributes"]["classes"] == 1
