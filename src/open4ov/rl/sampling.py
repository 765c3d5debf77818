"""Which prompts a step rolls out and which of their groups it trains on: Ratio-EMA (paper §5.1; Hong et al. 2025,
GLM-4.1V-Thinking, §5.3).

With rho the share of dead groups among those rolled out last, 1 / (1 - rho) prompts are needed for one that is alive.
Its moving average e says how many are rolled out: ceil(B e) for the B of a step. Of them the B groups whose right and
wrong responses are most even are trained on.

A group is dead when all its advantages are zero, which for Pass@k it is with fewer than k wrong responses too; the
report counts only groups that are all right or all wrong.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from open4ov.recipe_rl_loop import OversamplingSection
from open4ov.rl.rollout import Group


@dataclass
class RatioEma:
    """`value`: the e above; 1 at first, and always when it is not enabled."""

    section: OversamplingSection
    value: float = 1.0

    def count(self, prompts: int) -> int:
        """How many prompts to roll out for `prompts` that are to be trained on."""
        return math.ceil(round(prompts * self.value, 9)) if self.section.enabled else prompts

    def see(self, dead: float) -> None:
        """`dead`: the share of dead groups among those of one step. Where all are dead, 1 / (1 - rho) is the cap."""
        if self.section.enabled:
            needed = self.section.cap if dead >= 1 else min(1 / (1 - dead), self.section.cap)
            self.value = self.section.beta * self.value + (1 - self.section.beta) * needed


def most_even(groups: Sequence[Group], count: int) -> list[Group]:
    """The `count` groups to train on, in their order: live ones before dead ones, then those whose right and wrong
    responses differ least in number; of equal ones the first."""
    ranked = sorted(range(len(groups)), key=lambda place: (groups[place].dead, _uneven(groups[place])))
    return [groups[place] for place in sorted(ranked[:count])]


def _uneven(group: Group) -> float:
    return abs(2 * float(group.correct.sum()) - len(group.correct))


class Cursor:
    """The order in which the tasks of a pool come, epoch by epoch: as given at first, then shuffled by the seed.

    In an epoch every task is settled once: it was trained on, or it was rolled out and found dead. One that was alive
    and yet not chosen comes again at the epoch's end. `take` moves nothing, so that a step which fails is as if it had
    not begun.
    """

    def __init__(self, names: Iterable[str], seed: int | str) -> None:
        self.names = list(dict.fromkeys(names))
        self.seed, self.epoch = seed, 0
        self._queue = list(self.names)

    def take(self, count: int) -> list[str]:
        """The next `count` tasks, all different; the next epoch's where this one has not so many left. Raises
        ValueError for more than there are."""
        if count > len(self.names):
            raise ValueError(f"{count} different tasks were asked for, and there are {len(self.names)}")
        taken = list(dict.fromkeys(self._queue))[:count]
        if len(taken) < count:
            taken = list(dict.fromkeys([*taken, *self._order(self.epoch + 1)]))[:count]
        return taken

    def settle(self, taken: Sequence[str], again: Sequence[str] = ()) -> None:
        """The tasks that `take` has given are done with, but for those that are to come `again`."""
        if not set(taken) <= set(self._queue):
            self.epoch += 1
            self._queue = [*self._queue, *self._order(self.epoch)]
        left = set(taken)
        rest: list[str] = []
        for name in self._queue:
            if name in left:
                left.remove(name)
            else:
                rest.append(name)
        self._queue = [*rest, *again]

    def after(self, taken: Sequence[str]) -> Cursor:
        """Another one, as it will be when these are settled."""
        other = copy.copy(self)
        other.settle(taken)
        return other

    def notes(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "queue": self._queue}

    def restore(self, notes: dict[str, Any]) -> None:
        self.epoch, self._queue = notes["epoch"], list(notes["queue"])

    def _order(self, epoch: int) -> list[str]:
        names = list(self.names)
        random.Random(f"rl tasks {self.seed} {epoch}").shuffle(names)
        return names
