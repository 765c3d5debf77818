"""Which candidate is best, for a fraction of the tokens that training all of them to the end would take.

Successive halving (Jamieson & Talwalkar 2016, "Non-stochastic best arm identification") with early stopping: all
candidates are trained for a few tokens and scored on the same questions; the better half goes on with twice the
tokens, and so on. Beyond that a candidate is stopped as soon as it is clearly worse than the best one, by a paired
interval over the questions, and the search is stopped when only one is left.

Nothing is known here of what a candidate is, nor of models: training and scoring are callables. What each gave is kept
in a folder; a search that was killed goes on there and repeats at most the piece that it was at.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from open4ov.errors import UserError
from open4ov.run_dir import read_json
from open4ov.store import write_json

ROWS = ("vertical", "general")
Scores = Mapping[str, Sequence[float]]
"""`vertical` and `general` -> the score of each question, 0 to 1, always in the same order"""

RESAMPLES = 1000
_AT_ONCE = 250


class Train(Protocol):
    """Trains candidate number `candidate` for `tokens` more tokens, at most, from the model `start` (None: the base),
    which has had `done`. Gives a name for the model, by which the same callables find it again in another process."""

    def __call__(self, candidate: int, start: str | None, done: int, tokens: int) -> str: ...


class Score(Protocol):
    """The scores of a model by its name; of the base with None."""

    def __call__(self, handle: str | None) -> Scores: ...


@dataclass(frozen=True)
class Objective:
    """What is best: one number made of the gains over the base, of the vertical and of the general score (shares).

    `constrained`: the vertical gain, less `penalty` times what the general score lost beyond `margin`: a search for the
    most vertical gain among those that hold the general score, in a form that noise at the border does not turn over.
    `weighted`: `weight` of the vertical gain and the rest of the general one.
    """

    kind: Literal["constrained", "weighted"] = "constrained"
    margin: float = 0.02
    penalty: float = 3.0
    weight: float = 0.5

    def of(self, vertical: Any, general: Any) -> Any:
        """Of gains, numbers or arrays of them."""
        if self.kind == "weighted":
            return self.weight * vertical + (1 - self.weight) * general
        return vertical - self.penalty * np.maximum(0.0, -general - self.margin)

    def value(self, scores: Scores, base: Scores) -> float:
        """Of a candidate's scores against the base's."""
        return float(self.of(*(float(np.mean(_gain(scores, base, row))) for row in ROWS)))


@dataclass(frozen=True)
class Rung:
    """A round: so many `candidates` at most, each trained for `tokens` in all, `added` of them in this round."""

    candidates: int
    tokens: int
    added: int

    @property
    def total(self) -> int:
        return self.candidates * self.added


@dataclass(frozen=True)
class Plan:
    """The rounds of a search. `total`: tokens that it never exceeds; `grid`: those of all candidates to the end."""

    rungs: tuple[Rung, ...]

    @property
    def total(self) -> int:
        return sum(rung.total for rung in self.rungs)

    @property
    def grid(self) -> int:
        return self.rungs[0].candidates * self.rungs[-1].tokens


def plan(candidates: int, tokens: int, rungs: int) -> Plan:
    """`tokens` each in the first round; then half of the candidates (rounded up) with twice the tokens, `rungs` rounds
    at most. A round of one would compare nothing and is left out."""
    made = [Rung(candidates, tokens, tokens)]
    while len(made) < rungs and (left := -(-made[-1].candidates // 2)) > 1:
        made.append(Rung(left, 2 * made[-1].tokens, made[-1].tokens))
    return Plan(tuple(made))


@dataclass(frozen=True)
class Trial:
    """A candidate after a round: `tokens` it has had, `value` by the objective, and the `low` and `high` end of the
    interval of its distance from the round's best (0 for that one)."""

    candidate: int
    rung: int
    tokens: int
    handle: str
    scores: Scores
    value: float
    low: float = 0.0
    high: float = 0.0


@dataclass
class Found:
    """What a search came to: the `chosen` candidate, all trials in their order, `dropped`: candidate -> (round, why),
    the tokens that were `used` of the plan's, and why it ended."""

    plan: Plan
    base: Scores
    chosen: int = 0
    trials: list[Trial] = field(default_factory=list[Trial])
    dropped: dict[int, tuple[int, str]] = field(default_factory=dict[int, tuple[int, str]])
    used: int = 0
    ended: str = ""


CLEARLY, HALF = "clearly worse than the best", "not in the better half"


