"""What each rank of a pipeline does, in which order: the five schedules, as torch.distributed.pipelining runs them.

Pure Python, so that a planner can look at thousands of them. `tests/parallel/test_orders.py` holds each against the
order that PyTorch's own schedule has.

Words: `p` ranks of the pipeline, `v` stages on each (`parallel.chunks`), `m` microbatches. Stages are numbered along
the model. Rank r holds the stages r, r + p, r + 2p, ...; `zbv` folds the model like a V, and rank r holds r and
2p - 1 - r.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

from open4ov.errors import UserError, nearest

Kind = Literal["F", "B", "I", "W"]
"""forward; backward, all of it; its part that the stage before waits for; its part that the weights wait for"""
Name = Literal["gpipe", "1f1b", "interleaved", "interleaved_zero_bubble", "zbv"]
NAMES: tuple[str, ...] = get_args(Name)
SPLIT = ("interleaved_zero_bubble", "zbv")
"""Schedules whose backward pass has two parts, I and W"""
INTERLEAVED = ("interleaved", "interleaved_zero_bubble")


class Action(NamedTuple):
    stage: int
    kind: Kind
    microbatch: int


def rank_of(schedule: str, stage: int, ranks: int) -> int:
    """Which rank holds that stage."""
    if schedule == "zbv":
        return stage if stage < ranks else 2 * ranks - 1 - stage
    return stage % ranks


def stages_of(schedule: str, rank: int, ranks: int, chunks: int) -> list[int]:
    """The stages that rank holds, in the order of the model."""
    return [stage for stage in range(ranks * chunks) if rank_of(schedule, stage, ranks) == rank]


def check(schedule: str, ranks: int, chunks: int) -> None:
    """Raises UserError for a schedule that is not known, and for a number of stages a rank that it cannot have."""
    if schedule not in NAMES:
        known = ", ".join(NAMES)
        raise UserError(
            f"parallel.schedule: no schedule is called '{schedule}'{nearest(schedule, NAMES)}; there are {known}"
        )
    if schedule in ("gpipe", "1f1b") and chunks != 1:
        raise UserError(
            f"parallel.chunks: {schedule} has one stage on each rank, not {chunks}; set it to 1, or parallel.schedule "
            "to 'interleaved'"
        )
    if schedule == "zbv" and chunks != 2:
        raise UserError(f"parallel.chunks: zbv has two stages on each rank, not {chunks}; set it to 2")
    if chunks < 1 or ranks < 1:
        raise UserError(f"parallel.chunks: a rank holds one stage or more, not {chunks}")


def goes_with(schedule: str, recomputed: str) -> None:
    """Raises UserError for recomputation of the decoder's layers that the schedule of a pipeline cannot go with."""
    if schedule in SPLIT and recomputed == "op":
        raise UserError(
            f"parallel.schedule: {schedule} goes through a layer backward twice, for its input and for its "
            "weights, which recompute 'op' does not allow; set recompute to 'full' or 'none', or use 'interleaved'"
        )


