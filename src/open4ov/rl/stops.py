"""What ends a training of online RL before its last step, and what is said then. The checkpoint that it leaves goes on
by the same command.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from open4ov import training
from open4ov.engine import Completion
from open4ov.errors import UserError
from open4ov.recipe import RlSection
from open4ov.rl.rollout import Group

SHOWN = 5
"""Tasks that are named"""


def limit(section: RlSection) -> int:
    """Steps in a row without a live group that end the run."""
    return 1 if section.no_live == "stop" else section.no_live_steps


def nothing_to_learn(section: RlSection, step: int, barren: int, groups: Sequence[Group]) -> UserError:
    """`barren` steps in a row, the last of which is `step` (from 1), had no live group."""
    right = sum(bool((group.correct > 0).all()) for group in groups)
    wrong = sum(not bool((group.correct > 0).any()) for group in groups)
    key = "rl.no_live" if section.no_live == "stop" else "rl.no_live_steps"
    steps = f"steps {step - barren + 1} to {step} have" if barren > 1 else f"step {step} has"
    return UserError(
        f"{steps} no group to learn from: all advantages are zero (of the last {len(groups)} groups {right} are all "
        f"right and {wrong} all wrong). Choose other tasks (rl.filter), more responses (rl.group) or a higher "
        f"rl.temperature; or go on from here by the same command with another {key}"
    )


def diverged(reason: training.Diverged, step: int, names: Sequence[str], checkpoints: Path | None) -> training.Diverged:
    """A loss or gradient of `step` (from 1), for these tasks, is not finite."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    kept = sorted(int(path.name[5:]) for path in checkpoints.glob("step-*")) if checkpoints else []
    rest = f". The checkpoint of step {kept[-1]} is kept" if kept else ""
    return training.Diverged(
        f"step {step}: {reason}, or look at the tasks of this batch: {', '.join(names[:SHOWN])}{more}{rest}"
    )


def broken(responses: Sequence[Sequence[Completion]]) -> training.Diverged | None:
    """Whether a policy has come apart, by what it says: then log-probabilities are no numbers, every group may be dead,
    and no loss would tell."""
    if any(math.isnan(value) for own in responses for response in own for value in response.log_probs):
        return training.Diverged("the responses' log-probabilities are no numbers: lower rl.learning_rate")
    return None
