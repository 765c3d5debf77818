"""Latent classes of balanced data: whether labels hide an imbalance (paper §3.2.2).

"To mitigate noise from imprecise label matching, we apply a latent class-level clustering algorithm to the balanced
training data. The distribution of data volumes across different clusters helps evaluate whether optimal balance has
been achieved." Two kinds of classes, both with their number chosen by a criterion (mixtures.py):

    embedding   Gaussian mixture over what an embedder makes of picture and text, in its first principal components
    attributes  latent class analysis over labels, task, language, question type and length

Classes are fitted on the different samples of the balanced set (a repeat is no news); then the samples before and after
are put into the same classes, so that the volumes can be compared.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from open4ov.admission.balance import AXES, names
from open4ov.admission.mixtures import Chosen, Floats, Ints, assign, gaussians, latent_classes, one_hot
from open4ov.admission.uniformity import spread, worth
from open4ov.recipe_balance import BalanceSection
from open4ov.sample import Axis, Sample

COMPONENTS = 8
"""Principal components that a Gaussian mixture sees: in more dimensions than there are rows for, BIC sees one class"""
LENGTHS = (4, 16, 48)
"""Upper bounds of the bins of a response's length in words (a Chinese character counts as one)"""
EVEN = 0.01
"""The chance below which volumes are not taken for equal ones"""
TWICE = 2.0
"""The least ratio of the largest class to the smallest that is called an imbalance"""

Embed = Callable[[Sequence[Sample]], Floats]
"""Samples -> rows [N, D] that are finite"""


def study(
    samples: Sequence[Sample], counts: Sequence[int], section: BalanceSection, embed: Embed | None, seed: int = 0
) -> dict[str, Any]:
    """Figures of both kinds of classes: {"attributes": ..., "embedding": ...}; those of an `embed` that is None are not
    there. `counts`: how often each sample is in the balanced set. Of more training samples than
    `section.cluster_samples` so many are drawn, before and after each for itself."""
    training = [at for at, sample in enumerate(samples) if sample.split == "train"]
    taken = [at for at in training if counts[at]]
    assert taken, "a balanced set has a sample"
    before, after = (_some(places, samples, section.cluster_samples, seed) for places in (training, taken))
    was, now = set(before), set(after)
    looked = sorted(was | now)
    shown = [samples[at] for at in looked]
    view = _View(
        shown,
        np.array([at in was for at in looked], dtype=np.int64),
        np.array([counts[at] if at in now else 0 for at in looked], dtype=np.int64),
        section,
    )
    fitted = np.flatnonzero(view.after)
    rows, values = attributes(shown)
    sizes = [len(column) for column in values]
    told = one_hot(rows, sizes)
    most, starts, criterion = section.max_clusters, section.starts, section.criterion
    chosen = latent_classes(told[fitted], sizes, most, starts, seed, criterion)
    found = {"attributes": view.figures(chosen, assign(chosen.model, told))}
    if embed is not None:
        projected = project(embed(shown), fitted)
        chosen = gaussians(projected[fitted], most, starts, seed, criterion)
        found["embedding"] = view.figures(chosen, assign(chosen.model, projected))
    return found


def attributes(samples: Sequence[Sample]) -> tuple[Ints, list[list[str]]]:
    """What is known of each sample in categories: rows [N, D] of numbers into the values of each column, -1: unknown.

    Of several labels on an axis the first stands for all. Columns with one value say nothing and are left out.
    """
    told = [_told(sample) for sample in samples]
    columns: list[Ints] = []
    values: list[list[str]] = []
    for number in range(len(told[0])):
        there = sorted({row[number] for row in told} - {""})
        if len(there) > 1:
            place = {value: at for at, value in enumerate(there)} | {"": -1}
            columns.append(np.array([place[row[number]] for row in told], dtype=np.int64))
            values.append(there)
    rows = np.stack(columns, axis=1) if columns else np.zeros((len(samples), 0), dtype=np.int64)
    return rows, values


def length_bin(text: str) -> str:
    """Words of a text, by `LENGTHS`."""
    words = sum(1 for word in text.split() if word.isascii()) + sum("\u3400" <= letter <= "\u9fff" for letter in text)
    return next((f"at most {most} words" for most in LENGTHS if words <= most), f"over {LENGTHS[-1]} words")


