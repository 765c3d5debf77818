"""New data rationing (paper §3.2.2): how much of the newly added data the next training cycle takes.

"We sample small batches of balanced data from a stable data version as the base, then blend it with newly added data to
form updated ratios. The training effect is promptly validated through rapid training with early stopping."

A ratio is the share of training tokens that come from new data, and for several new sets a share of each; the stable
version has the rest. Small batches of the stable and of each new set are drawn once; each candidate trains the base on
its blend of them, and is scored on held-out questions of the new data (the vertical) and of the stable version (the
general): `halving.py` has the search. What it finds weighs the sets in the next cycle; the new data itself becomes
part of the next stable version as a whole (`stable.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from open4ov.admission import halving
from open4ov.admission.batches import Batch
from open4ov.admission.halving import Found, Objective, Plan, Scores
from open4ov.errors import UserError, nearest
from open4ov.recipe_ration import RationSection
from open4ov.sample import Sample

STABLE = "stable"
SHOWN = 12
Shares = Mapping[str, float]
"""Name of a set -> its share of the training tokens; they sum to 1"""


class Train(Protocol):
    """Trains the model `start` (None: the base), which has had `done` tokens of this very blend, on at most `tokens`
    more. Gives a name for the model that outlives the process."""

    def __call__(
        self, batches: Mapping[str, Sequence[Sample]], shares: Shares, start: str | None, done: int, tokens: int
    ) -> str: ...


class Score(Protocol):
    """Whether the model (None: the base) answers each of the questions: row -> 1 or 0, in their order."""

    def __call__(self, handle: str | None, questions: Mapping[str, Sequence[Sample]]) -> Scores: ...


def candidates(section: RationSection, sizes: Mapping[str, int]) -> list[dict[str, float]]:
    """What is tried: the shares of all sets, the stable one with the rest, least new data first.

    A plain ratio is shared out between several new sets by their sizes (samples). Raises UserError for an unknown set.
    """
    found: list[dict[str, float]] = []
    for ratio in section.candidates():
        if isinstance(ratio, dict):
            for name in ratio:
                if name not in sizes:
                    where = "admission.ration.ratios"
                    raise UserError(f"{where}: '{name}' is none of the new sets{nearest(name, sizes)}")
            shares = {name: ratio.get(name, 0.0) for name in sizes}
        else:
            shares = {name: ratio * size / sum(sizes.values()) for name, size in sizes.items()}
        found.append({STABLE: max(0.0, 1.0 - math.fsum(shares.values())), **shares})
    return sorted(found, key=lambda shares: (ratio_of(shares), sorted(shares.items())))


def ratio_of(shares: Shares) -> float:
    """The share of new data in all."""
    return round(math.fsum(share for name, share in shares.items() if name != STABLE), 9)


def named(shares: Shares) -> str:
    """A candidate as people read it: "0.2", or "0.2 (a 0.15, b 0.05)" of several new sets."""
    each = [f"{name} {share:.3g}" for name, share in shares.items() if name != STABLE]
    return f"{ratio_of(shares):.3g}" + (f" ({', '.join(each)})" if len(each) > 1 else "")


def search(
    section: RationSection,
    batches: Mapping[str, Batch],
    train: Train,
    score: Score,
    journal: Path,
    seed: int,
    progress: Callable[[str, float, float], None] | None = None,
    forget: Callable[[str], None] | None = None,
) -> tuple[list[dict[str, float]], Found]:
    """The candidates and what the search for the best of them came to. `batches`: of `STABLE` and of each new set.

    Raises UserError for a set that has nothing to train on, or nothing to ask.
    """
    _check(batches)
    new = {name: one.samples for name, one in batches.items() if name != STABLE}
    tried = candidates(section, new)
    material = {name: one.balanced for name, one in batches.items()}
    asked = _asked(batches)
    found = halving.search(
        len(tried),
        lambda candidate, start, done, tokens: train(material, tried[candidate], start, done, tokens),
        lambda handle: score(handle, asked),
        Objective(section.objective, section.margin, section.penalty, section.weight),
        budget(section),
        journal,
        section.confidence,
        seed,
        (lambda candidate, used, total: progress(f"ratio {named(tried[candidate])}", used, total))
        if progress
        else None,
        forget,
    )
    return tried, found


def budget(section: RationSection) -> Plan:
    """The tokens that a search takes at most, round by round: known before it begins."""
    return halving.plan(len(section.candidates()), section.tokens, section.rungs)


def record(
    section: RationSection, batches: Mapping[str, Batch], tried: Sequence[Shares], found: Found
) -> dict[str, Any]:
    """ratio.json. `ratio` is what the next training cycle takes: the share of tokens from new data; `chosen`: its place
    among `candidates`. `held`: whether the general score stays within the margin at that ratio; `lost`: how much of it
    goes (share)."""
    chosen = tried[found.chosen]
    last = next(trial for trial in reversed(found.trials) if trial.candidate == found.chosen)
    means = {row: _mean(found.base[row]) for row in halving.ROWS}
    gain = _mean(last.scores["general"]) - means["general"]
    return {
        "chosen": found.chosen,
        "ratio": ratio_of(chosen),
        "shares": dict(chosen),
        "name": named(chosen),
        "held": gain >= -section.margin - 1e-9,
        "lost": round(max(0.0, -gain), 6),
        "ended": found.ended,
        "objective": section.model_dump(
            include={"objective", "confidence"}
            | ({"weight"} if section.objective == "weighted" else {"margin", "penalty"})
        ),
        "base": means,
        "questions": {row: len(found.base[row]) for row in halving.ROWS},
        "tokens": {
            "used": found.used,
            "planned": found.plan.total,
            "grid": found.plan.grid,
            "rungs": [{**vars(rung), "total": rung.total} for rung in found.plan.rungs],
        },
        "candidates": [
            {
                "name": named(shares),
                "ratio": ratio_of(shares),
                "shares": dict(shares),
                "dropped": found.dropped[place][1] if place in found.dropped and place != found.chosen else None,
                "trials": [
                    {
                        "tokens": trial.tokens,
                        **{row: _mean(trial.scores[row]) for row in halving.ROWS},
                        "value": round(trial.value, 6),
                        "behind": [round(trial.low, 6), round(trial.high, 6)],
                        **{
                            f"{row}_{word}": sum((b - a) * sign > 0 for a, b in pairs)
                            for row in halving.ROWS
                            for pairs in [list(zip(found.base[row], trial.scores[row], strict=True))]
                            for word, sign in (("gained", 1), ("lost", -1))
                        },
                    }
                    for trial in found.trials
                    if trial.candidate == place
                ],
            }
            for place, shares in enumerate(tried)
        ],
        "failures": {row: _failures(batches, row, found.base[row], last.scores[row]) for row in halving.ROWS},
        "sets": {
            name: {
                "samples": one.samples,
                "batch": len(one.balanced),
                "questions": len(one.questions),
                "held_out": "a share of the pictures" if one.apart else "split val",
            }
            for name, one in batches.items()
        },
    }


def _asked(batches: Mapping[str, Batch]) -> dict[str, list[Sample]]:
    """The questions of each row, in the order in which they are scored."""
    return {
        "vertical": [sample for name in batches if name != STABLE for sample in batches[name].questions],
        "general": batches[STABLE].questions,
    }


def _failures(
    batches: Mapping[str, Batch], row: str, base: Sequence[float], now: Sequence[float]
) -> list[dict[str, Any]]:
    """Up to `SHOWN` questions that the chosen candidate gets wrong, those that the base had right first."""
    wrong = [
        (then <= score, place, sample)
        for place, (sample, then, score) in enumerate(zip(_asked(batches)[row], base, now, strict=True))
        if score < 1
    ]
    return [
        {
            "id": sample.id,
            "task": sample.task,
            "language": sample.language,
            "question": sample.messages[0].text,
            "answer": sample.answer,
            "images": list(sample.images),
            "lost": not kept,
        }
        for kept, _, sample in sorted(wrong, key=lambda item: item[:2])[:SHOWN]
    ]


def _check(batches: Mapping[str, Batch]) -> None:
    if STABLE not in batches or len(batches) < 2:
        raise UserError("admission.ration: give a stable version and new data")
    for name, one in batches.items():
        what = "the stable version" if name == STABLE else f"the new set '{name}'"
        if not one.balanced:
            raise UserError(f"admission.ration: {what} has no sample of split train to train on")
        if not one.questions:
            raise UserError(
                f"admission.ration: {what} has no held-out question: no sample of one turn with a reference answer, of "
                "split val or of the pictures set apart"
            )


def _mean(values: Sequence[float]) -> float:
    return round(math.fsum(values) / len(values), 6)