def needed(schedule: str, ranks: int, wanted: int) -> int:
    """How many microbatches a step must have to hold `wanted`: interleaved schedules go over them in rounds of equal
    size, `wanted // ranks` of them. What is missing is filled up with passes that weigh nothing, and each costs as much
    as a real one."""
    if wanted < 1:
        raise ValueError("a step has one microbatch or more")
    if schedule not in INTERLEAVED:
        return wanted
    count = wanted
    while count % max(1, count // ranks):
        count += 1
    return count


def order(schedule: str, ranks: int, chunks: int, microbatches: int) -> list[list[Action]]:
    """For each rank its actions. Raises UserError as `check`, and ValueError for a number of microbatches that `needed`
    would round up."""
    check(schedule, ranks, chunks)
    if needed(schedule, ranks, microbatches) != microbatches:
        raise ValueError(f"{schedule} over {ranks} ranks has no order for {microbatches} microbatches")
    of_rank = _ORDERS[schedule]
    return [of_rank(rank, ranks, chunks, microbatches) for rank in range(ranks)]


def _gpipe(rank: int, ranks: int, chunks: int, microbatches: int) -> list[Action]:
    forward = [Action(rank, "F", i) for i in range(microbatches)]
    return forward + [Action(rank, "B", i) for i in range(microbatches)]


def _one_each(rank: int, ranks: int, chunks: int, microbatches: int) -> list[Action]:
    """With fewer microbatches than ranks it is `gpipe`, which then takes no longer and holds no more on the first rank;
    PyTorch's 1F1B does not run so few."""
    whole = _gpipe(rank, ranks, chunks, microbatches)
    if microbatches < ranks:
        return whole
    return _merged(whole[:microbatches], whole[microbatches:], ranks - 1 - rank)


def _interleaved(rank: int, ranks: int, chunks: int, microbatches: int) -> list[Action]:
    forwards, backwards, size = _rounds(rank, ranks, chunks, microbatches, "B")
    return _merged(forwards, backwards, min((chunks - 1) * size + 2 * (ranks - 1 - rank), len(forwards)))


def _zero_bubble(rank: int, ranks: int, chunks: int, microbatches: int) -> list[Action]:
    """ZB1P of Qi et al. (arXiv:2401.10241): a weight's gradient follows `rank` backward passes later, and the rest at
    the end, where a rank would wait."""
    forwards, backwards, size = _rounds(rank, ranks, chunks, microbatches, "I")
    ahead = min((chunks - 1) * size + (ranks - 1 - rank), len(forwards))
    out: list[Action] = []
    done = 0
    for action in _merged(forwards, backwards, ahead):
        out.append(action)
        if action.kind == "I":
            done += 1
            if done > rank:
                out.append(backwards[done - 1 - rank]._replace(kind="W"))
    return out + [action._replace(kind="W") for action in backwards[max(0, len(backwards) - rank) :]]


def _rounds(
    rank: int, ranks: int, chunks: int, microbatches: int, kind: Kind
) -> tuple[list[Action], list[Action], int]:
    """Forward and backward actions of an interleaved schedule, each in its order, and the microbatches of one round: so
    many go through one stage of the rank before the next stage has its turn."""
    size = microbatches // max(1, microbatches // ranks)
    own = [rank + chunk * ranks for chunk in range(chunks)]
    forwards: list[Action] = []
    backwards: list[Action] = []
    for first in range(0, microbatches, size):
        for stage in own:
            forwards += [Action(stage, "F", first + i) for i in range(size)]
        for stage in reversed(own):
            backwards += [Action(stage, kind, first + i) for i in range(size)]
    return forwards, backwards, size


def _merged(forwards: list[Action], backwards: list[Action], ahead: int) -> list[Action]:
    """`ahead` forward actions, then one of each in turn, then what is left of the backward ones."""
    out = list(forwards[:ahead])
    for forward, backward in zip(forwards[ahead:], backwards, strict=False):
        out += [forward, backward]
    return out + backwards[len(forwards) - ahead :]


def _zbv(rank: int, ranks: int, chunks: int, microbatches: int) -> list[Action]:
    """ZB-V of Qi et al., section 6: the plan for at least 2p - 1 microbatches, without those that there are not."""
    count = max(2 * ranks - 1, microbatches)
    early, late = _Leg(rank), _Leg(2 * ranks - 1 - rank)
    out: list[Action] = [early.next("F") for _ in range(2 * (ranks - rank) - 1)]
    for _ in range(rank):
        out += [late.next("F"), early.next("F")]
    for _ in range(ranks - rank):
        out += [late.next("F"), late.next("I"), late.next("W")]
    while late.done["F"] < early.done["F"] or early.done["F"] < count:
        if early.done["F"] < count:
            out.append(early.next("F"))
        out += [early.next("I"), early.next("W"), late.next("F"), late.next("I"), late.next("W")]
    for _ in range(rank):
        out += [early.next("I"), late.next("I")]
    for _ in range(ranks - rank):
        out += [early.next("I"), early.next("W")]
    for leg in (late, early):
        out += [leg.next("W") for _ in range(leg.done["I"] - leg.done["W"])]
    return [action for action in out if action.microbatch < microbatches]


class _Leg:
    """One of the two stages of a rank of a V, and how many microbatches have had each kind of action there."""

    def __init__(self, stage: int) -> None:
        self.stage = stage
        self.done: dict[Kind, int] = {"F": 0, "I": 0, "W": 0}

    def next(self, kind: Kind) -> Action:
        self.done[kind] += 1
        return Action(self.stage, kind, self.done[kind] - 1)


_ORDERS: dict[str, Callable[[int, int, int, int], list[Action]]] = {
    "gpipe": _gpipe,
    "1f1b": _one_each,
    "interleaved": _interleaved,
    "interleaved_zero_bubble": _zero_bubble,
    "zbv": _zbv,
}
