"""Raking against iterative proportional fitting worked out apart, and what it does where targets cannot be met."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from open4ov.admission.raking import Floats, rake


def members(rows: int, columns: int) -> Floats:
    """Of the cells of a table, row by row: the row's label, then the column's."""
    row = np.repeat(np.eye(rows), columns, axis=0)
    return np.concatenate([row, np.tile(np.eye(columns), (rows, 1))], axis=1)


def fitted(table: Floats, rows: Floats, columns: Floats) -> Floats:
    """Deming and Stephan's way: rows and columns in turn."""
    for _ in range(10_000):
        table = table * (rows / table.sum(axis=1))[:, None]
        table = table * (columns / table.sum(axis=0))
    return table


def test_it_goes_to_what_iterative_proportional_fitting_goes_to() -> None:
    table = np.array([[40.0, 30, 20, 10], [35, 50, 100, 75], [30, 80, 70, 120], [20, 30, 40, 50]])
    rows, columns = np.array([150.0, 300, 400, 150]), np.array([200.0, 300, 400, 100])
    found = rake(table.ravel(), members(4, 4), np.concatenate([rows, columns]), np.full(16, 1e9), 2)
    np.testing.assert_allclose(found.reshape(4, 4), fitted(table, rows, columns), rtol=1e-4)
    np.testing.assert_allclose(found.reshape(4, 4).sum(axis=1), rows, rtol=1e-6)


@given(st.lists(st.integers(1, 200), min_size=6, max_size=6), st.integers(0, 2**31))
def test_any_full_table_meets_any_targets(sizes: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, columns = random.dirichlet([3.0] * 2) * 90 + 5, random.dirichlet([3.0] * 3) * 85 + 5
    found = rake(np.array(sizes, dtype=float), members(2, 3), np.concatenate([rows, columns]), np.full(6, 1e9), 2)
    np.testing.assert_allclose(found.reshape(2, 3).sum(axis=1), rows, rtol=1e-3)
    np.testing.assert_allclose(found.reshape(2, 3).sum(axis=0), columns, rtol=1e-3)


def test_a_cell_never_has_more_than_its_bound_and_a_barred_label_has_nothing() -> None:
    sizes, inside = np.array([100.0, 10, 50]), np.eye(3)
    found = rake(sizes, inside, np.array([80.0, 80, 0]), sizes * 3, 1)
    np.testing.assert_allclose(found, [80, 30, 0])


def test_targets_that_contradict_each_other_end_in_a_compromise() -> None:
    """Rows want 10 to 90 and columns 50 to 50, but only the diagonal is there: the sums nearest to both by divergence
    are the geometric means, and not what the last axis wanted."""
    found = rake(np.array([50.0, 50]), members(2, 2)[[0, 3]], np.array([10.0, 90, 50, 50]), np.full(2, 1e9), 2)
    np.testing.assert_allclose(found, [(10 * 50) ** 0.5, (90 * 50) ** 0.5], rtol=1e-5)


def test_a_sample_of_two_labels_counts_for_both_by_halves() -> None:
    inside = np.array([[1.0, 0], [0.5, 0.5], [0, 1]])
    found = rake(np.array([10.0, 10, 10]), inside, np.array([20.0, 10]), np.full(3, 1e9), 1)
    np.testing.assert_allclose(inside.T @ found, [20, 10], rtol=1e-6)