def project(rows: Floats, fitted: Ints) -> Floats:
    """Rows [N, D] on the first principal components of the fitted ones, at most `COMPONENTS`, and no more than a tenth
    of their number. Signs are set so that each component's largest weight is positive: the same everywhere."""
    rows = np.asarray(rows, dtype=np.float64)
    centre = rows[fitted].mean(axis=0)
    _, _, axes = np.linalg.svd(rows[fitted] - centre, full_matrices=False)
    axes = axes[: max(1, min(COMPONENTS, len(fitted) // 10, len(axes)))]
    largest = np.abs(axes).argmax(axis=1)
    axes *= np.sign(axes[np.arange(len(axes)), largest])[:, None]
    return (rows - centre) @ axes.T


def _told(sample: Sample) -> tuple[str, ...]:
    l1 = [next(iter(names(sample, axis)), "") for axis in AXES]
    l2 = [next(iter(names(sample, axis, "l2")), "") for axis in AXES]
    answer = next((message.text for message in reversed(sample.messages) if message.role == "assistant"), "")
    kind = str(sample.extra.get("type", ""))
    return (*l1, *l2, sample.task, sample.language, kind, length_bin(answer), f"{min(len(sample.images), 2)} images")


def _some(places: Sequence[int], samples: Sequence[Sample], most: int, seed: int) -> list[int]:
    """At most so many of the places, drawn by the samples' ids and the seed; in their order."""
    if len(places) <= most:
        return list(places)
    drawn = sorted(places, key=lambda at: hashlib.sha256(f"latent/{seed}/{samples[at].id}".encode()).digest())[:most]
    return sorted(drawn)


@dataclass(frozen=True)
class _View:
    """Samples, and how often each is in the set before and after [N]."""

    samples: list[Sample]
    before: Ints
    after: Ints
    section: BalanceSection

    def figures(self, chosen: Chosen, classes: Ints) -> dict[str, Any]:
        """`classes` [N]: the class of each sample."""
        count = chosen.classes
        before, after = (np.bincount(classes, weights=one, minlength=count) for one in (self.before, self.after))
        told = spread(after.tolist(), worth(self.after.tolist()))
        ratio = told["max_min"] if told["max_min"] is not None else math.inf
        uneven = count > 1 and told["p"] is not None and told["p"] < EVEN and ratio >= TWICE
        order = sorted(range(count), key=lambda one: (-after[one], one))
        return {
            "criterion": self.section.criterion,
            "fitted_on": int((self.after > 0).sum()),
            "looked_at": len(self.samples),
            "classes": count,
            "edge": chosen.edge,
            "curve": chosen.curve,
            "before": spread(before.tolist()),
            "after": told,
            "hidden_imbalance": bool(uneven),
            "clusters": [
                {"before": int(before[one]), "after": int(after[one]), **_about(self._of(classes, one))}
                for one in order
            ],
            "labels": {axis: self._split(classes, order, axis) for axis in AXES},
        }

    def _of(self, classes: Ints, one: int) -> list[Sample]:
        return [self.samples[int(at)] for at in np.flatnonzero(classes == one)]

    def _split(self, classes: Ints, order: Sequence[int], axis: Axis) -> list[dict[str, Any]]:
        """How each label's samples of the balanced set lie over the classes (in their order), and how evenly over those
        classes that it has any of."""
        found: dict[str, Counter[int]] = {}
        for sample, count, one in zip(self.samples, self.after.tolist(), classes.tolist(), strict=True):
            for label in names(sample, axis, self.section.level):
                found.setdefault(label, Counter())[one] += count
        rows: list[dict[str, Any]] = []
        for label, held in sorted(found.items()):
            volumes = [held[one] for one in order]
            told = spread([volume for volume in volumes if volume])
            rows.append(
                {"label": label, "clusters": volumes} | {key: told[key] for key in ("entropy", "gini", "max_min")}
            )
        return rows


def _about(samples: Sequence[Sample]) -> dict[str, Any]:
    """What a class is mostly made of, for a person: each with its share of the class."""
    told: dict[str, Any] = {}
    for what, values in (
        ("domain", [name for sample in samples for name in names(sample, "domain", "l2")]),
        ("ability", [name for sample in samples for name in names(sample, "ability", "l2")]),
        ("task", [sample.task for sample in samples]),
        ("language", [sample.language for sample in samples]),
        ("length", [_told(sample)[-2] for sample in samples]),
    ):
        common = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))[:3]
        told[what] = [[value, round(count / max(1, len(samples)), 4)] for value, count in common]
    told["topics"] = [
        path
        for path, _ in sorted(
            Counter(path for sample in samples for path in sample.topics).items(), key=lambda item: (-item[1], item[0])
        )[:3]
    ]
    return told
