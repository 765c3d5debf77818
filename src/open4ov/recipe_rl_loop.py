"""`rl`: how the online loop goes: its phases, how many prompts are rolled out, the update, replay, and what is kept and
told on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, Protocol

from pydantic import Field

from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc


class PlateauSection(Section):
    """An earlier end of the Pass@k phase, when it no longer pays (paper §4.2.3: "the early stage")."""

    steps: int = Field(
        default=0,
        ge=0,
        description="Pass@k gives way to diversity when the rollouts' mean pass@k of so many steps has not risen over "
        "that of as many before; 0: rl.pass_k_share alone decides",
    )
    rise: float = Field(default=0.01, ge=0, le=1, description="what counts as no rise: this much or less")


class OversamplingSection(Section):
    """Ratio-EMA (paper §5.1): more prompts are rolled out than a step trains on, and the most even groups are kept."""

    enabled: bool = Field(default=False, description="roll out ceil(rl.prompts × e) prompts")
    beta: float = Field(default=0.9, ge=0, lt=1, description="decay of the moving average of 1 / (1 − share of dead)")
    cap: float = Field(default=4.0, ge=1, description="most of 1 / (1 − share of dead), which has no bound itself")


class ReplaySection(Section):
    """Samples of SFT's general set beside the prompts, so that what SFT taught is kept (paper §4.1.1)."""

    share: float = Field(
        default=0.0, ge=0, lt=1, description="of a step's prompts and replayed samples together; 0: none are replayed"
    )
    weight: float = Field(default=0.1, gt=0, description="of their mean cross-entropy in the loss")


class LoopOptions(Section):
    """Of `rl`, beside the algorithm's own constants."""

    plateau: PlateauSection = Field(default_factory=PlateauSection)
    oversampling: OversamplingSection = Field(default_factory=OversamplingSection)
    replay: ReplaySection = Field(default_factory=ReplaySection)
    freeze_vision: bool = Field(
        default=True, description="the tower stays as it is (paper §4.2.3); false: it is trained, for comparison"
    )
    vision_cache_gib: float = Field(
        default=4.0, gt=0, description="GiB for the features of a frozen tower; those not used for longest go first"
    )
    max_update_tokens: int | None = Field(
        default=None,
        ge=16,
        description="tokens of one pass of the update; more are computed in parts, with the same gradient; no limit "
        "when empty",
    )
    no_live: Literal["continue", "stop"] = Field(
        default="continue",
        description="what follows a step in which no group teaches anything: the next one, or an end",
    )
    no_live_steps: int = Field(default=10, ge=1, description="so many such steps in a row end the run all the same")
    checkpoint_every: int = Field(default=10, ge=1, description="steps")
    tensorboard: bool = Field(default=False, description="event files beside train.jsonl (pip install tensorboard)")
    wandb: str | None = Field(
        default=None,
        min_length=1,
        description="project that steps are also logged to (pip install wandb); key and mode from wandb's environment",
    )


TOLD = {"checkpoint_every", "tensorboard", "wandb", "no_live", "no_live_steps"}
"""What is kept and told on the way, and when a run gives up: the model that it ends with is the same."""


class Schedule(Protocol):
    """What these rules read of `rl` beside `LoopOptions`."""

    @property
    def steps(self) -> int: ...
    @property
    def pass_k_share(self) -> float: ...
    @property
    def prompts(self) -> int: ...


def contradictions(loop: LoopOptions, schedule: Schedule) -> Iterator[tuple[Loc, str]]:
    """Values that cannot hold together."""
    window, latest = loop.plateau.steps, round(schedule.pass_k_share * schedule.steps)
    if window and schedule.pass_k_share > 0 and 2 * window >= latest:
        yield (
            ("rl", "plateau", "steps"),
            f"pass@k is compared after {2 * window} steps, and rl.pass_k_share ends the phase after {latest} anyway",
        )
    if loop.oversampling.enabled and loop.oversampling.cap == 1:
        yield ("rl", "oversampling", "cap"), "1 rolls out no more prompts than a step needs; use more than 1"
    share, prompts = loop.replay.share, schedule.steps * schedule.prompts
    if share and prompts * share / (1 - share) < 1 - 1e-9:
        least = math.ceil(1000 / (1 + prompts)) / 1000
        yield (
            ("rl", "replay", "share"),
            f"{share:g} beside the run's {prompts} prompts is not one sample; use {least:g} or more, or 0",
        )


def idle(loop: LoopOptions, schedule: Schedule) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    plateau: Loc = ("rl", "plateau")
    for field in sorted(loop.plateau.model_fields_set):
        if schedule.pass_k_share == 0:
            yield (*plateau, field), "rl.pass_k_share is 0", ("rl", "pass_k_share")
        elif loop.plateau.steps == 0 and field != "steps":
            yield (*plateau, field), "rl.plateau.steps is 0", (*plateau, "steps")
    if not loop.oversampling.enabled:
        for field in sorted(loop.oversampling.model_fields_set - {"enabled"}):
            reason = "rl.oversampling.enabled is false"
            yield ("rl", "oversampling", field), reason, ("rl", "oversampling", "enabled")
    if loop.replay.share == 0 and "weight" in loop.replay.model_fields_set:
        yield ("rl", "replay", "weight"), "rl.replay.share is 0", ("rl", "replay", "share")
    if loop.no_live == "stop" and "no_live_steps" in loop.model_fields_set:
        yield ("rl", "no_live_steps"), "rl.no_live is stop, which ends the run at the first", ("rl", "no_live")
    if not loop.freeze_vision and "vision_cache_gib" in loop.model_fields_set:
        yield ("rl", "vision_cache_gib"), "rl.freeze_vision is false: no features are held", ("rl", "freeze_vision")
