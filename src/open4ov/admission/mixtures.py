"""Mixture models by EM, and how many classes there are by a criterion: Gaussians with diagonal covariance over rows of
numbers, and latent class analysis (independent categories within a class; Lazarsfeld and Henry 1968) over rows of
categories.

For each number of classes from 1 on several starts are run, seeded by k-means++ (of numbers) or by rows (of
categories), and the likeliest goes on; the number with the lowest criterion wins, the smaller one where they are equal:

    BIC = −2·log L + parameters·log N        ICL = BIC + 2·entropy of the memberships (Biernacki et al. 2000)

Shapes: N rows, D columns, K classes, V categories of a column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SHORT, STEPS = 12, 400
"""EM's steps of every start, and at most of the likeliest of them, which goes on"""
CLOSE = 1e-6
"""Gain of log-likelihood by row at which EM ends"""
PATIENCE = 3
"""Numbers of classes in a row without a better criterion after which no more are tried"""
FLOOR = 1e-3
"""Least variance of a Gaussian's dimension, of that of all rows: a class of equal rows would have a likelihood without
bound"""
COUNTED = 0.5
"""What is added to each category's number in a class: Jeffreys' prior, which keeps probabilities above 0"""


class Model(Protocol):
    """A fitted mixture."""

    def log_joint(self, rows: Any) -> Floats:
        """log p(row, class) [N, K]"""
        ...

    @property
    def parameters(self) -> int: ...


@dataclass(frozen=True)
class Gaussians:
    """`weights` [K], `means` and `variances` [K, D]."""

    weights: Floats
    means: Floats
    variances: Floats

    @property
    def parameters(self) -> int:
        classes, width = self.means.shape
        return classes - 1 + 2 * classes * width

    def log_joint(self, rows: Floats) -> Floats:
        precision = 1 / self.variances
        distance = (
            rows**2 @ precision.T - 2 * rows @ (self.means * precision).T + (self.means**2 * precision).sum(axis=1)
        )
        scale = np.log(self.variances).sum(axis=1) + rows.shape[1] * math.log(2 * math.pi)
        return np.log(self.weights) - 0.5 * (distance + scale)


@dataclass(frozen=True)
class LatentClasses:
    """`weights` [K]; `chances` [K, V]: of every category of every column, one column after the other; a column's sum to
    1 in each class."""

    weights: Floats
    chances: Floats
    columns: int

    @property
    def parameters(self) -> int:
        classes, categories = self.chances.shape
        return classes - 1 + classes * (categories - self.columns)

    def log_joint(self, rows: Floats) -> Floats:
        """`rows`: [N, V] as `one_hot` gives them; a column where a row has nothing says nothing of it."""
        return np.log(self.weights) + rows @ np.log(self.chances).T


@dataclass(frozen=True)
class Chosen:
    """The model whose criterion is lowest, and the curve: for each number tried {classes, log_likelihood, parameters,
    bic, icl}. `edge`: it has the most classes that were allowed, so more may fit better."""

    model: Model
    classes: int
    curve: list[dict[str, float]]
    edge: bool


def gaussians(rows: Floats, most: int, starts: int, seed: int, criterion: Literal["bic", "icl"] = "bic") -> Chosen:
    """Of rows [N, D] that are finite."""
    floor = np.maximum(rows.var(axis=0), 1e-12) * FLOOR

    def maximise(parts: Floats) -> Gaussians:
        held = np.maximum(parts.sum(axis=0), 1e-10)
        means = parts.T @ rows / held[:, None]
        variances = parts.T @ rows**2 / held[:, None] - means**2
        return Gaussians(held / held.sum(), means, np.maximum(variances, floor))

    def start(classes: int, random: np.random.Generator) -> Floats:
        centres = [int(random.integers(len(rows)))]
        nearest = ((rows - rows[centres[0]]) ** 2 / floor).sum(axis=1)
        while len(centres) < classes:
            chance = nearest / nearest.sum() if nearest.sum() > 0 else np.full(len(rows), 1 / len(rows))
            centres.append(int(random.choice(len(rows), p=chance)))
            nearest = np.minimum(nearest, ((rows - rows[centres[-1]]) ** 2 / floor).sum(axis=1))
        distance = np.stack([((rows - rows[centre]) ** 2 / floor).sum(axis=1) for centre in centres], axis=1)
        return np.eye(classes)[distance.argmin(axis=1)]

    return _choose(rows, maximise, start, most, starts, seed, criterion)


