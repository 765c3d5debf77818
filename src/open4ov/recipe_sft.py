"""`sft`: collaborative curriculum SFT (paper §3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from open4ov import recipe_preference
from open4ov.recipe_preference import PreferenceSection
from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

STAGES = ("knowledge", "ability", "preference")


class SftStage(Section):
    """One stage of the curriculum (paper §3.2.3)."""

    tokens: int = Field(default=600_000, ge=1, description="training tokens of the stage, image tokens included")
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup: float = Field(default=0.05, ge=0, le=1, description="share of steps")
    replay: float = Field(
        default=0.0, ge=0, le=1, description="share of tokens from the other sets (stage 1: general, 2: vertical)"
    )
    turns: int = Field(
        default=3,
        ge=1,
        description="most questions about an image in a conversation; with 1 each answer must be seen, not copied",
    )
    freeze_vision: bool = False
    pack_tokens: int | None = Field(
        default=None, ge=64, description="tokens of one pack of this stage; sft.pack_tokens when empty"
    )


class SftSection(Section):
    """Collaborative curriculum SFT (paper §3)."""

    schedule: Literal["curriculum", "random_mix"] = Field(
        default="curriculum", description="random_mix: one stage, all sets shuffled, equal tokens"
    )
    pack_tokens: int = Field(default=4096, ge=64, description="tokens of one pack (one optimizer step)")
    difficulty_noise: float = Field(
        default=1.0, ge=0, description="random part of the difficulty order; 0: strictly easy to hard"
    )
    verifier: str = Field(
        default="open4ov.rl.answers:agrees", description="package.module:function (response, answer, aliases) -> bool"
    )
    precision: Literal["bf16", "fp32"] = Field(default="bf16", description="of matrix products")
    compile: bool = Field(default=False, description="torch.compile the blocks; pays in runs of many minutes")
    recompute: Literal["none", "op", "full"] = Field(
        default="none",
        description="what the decoder's layers compute again in the backward pass instead of keeping it; op: norms, "
        "activations and rotations (paper §5.1)",
    )
    recompute_vision: Literal["none", "op", "full"] = Field(
        default="none", description="the same for the vision tower's blocks"
    )
    vision_cache_gib: float = Field(
        default=4.0, ge=0, description="GiB for the features of a frozen tower; pictures beyond are encoded each time"
    )
    lora_rank: int = Field(
        default=0, ge=0, description="0 trains the weights; above, adapters of that rank beside the decoder's layers"
    )
    too_long: Literal["skip", "cut"] = Field(
        default="skip",
        description="conversations beyond pack_tokens: left out and listed, or cut there",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon: Muon for the layers' matrices, AdamW for the rest"
    )
    weight_decay: float = Field(default=0.01, ge=0)
    grad_clip: float = Field(default=1.0, gt=0)
    checkpoint_every: int = Field(default=100, ge=1, description="optimizer steps")
    knowledge: SftStage = Field(default_factory=SftStage)
    ability: SftStage = Field(default_factory=SftStage)
    preference: SftStage = Field(default_factory=SftStage)
    preference_set: PreferenceSection = Field(default_factory=PreferenceSection)

    def pack_of(self, stage: str) -> int:
        """Tokens of one pack in a stage: the limit of its conversations (paper §3.2.3: raised in stage 3)."""
        return getattr(self, stage).pack_tokens or self.pack_tokens

    def of(self, stage: str) -> SftSection:
        """The section as a stage reads it: `pack_tokens` is the stage's."""
        return self.model_copy(update={"pack_tokens": self.pack_of(stage)})


def contradictions(sft: SftSection) -> Iterator[tuple[Loc, str]]:
    """Values that cannot hold together."""
    yield from recipe_preference.contradictions(sft.preference_set)
    for name in STAGES:
        tokens, own = getattr(sft, name).tokens, getattr(sft, name).pack_tokens
        if tokens < sft.pack_of(name):
            key = f"sft.{name}.pack_tokens" if own else "sft.pack_tokens"
            yield ("sft", name, "tokens"), f"{tokens} is less than one pack ({key} = {sft.pack_of(name)})"
    if sft.compile and (sft.recompute, sft.recompute_vision) != ("none", "none"):
        yield ("sft", "compile"), "sft.recompute and sft.recompute_vision do not go with compiled blocks; choose one"


def idle(sft: SftSection) -> Iterator[tuple[Loc, str, Loc]]:
    """Random mix is one stage: it takes tokens and replay of all three, and the other options of `knowledge` alone."""
    stages = STAGES[:1] if sft.schedule == "random_mix" else STAGES
    if sft.lora_rank:
        for name in stages:
            if "freeze_vision" in getattr(sft, name).model_fields_set:
                yield ("sft", name, "freeze_vision"), "adapters leave the vision tower frozen", ("sft", "lora_rank")
    still = sft.lora_rank > 0 or all(getattr(sft, name).freeze_vision for name in stages)
    moving = not any(getattr(sft, name).freeze_vision for name in stages) and not sft.lora_rank
    if moving and "vision_cache_gib" in sft.model_fields_set:
        reason = "no stage freezes the vision tower, whose features are never held"
        yield ("sft", "vision_cache_gib"), reason, ("sft", stages[0])
    if still and "recompute_vision" in sft.model_fields_set:
        switch = ("sft", "lora_rank" if sft.lora_rank else stages[0])
        yield ("sft", "recompute_vision"), "the vision tower is frozen and has no backward pass", switch
    if sft.schedule == "random_mix":
        switch: Loc = ("sft", "schedule")
        reason = "sft.schedule is random_mix, which is one stage and takes this from sft.knowledge"
        for name in ("ability", "preference"):
            for field in sorted(
                {"learning_rate", "warmup", "freeze_vision", "pack_tokens"} & getattr(sft, name).model_fields_set
            ):
                yield ("sft", name, field), reason, switch
        if "difficulty_noise" in sft.model_fields_set:
            yield ("sft", "difficulty_noise"), "sft.schedule is random_mix, which does not grade", switch