def search(
    candidates: int,
    train: Train,
    score: Score,
    objective: Objective,
    schedule: Plan,
    journal: Path,
    confidence: float,
    seed: int,
    progress: Callable[[int, int, int], None] | None = None,
    forget: Callable[[str], None] | None = None,
) -> Found:
    """Finds the best of so many candidates. Of equal ones the first is taken: give the dearest last.

    `journal`: a folder that belongs to this search alone; `progress(candidate, tokens used, tokens in all)`;
    `forget(handle)`: this model is needed no more. `confidence`: that in the whole search no candidate is stopped as
    clearly worse that is not, as far as the choice of questions goes; what another seed of the training would change is
    not in the interval. The best is whichever looked best, so that each candidate may meet each other one: Bonferroni
    over all ordered pairs, and the rounds after which something can still be saved.
    """
    found = Found(schedule, _kept(journal / "base.json", lambda: score(None)))
    alpha = (1 - confidence) / max(candidates * (candidates - 1) * (len(schedule.rungs) - 1), 1)
    alive = list(range(candidates))
    latest: dict[int, Trial] = {}
    for number, rung in enumerate(schedule.rungs):
        for candidate in alive:
            before = latest.get(candidate)
            if progress:
                progress(candidate, found.used, schedule.total)
            handle, scores = _piece(journal, candidate, number, rung, before, train, score)
            _same_questions(scores, found.base)
            if before and forget:
                forget(before.handle)
            value = objective.value(scores, found.base)
            latest[candidate] = Trial(candidate, number, rung.tokens, handle, scores, value)
            found.used += rung.added
        best = max(alive, key=lambda candidate: latest[candidate].value)
        for candidate in alive:
            if candidate != best:
                low, high = distance(latest[candidate].scores, latest[best].scores, found.base, objective, alpha, seed)
                latest[candidate] = replace(latest[candidate], low=low, high=high)
        found.trials += [latest[candidate] for candidate in alive]
        clearly = [candidate for candidate in alive if latest[candidate].high < 0]
        left = sorted((c for c in alive if c not in clearly), key=lambda c: (-latest[c].value, c))
        last = number == len(schedule.rungs) - 1
        keep = left if last else left[: schedule.rungs[number + 1].candidates]
        for candidate in alive:
            if candidate in clearly:
                found.dropped[candidate] = (number, CLEARLY)
            elif candidate not in keep:
                found.dropped[candidate] = (number, HALF)
        for candidate in found.dropped.keys() & set(alive):
            if forget:
                forget(latest[candidate].handle)
        alive = sorted(keep)
        found.chosen = best
        if len(alive) == 1:
            found.ended = "all others are clearly worse" if len(clearly) == candidates - 1 else "one was left"
            break
    else:
        found.ended = "the rounds were over"
    return found


def distance(
    mine: Scores, best: Scores, base: Scores, objective: Objective, alpha: float, seed: int
) -> tuple[float, float]:
    """The one-sided ends, each at level `alpha`, of the objective's difference from the best: a paired bootstrap, in
    which both candidates and the base answer the same drawn questions, gives its spread; the normal distribution the
    tails, which are too far out to be counted."""
    draw = np.random.default_rng(random.Random(f"ration {seed}").getrandbits(64))
    gains: list[NDArray[np.float64]] = []
    for row in ROWS:
        both = np.stack([_gain(mine, base, row), _gain(best, base, row)], axis=1)
        kinds, counts = np.unique(
            both, axis=0, return_counts=True
        )  # nine at most for right and wrong: draw their numbers
        parts = [
            draw.multinomial(len(both), counts / len(both), _AT_ONCE) @ kinds for _ in range(RESAMPLES // _AT_ONCE)
        ]
        gains.append(np.concatenate(parts) / len(both))
    differences = objective.of(gains[0][:, 0], gains[1][:, 0]) - objective.of(gains[0][:, 1], gains[1][:, 1])
    half = NormalDist().inv_cdf(1 - alpha) * float(np.std(differences))
    value = objective.value(mine, base) - objective.value(best, base)
    return value - half, value + half


def _piece(
    journal: Path, candidate: int, number: int, rung: Rung, before: Trial | None, train: Train, score: Score
) -> tuple[str, Scores]:
    """Trains and scores a candidate for one round, or reads what an earlier start came to."""
    path = journal / f"candidate-{candidate}-round-{number}.json"
    record: dict[str, Any] = read_json(path) or {}
    if "handle" not in record:
        done = before.tokens if before else 0
        record["handle"] = train(candidate, before.handle if before else None, done, rung.added)
        write_json(path, record)
    if "scores" not in record:
        record["scores"] = _plain(score(record["handle"]))
        write_json(path, record)
    return record["handle"], record["scores"]


def _kept(path: Path, make: Callable[[], Scores]) -> Scores:
    record = read_json(path)
    if record is None:
        record = _plain(make())
        write_json(path, record)
    return record


def _plain(scores: Scores) -> dict[str, list[float]]:
    for row in ROWS:
        if not len(scores.get(row, ())):
            raise UserError(f"admission.ration: there is no held-out question of the {row} to score by")
    return {row: [float(one) for one in scores[row]] for row in ROWS}


def _same_questions(scores: Scores, base: Scores) -> None:
    for row in ROWS:
        assert len(scores[row]) == len(base[row]), f"{row}: the candidates were asked different questions"


def _gain(scores: Scores, base: Scores, row: str) -> NDArray[np.float64]:
    return np.asarray(scores[row], np.float64) - np.asarray(base[row], np.float64)
