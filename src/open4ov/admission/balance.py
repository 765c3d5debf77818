"""Data balancing: a set whose labels have the shares that were asked for, on both axes at once (paper §3.2.2).

    labels of each sample → target shares → raking (raking.py) → an exact draw → the balanced set, and what it lacks

Abundant labels are thinned out, scarce ones repeated, no sample more than `max_repeat` times. What is missing then is a
shortfall: scarce.py asks data construction for it. Latent classes (latent.py) look at what the labels do not say.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from open4ov.admission.raking import Floats, rake
from open4ov.admission.uniformity import spread
from open4ov.errors import UserError, nearest
from open4ov.recipe_balance import SUM, BalanceSection, Target
from open4ov.sample import Axis, Sample, Step, content_id

AXES: tuple[Axis, Axis] = ("domain", "ability")
UNLABELLED = "(unlabelled)"
KEY = "admission.balance"
SLACK = 0.02
"""Share of its target below which a label that lacks something is not called scarce: what rounding leaves"""

Known = Mapping[Axis, Sequence[str]]
"""The names of the label tree on each axis, L1 as "L1" and L2 as "L1 ~ L2"."""


@dataclass(frozen=True)
class Shortfall:
    """A label that has fewer samples than it should. `have`: different ones there are; `volume`: what they count for,
    as one of several labels is that label's by its part only; `target`, `got`: of the set; `scarce`: they are too few,
    however the other axis looks. Else its samples lie under labels of the other axis that have theirs already."""

    axis: Axis
    label: str
    have: int
    volume: float
    target: int
    got: int
    scarce: bool


@dataclass(frozen=True)
class Balanced:
    """`samples`: the set, repeats with ids of their own; `counts`: how often each sample given is in it, in the order
    given; `figures`: what a report shows of it."""

    samples: list[Sample]
    counts: list[int]
    shortfalls: list[Shortfall]
    figures: dict[str, Any]


def names(sample: Sample, axis: Axis, level: str = "l1") -> list[str]:
    """The sample's labels on an axis, each once: "L1", or "L1 ~ L2" (an L1 without an L2 keeps its name)."""
    found = [
        label.l1 if level == "l1" or label.l2 is None else f"{label.l1} ~ {label.l2}"
        for label in sample.labels
        if label.axis == axis
    ]
    return list(dict.fromkeys(found))


def balance(samples: Sequence[Sample], section: BalanceSection, known: Known, seed: int = 0) -> Balanced:
    """Draws the balanced set from training samples; those of other splits stay as they are, each once.

    Raises UserError for a label that the tree does not have (with the nearest one), shares that do not sum to 1, no
    training sample, an axis without any label, or a set that would be empty.
    """
    training = [at for at, sample in enumerate(samples) if sample.split == "train"]
    if not training:
        raise UserError(f"{KEY}: there is no training sample to balance; give a set with samples of split `train`")
    check_known([samples[at] for at in training], known)
    labels = {axis: {at: names(samples[at], axis, section.level) for at in training} for axis in AXES}
    without = {axis: sum(not found for found in labels[axis].values()) for axis in AXES}
    for axis in AXES:
        if without[axis] == len(training):
            raise UserError(f"{KEY}.{axis}: no sample has a label of the axis {axis}; label the samples first")
    stay = training
    if section.unlabelled == "leave_out":
        stay = [at for at in training if all(labels[axis][at] for axis in AXES)]
        if not stay:
            raise UserError(f"{KEY}.unlabelled: leave_out leaves nothing: no sample has labels on both axes; use as_is")
    members: dict[Axis, dict[int, list[str]]] = {
        axis: {at: labels[axis][at] or [UNLABELLED] for at in stay} for axis in AXES
    }
    volumes: dict[Axis, dict[str, float]] = {axis: _volumes(members[axis].values()) for axis in AXES}
    total = len(stay) if section.samples == "as_many" else section.samples
    shares: dict[Axis, dict[str, float]] = {axis: shares_of(axis, volumes[axis], section, known) for axis in AXES}
    counts = _draw(samples, stay, members, shares, total, section.max_repeat, seed)
    if not any(counts.values()):
        raise UserError(f"{KEY}: the balanced set is empty: {_why_empty(volumes, shares, total)}")
    after = {axis: _volumes(members[axis].values(), [counts[at] for at in stay]) for axis in AXES}
    shortfalls = [
        one
        for axis in AXES
        for one in _shortfalls(axis, members[axis].values(), shares[axis], after[axis], total, section.max_repeat)
    ]
    every = [counts.get(at, 0) if sample.split == "train" else 1 for at, sample in enumerate(samples)]
    figures = {
        "level": section.level,
        "samples": {
            "given": len(samples),
            "training": len(training),
            "asked": total,
            "drawn": sum(counts.values()),
            "different": sum(count > 0 for count in counts.values()),
            "left_out": len(training) - sum(count > 0 for count in counts.values()),
            "other_splits": len(samples) - len(training),
            "times": {str(n): many for n, many in sorted(Counter(counts.values()).items())},
        },
        "axes": {
            axis: {
                "unlabelled": without[axis],
                "before": _spread(volumes[axis]),
                "after": _spread(after[axis]),
                "labels": _rows(volumes[axis], after[axis], shares[axis], total),
            }
            for axis in AXES
        },
        "shortfalls": [vars(shortfall) for shortfall in shortfalls],
    }
    drawn = [one for sample, count in zip(samples, every, strict=True) for one in _times(sample, count)]
    return Balanced(drawn, every, shortfalls, figures)