def latent_classes(
    rows: Floats, sizes: Sequence[int], most: int, starts: int, seed: int, criterion: Literal["bic", "icl"] = "bic"
) -> Chosen:
    """Of rows [N, V] of `one_hot`; column d has `sizes[d]` categories."""
    ends = np.cumsum(sizes)
    columns = [slice(int(end) - size, int(end)) for end, size in zip(ends, sizes, strict=True)]

    def maximise(parts: Floats) -> LatentClasses:
        held = np.maximum(parts.sum(axis=0), 1e-10)
        chances = parts.T @ rows + COUNTED
        for column in columns:
            chances[:, column] /= chances[:, column].sum(axis=1, keepdims=True)
        return LatentClasses(held / held.sum(), chances, len(sizes))

    def start(classes: int, random: np.random.Generator) -> Floats:
        centres = rows[random.choice(len(rows), size=classes, replace=len(rows) < classes)]
        alike = rows @ centres.T + random.random((len(rows), classes))
        return np.eye(classes)[alike.argmax(axis=1)] * 0.8 + 0.2 / classes

    return _choose(rows, maximise, start, most, starts, seed, criterion)


def one_hot(rows: Ints, sizes: Sequence[int]) -> Floats:
    """Category numbers [N, D] (-1: not known) as ones and zeros [N, V], one column's categories after another's."""
    parts = [(rows[:, [column]] == np.arange(size)).astype(np.float64) for column, size in enumerate(sizes)]
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(rows), 0))


def assign(model: Model, rows: Any) -> Ints:
    """The likeliest class of each row [N]; the first of equals."""
    return model.log_joint(rows).argmax(axis=1)


def _choose(
    rows: Any,
    maximise: Callable[[Floats], Model],
    start: Callable[[int, np.random.Generator], Floats],
    most: int,
    starts: int,
    seed: int,
    criterion: Literal["bic", "icl"],
) -> Chosen:
    curve: list[dict[str, float]] = []
    best: tuple[float, int, Model] | None = None
    for classes in range(1, min(most, len(rows)) + 1):
        first = [
            _fit(rows, maximise, start(classes, np.random.default_rng((seed, classes, number))), SHORT)
            for number in range(starts if classes > 1 else 1)
        ]
        parts = max(first, key=lambda run: run[1])[2]
        model, likelihood, parts = _fit(rows, maximise, parts, STEPS)
        entropy = float(-(parts * np.log(np.maximum(parts, 1e-300))).sum())
        bic = -2 * likelihood + model.parameters * math.log(len(rows))
        figures = {"log_likelihood": likelihood, "bic": bic, "icl": bic + 2 * entropy}
        curve.append(
            {"classes": classes, "parameters": model.parameters} | {k: round(v, 4) for k, v in figures.items()}
        )
        if best is None or figures[criterion] < best[0] - 1e-9 * abs(best[0]):
            best = figures[criterion], classes, model
        if classes - best[1] >= PATIENCE:
            break
    assert best is not None, "there are no rows"
    return Chosen(best[2], best[1], curve, edge=best[1] == most > 1)


def _fit(rows: Any, maximise: Callable[[Floats], Model], parts: Floats, steps: int) -> tuple[Model, float, Floats]:
    """EM from memberships [N, K]: the model, its log-likelihood, and its memberships."""
    before = -math.inf
    for step in range(1, steps + 1):
        model = maximise(parts)
        joint = model.log_joint(rows)
        top = joint.max(axis=1, keepdims=True)
        each = top[:, 0] + np.log(np.exp(joint - top).sum(axis=1))
        parts = np.exp(joint - each[:, None])
        now = float(each.sum())
        if now - before < CLOSE * len(rows) or step == steps:
            return model, now, parts
        before = now
    raise AssertionError("EM takes a step at least")
