"""How long a pipeline takes and how long its ranks wait: a schedule played through with the times of its stages.

A rank does its actions one after another, each as soon as what it needs is there: a forward pass the stage before, a
backward pass the stage after. Nothing else is modelled: what is sent arrives at once, or after `send`, and ranks never
hold one another up in sending.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .orders import SPLIT, Action, Kind, order, rank_of

Times = float | Sequence[float]
"""Of every stage, or of each of the `stages * chunks`; in any unit, the same for all"""


@dataclass(frozen=True)
class Span:
    """One action and when it ran."""

    action: Action
    begin: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """What each rank did, action after action."""

    ranks: tuple[tuple[Span, ...], ...]

    @property
    def seconds(self) -> float:
        """From the first action of any rank to the last one's end, in the unit of the times given."""
        return max((spans[-1].end for spans in self.ranks if spans), default=0.0)

    def busy(self) -> list[float]:
        """How long each rank computed."""
        return [sum(span.end - span.begin for span in spans) for spans in self.ranks]

    def idle(self) -> list[float]:
        """The share of the time that each rank waited, from 0 to 1."""
        total = self.seconds
        return [1 - busy / total if total else 0.0 for busy in self.busy()]

    @property
    def bubble(self) -> float:
        """The share of all ranks' time that was waiting, from 0 to 1."""
        return sum(self.idle()) / max(len(self.ranks), 1)

    def in_flight(self) -> list[int]:
        """For each rank the most microbatches whose activations it held at once, those of each of its stages counted
        singly. An action I keeps them until its W."""
        most: list[int] = []
        for spans in self.ranks:
            held = peak = 0
            for span in spans:
                held += {"F": 1, "B": -1, "I": 0, "W": -1}[span.action.kind]
                peak = max(peak, held)
            most.append(peak)
        return most


def timeline(
    schedule: str,
    stages: int,
    chunks: int,
    microbatches: int,
    forward: Times,
    backward: Times,
    weight: Times,
    send: float = 0.0,
) -> Timeline:
    """Plays a schedule through. stages: ranks of the pipeline (`parallel.pp`); chunks: stages on each of them.

    forward, backward, weight: time of a stage for one microbatch: its forward pass; the part of its backward pass that
    gives its input's gradient; the part that gives its weights'. Schedules that do not part the two take their sum at
    once. send: time from the end of an action to what another rank does with its result.
    Raises as `orders.order`, and ValueError for the wrong number of times.
    """
    times: dict[Kind, list[float]] = {
        "F": _each(forward, stages * chunks),
        "I": _each(backward, stages * chunks),
        "W": _each(weight, stages * chunks),
    }
    times["B"] = [i + w for i, w in zip(times["I"], times["W"], strict=True)]
    actions = order(schedule, stages, chunks, microbatches)
    before: Kind = "I" if schedule in SPLIT else "B"
    ended: dict[Action, float] = {}
    free = [0.0] * stages
    spans: list[list[Span]] = [[] for _ in range(stages)]
    places = [0] * stages
    waiting = sum(map(len, actions))
    while waiting:
        left = waiting
        for rank, own in enumerate(actions):
            while places[rank] < len(own):
                action = own[places[rank]]
                needs = _needs(action, before, stages * chunks)
                if any(need not in ended for need in needs):
                    break
                ready = [_arrives(ended[need], need, rank, schedule, stages, send) for need in needs]
                begin = max([free[rank], *ready])
                end = begin + times[action.kind][action.stage]
                free[rank] = ended[action] = end
                spans[rank].append(Span(action, begin, end))
                places[rank] += 1
                waiting -= 1
        assert waiting < left, "the actions of this schedule wait for each other"
    return Timeline(tuple(map(tuple, spans)))


def bubble(
    schedule: str, stages: int, chunks: int, microbatches: int, forward: Times, backward: Times, weight: Times
) -> float:
    """The share of all ranks' time that is waiting, from 0 to 1. Arguments and errors as of `timeline`."""
    return timeline(schedule, stages, chunks, microbatches, forward, backward, weight).bubble


def _each(times: Times, count: int) -> list[float]:
    if isinstance(times, int | float):
        return [float(times)] * count
    if len(times) != count:
        raise ValueError(f"{len(times)} times for {count} stages")
    return list(times)


def _needs(action: Action, before: Kind, stages: int) -> list[Action]:
    """What must be done before an action can be."""
    stage, kind, microbatch = action
    if kind == "F":
        return [Action(stage - 1, "F", microbatch)] if stage else []
    if kind == "W":
        return [Action(stage, "I", microbatch)]
    own = Action(stage, "F", microbatch)
    return [own] if stage == stages - 1 else [own, Action(stage + 1, before, microbatch)]


def _arrives(end: float, need: Action, rank: int, schedule: str, ranks: int, send: float) -> float:
    return end if rank_of(schedule, need.stage, ranks) == rank else end + send