def _why_empty(
    volumes: Mapping[Axis, Mapping[str, float]], shares: Mapping[Axis, Mapping[str, float]], total: int
) -> str:
    for axis in AXES:
        wanted = [label for label, share in shares[axis].items() if share > 0]
        if not any(volumes[axis].get(label) for label in wanted):
            return f"no sample has a label that {KEY}.{axis} gives a share to ({', '.join(wanted)})"
    return f"no sample has on both axes a label with a share, or {total} samples are too few for the shares"


def check_known(samples: Sequence[Sample], known: Known) -> None:
    """Raises UserError for a sample with a label that the tree does not have."""
    for axis in AXES:
        there = set(known[axis])
        for sample in samples:
            for name in names(sample, axis, "l2"):
                if name not in there:
                    raise UserError(
                        f"sample {sample.id}: the {axis} label {name!r} is not in the label tree"
                        f"{nearest(name, there)}; name the tree that the samples were labelled with (data.labels)"
                    )


def shares_of(axis: Axis, volumes: Mapping[str, float], section: BalanceSection, known: Known) -> dict[str, float]:
    """Target share of each label, and of `UNLABELLED` where there are such; they sum to 1. `volumes`: what there is."""
    target: Target = getattr(section, axis)
    loose = volumes.get(UNLABELLED, 0.0) / max(1e-12, sum(volumes.values()))
    there = {label: volume for label, volume in volumes.items() if label != UNLABELLED}
    if isinstance(target, dict):
        _check_target(axis, target, section.level, known)
        wanted = dict(target)
    else:
        power = {"uniform": 0.0, "as_is": 1.0}[target] if isinstance(target, str) else target
        wanted = {label: volume**power for label, volume in there.items()}
    scale = (1 - loose) / sum(wanted.values())
    shares = {label: share * scale for label, share in sorted(wanted.items())}
    return {
        **shares,
        **dict.fromkeys(sorted(there.keys() - shares.keys()), 0.0),
        **({UNLABELLED: loose} if loose else {}),
    }


def _check_target(axis: Axis, target: Mapping[str, float], level: str, known: Known) -> None:
    two = level == "l2"
    right = [name for name in known[axis] if (" ~ " in name) == two]
    for label in target:
        if label in right:
            continue
        if label in known[axis]:
            other = "l1" if two else "l2"
            raise UserError(f"{KEY}.{axis}: {label!r} is an {other.upper()} label and {KEY}.level is {level}")
        raise UserError(f"{KEY}.{axis}: the label tree has no {axis} {label!r}{nearest(label, right)}")
    if abs(sum(target.values()) - 1) > SUM:
        raise UserError(f"{KEY}.{axis}: the shares sum to {sum(target.values()):g}; they must sum to 1")


