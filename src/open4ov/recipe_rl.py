"""`rl`: online RL (paper §4), and which prompts it leaves out (§4.1.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from open4ov.recipe_compute import ComputeOptions
from open4ov.recipe_rl_encoder import SHIPPED, SHIPPED_THRESHOLD, DiversitySection, EncoderSection, Threshold
from open4ov.recipe_rl_loop import TOLD, LoopOptions
from open4ov.recipe_rl_loss import Kind
from open4ov.recipe_rl_pool import LeakageSection, PoolSection
from open4ov.recipe_rl_rollout import PACE, RolloutSection
from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc


class RlFilterSection(Section):
    """Rejection sampling of the prompts: what the model always or never answers rightly teaches nothing."""

    rollouts: int = Field(
        default=0, ge=0, description="responses to each candidate by the model that RL begins with; 0: no filter"
    )
    candidates: float = Field(
        default=2.0, ge=1, description="candidate prompts, as a multiple of those that RL trains on (steps × prompts)"
    )


class RlSection(LoopOptions, ComputeOptions):
    """Online RL: GSPO with Pass@k, then diversity (paper §4)."""

    steps: int = Field(default=60, ge=0, description="rollout batches")
    prompts: int = Field(default=16, ge=1, description="prompts (groups) a step")
    group: int = Field(default=8, ge=2, description="responses a prompt: N_rollout")
    minibatches: int = Field(default=4, ge=1, description="optimizer steps a rollout batch")
    pass_k: int = Field(
        default=4, ge=1, description="k of Pass@k (eq. 2), and of pass_at_k in every step's curve; at most group"
    )
    pass_k_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of steps with the Pass@k advantage, at most (rl.plateau); diversity after",
    )
    loss: Kind = Field(default="gspo", description="gspo (the paper's); grpo and dapo to compare with")
    clip_low: float | None = Field(default=None, gt=0, description="lower clip; the loss's own when empty (GSPO: 3e-4)")
    clip_high: float | None = Field(
        default=None, gt=0, description="upper clip; the loss's own when empty (GSPO: 4e-4)"
    )
    learning_rate: float = Field(default=5e-5, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=64, ge=1, description="longest response, tokens")
    length_max: int = Field(default=48, ge=1, description="L_max of eq. 10, tokens")
    length_soft: int = Field(default=24, ge=1, description="L_soft of eq. 10, tokens")
    length_weight: float = Field(default=0.5, ge=0)
    text_share: float = Field(default=0.2, ge=0, le=1, description="share of text-only prompts")
    reward: str = Field(
        default="open4ov.rl.rewards:exact", description="package.module:function (response, sample) -> 0 or 1"
    )
    embedder: EncoderSection = Field(
        default_factory=lambda: EncoderSection(name=SHIPPED),
        description="package.module:function (texts) -> unit rows [n, D], or directory: PATH of a model",
    )
    diversity_threshold: Threshold = Field(
        default=SHIPPED_THRESHOLD,
        description="cosine distance above which two responses differ (eq. 7); auto: set by the labelled pairs",
    )
    diversity: DiversitySection = Field(default_factory=DiversitySection)
    filter: RlFilterSection = Field(default_factory=RlFilterSection)
    pool: PoolSection = Field(default_factory=PoolSection)
    leakage: LeakageSection = Field(default_factory=LeakageSection)
    rollout: RolloutSection = Field(default_factory=RolloutSection)


UNREAD: dict[str, Any] = {**dict.fromkeys(("pool", "leakage", *TOLD), True), "rollout": set(PACE)}
"""Options that decide nothing of a training once its tasks are there, for `model_dump(exclude=...)`: the stage rl_pool
reads the first two, and the others are about what is told and how fast"""


def contradictions(section: RlFilterSection) -> Iterator[tuple[Loc, str]]:
    """A single response is always or never right."""
    if section.rollouts == 1:
        yield ("rl", "filter", "rollouts"), "1 response is always right or always wrong; use 2 or more, or 0 for none"


def idle(section: RlFilterSection) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    if section.rollouts == 0 and "candidates" in section.model_fields_set:
        yield ("rl", "filter", "candidates"), "rl.filter.rollouts is 0", ("rl", "filter", "rollouts")