def _volumes(members: Iterable[list[str]], counts: Sequence[int] | None = None) -> dict[str, float]:
    """Label → samples; one with several labels on the axis counts for each of them by its part."""
    found: dict[str, float] = {}
    rows = list(members)
    for labels, count in zip(rows, counts if counts is not None else [1] * len(rows), strict=True):
        for label in labels:
            found[label] = found.get(label, 0.0) + count / len(labels)
    return dict(sorted(found.items()))


def _draw(
    samples: Sequence[Sample],
    stay: Sequence[int],
    members: Mapping[Axis, Mapping[int, list[str]]],
    shares: Mapping[Axis, Mapping[str, float]],
    total: int,
    most: int,
    seed: int,
) -> dict[int, int]:
    """How often each sample is taken: the whole numbers beside what raking gives it, evenly over a cell (systematic
    sampling), so that a cell's number is right to within one, and which of it are taken is a matter of the seed."""
    cells: dict[tuple[tuple[str, ...], ...], list[int]] = {}
    for at in stay:
        cells.setdefault(tuple(tuple(sorted(members[axis][at])) for axis in AXES), []).append(at)
    order = sorted(cells)
    columns: list[tuple[Axis, str]] = [(axis, label) for axis in AXES for label in shares[axis]]
    place = {column: number for number, column in enumerate(columns)}
    inside: Floats = np.zeros((len(order), len(columns)))
    for row, cell in enumerate(order):
        for axis, labels in zip(AXES, cell, strict=True):
            for label in labels:
                inside[row, place[axis, label]] += 1 / len(labels)
    sizes: Floats = np.array([len(cells[cell]) for cell in order], dtype=np.float64)
    targets: Floats = np.array([shares[axis][label] * total for axis, label in columns])
    wanted = rake(sizes, inside, targets, sizes * most, len(AXES))
    found: dict[int, int] = {}
    before = 0.0
    for cell, volume in zip(order, wanted, strict=True):
        ranked = sorted(cells[cell], key=lambda at: hashlib.sha256(f"{seed}/{samples[at].id}".encode()).digest())
        for rank, at in enumerate(ranked):
            start, end = (before + volume * k / len(ranked) for k in (rank, rank + 1))
            found[at] = min(most, math.floor(end + 0.5) - math.floor(start + 0.5))
        before += float(volume)
    return found


def _times(sample: Sample, count: int) -> list[Sample]:
    """The sample so many times; from the second on under an id of its own, since ids name one sample of a set."""
    return [sample] * min(count, 1) + [
        sample.model_copy(
            update={
                "id": content_id("repeated", sample.id, time),
                "lineage": [*sample.lineage, sample.id],
                "steps": [*sample.steps, Step(stage="balance", note=f"taken for the {time}th time")],
            }
        )
        for time in range(2, count + 1)
    ]


def _shortfalls(
    axis: Axis,
    members: Iterable[list[str]],
    shares: Mapping[str, float],
    after: Mapping[str, float],
    total: int,
    most: int,
) -> Iterator[Shortfall]:
    rows = list(members)
    have, volumes = Counter(label for labels in rows for label in labels), _volumes(rows)
    for label, share in shares.items():
        got = round(after.get(label, 0.0))
        if label != UNLABELLED and share * total - got > max(0.5, SLACK * share * total):
            target = math.ceil(share * total - 1e-9)
            volume = volumes.get(label, 0.0)
            yield Shortfall(axis, label, have[label], round(volume, 6), target, got, volume * most < target - 1e-9)


def _rows(
    before: Mapping[str, float], after: Mapping[str, float], shares: Mapping[str, float], total: int
) -> list[dict[str, Any]]:
    given, drawn = sum(before.values()), sum(after.values())
    return [
        {
            "label": label,
            "before": round(before.get(label, 0.0), 3),
            "before_share": round(before.get(label, 0.0) / given, 6) if given else None,
            "target": round(share * total, 3),
            "target_share": round(share, 6),
            "after": round(after.get(label, 0.0), 3),
            "after_share": round(after.get(label, 0.0) / drawn, 6) if drawn else None,
        }
        for label, share in shares.items()
    ]


def _spread(volumes: Mapping[str, float]) -> dict[str, Any]:
    return spread([volume for label, volume in volumes.items() if label != UNLABELLED])
