"""`sft`: collaborative curriculum SFT (paper §3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from open4ov import recipe_preference
from open4ov.recipe_blend import ONE_STAGE, BlendSection
from open4ov.recipe_preference import PreferenceSection
from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

Part = Literal["vision", "merger", "language"]
PARTS: tuple[Part, ...] = ("vision", "merger", "language")
STAGES = ("knowledge", "ability", "preference")


class SftPart(Section):
    """How one part of the model is trained in a stage."""

    freeze: bool = Field(default=False, description="leave its weights as they are")
    learning_rate: float | None = Field(default=None, gt=0, description="its own highest rate; the stage's when empty")


class SftParts(Section):
    """The parts of a multimodal LLM; a stage's learning rate and freezing for each."""

    vision: SftPart = Field(default_factory=SftPart, description="the tower, without its mergers")
    merger: SftPart = Field(default_factory=SftPart, description="patch merger and DeepStack taps")
    language: SftPart = Field(default_factory=SftPart, description="the rest: embedding, decoder, head")


class SftStage(Section):
    """One stage of the curriculum (paper §3.2.3)."""

    tokens: int = Field(default=600_000, ge=1, description="training tokens of the stage, image tokens included")
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup: float = Field(default=0.05, ge=0, le=1, description="share of the tokens")
    replay: float = Field(
        default=0.0, ge=0, le=1, description="share of tokens from the other sets (stage 1: general, 2: vertical)"
    )
    turns: int = Field(
        default=3,
        ge=1,
        description="most questions about an image in a conversation; with 1 each answer must be seen, not copied",
    )
    freeze_vision: bool = Field(default=False, description="freeze both parts.vision and parts.merger")
    parts: SftParts = Field(default_factory=SftParts)
    pack_tokens: int | None = Field(
        default=None, ge=64, description="tokens of one pack of this stage; sft.pack_tokens when empty"
    )
    iterations: int = Field(
        default=1,
        ge=1,
        description="parts of the tokens before each of which the samples are graded anew and drawn by their grades",
    )

    @property
    def frozen(self) -> list[Part]:
        """The parts that stay as they are."""
        both = ("vision", "merger") if self.freeze_vision else ()
        return [part for part in PARTS if part in both or getattr(self.parts, part).freeze]

    @property
    def still_vision(self) -> bool:
        """Whether tower and mergers stay as they are, so that an image's features can be held."""
        return {"vision", "merger"} <= set(self.frozen)


class ValidationSection(Section):
    """Loss on samples of the split `val` during the training, and an early end."""

    every: int = Field(default=0, ge=0, description="optimizer steps between two measurements; 0: none")
    samples: int = Field(default=200, ge=1, description="most samples that are measured")
    patience: int = Field(
        default=0,
        ge=0,
        description="measurements without a better one that end a stage, with the best weights; 0: it never ends early",
    )


class AbilityStage(SftStage, BlendSection):
    """Stage 2, whose own set is blended by ability."""


class SftSection(Section):
    """Collaborative curriculum SFT (paper §3)."""

    schedule: Literal["curriculum", "random_mix", "single_stage"] = Field(
        default="curriculum",
        description="the baselines are one stage on as many tokens as the three: random_mix of all sets, shuffled; "
        "single_stage of the knowledge set and its replay alone",
    )
    held_out: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of each set's pictures kept apart as its split `val`, beside what data.hygiene.val did",
    )
    pack_tokens: int = Field(default=4096, ge=64, description="tokens of one pack")
    share_prefix: bool = Field(
        default=True,
        description="several questions about a picture are packed together where the order allows it, and their common "
        "beginning, the picture included, is computed once; a pack holds pack_tokens as if each had its own",
    )
    gather_pictures: bool = Field(
        default=False,
        description="questions about a picture stand together in the order, where their difficulty allows it: packs "
        "share more, and an update sees fewer pictures; for data with many more pictures than 16 packs hold",
    )
    accumulate: int = Field(
        default=1, ge=1, description="packs of one optimizer step, whose loss is the mean over the targets of all"
    )
    lr_schedule: Literal["cosine", "wsd", "constant"] = Field(
        default="cosine",
        description="after the warm-up: half a cosine to 0; wsd: the full rate, then a line to 0; the full rate",
    )
    lr_decay: float = Field(default=0.2, gt=0, le=1, description="share of the tokens over which wsd goes down to 0")
    ema: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay of the moving average of the weights, which then is the stage's model; 0: no average",
    )
    difficulty_noise: float = Field(
        default=1.0, ge=0, description="random part of the difficulty order; 0: strictly easy to hard"
    )
    verifier: str = Field(
        default="open4ov.answers:agrees", description="package.module:function (response, answer, aliases) -> bool"
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="of matrix products; auto: bf16 where the device is fast in it, else fp32"
    )
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
    vision_disk_gib: float = Field(
        default=0.0,
        ge=0,
        description="GiB in the stage's working folder for the features for which vision_cache_gib has no room; the "
        "short trainings of admission keep none there",
    )
    lora_rank: int = Field(
        default=0, ge=0, description="0 trains the weights; above, adapters of that rank beside the decoder's layers"
    )
    too_long: Literal["skip", "cut", "split", "refuse"] = Field(
        default="skip",
        description="conversations beyond pack_tokens: left out and listed; cut there; split between two questions "
        "(images are shown again); or the run stops",
    )
    empty_answers: Literal["skip", "refuse"] = Field(
        default="skip", description="questions whose answer is blank: left out and listed, or the run stops"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon: Muon for the layers' matrices, AdamW for the rest"
    )
    weight_decay: float = Field(default=0.01, ge=0)
    embedding_eps: float = Field(
        default=1e-4,
        gt=0,
        description="AdamW's eps for embedding and head: large, so that words which no batch uses stay where they are; "
        "1e-8 is AdamW's own",
    )
    grad_clip: float = Field(default=1.0, gt=0)
    validation: ValidationSection = Field(default_factory=ValidationSection)
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: cuda where there is one")
    peak_tflops: float | None = Field(
        default=None,
        gt=0,
        description="of the device, dense bf16, for MFU; empty: by the card's name, and on a CPU there is no MFU",
    )
    tensorboard: bool = Field(default=False, description="event files beside train.jsonl (pip install tensorboard)")
    wandb: str | None = Field(
        default=None,
        min_length=1,
        description="project that steps are also logged to (pip install wandb); key and mode from wandb's environment",
    )
    checkpoint_every: int = Field(default=100, ge=1, description="optimizer steps")
    knowledge: SftStage = Field(default_factory=SftStage)
    ability: AbilityStage = Field(default_factory=AbilityStage)
    preference: SftStage = Field(default_factory=SftStage)
    preference_set: PreferenceSection = Field(default_factory=PreferenceSection)

    @property
    def gathers(self) -> bool:
        """Whether the order brings questions about a picture together."""
        return self.share_prefix and self.gather_pictures

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
        stage: SftStage = getattr(sft, name)
        pack = sft.pack_of(name)
        packs = f"sft.{name}.pack_tokens = {pack}" if stage.pack_tokens else f"sft.pack_tokens = {pack}"
        if stage.tokens < pack:
            yield (
                ("sft", name, "tokens"),
                f"{stage.tokens} is less than one pack ({packs})",
            )
        elif stage.iterations * pack > stage.tokens:
            yield (
                ("sft", name, "iterations"),
                f"{stage.iterations} parts of {stage.tokens} tokens are less than a pack each ({packs})",
            )
        if set(stage.frozen) == set(PARTS):
            yield ("sft", name, "parts"), "every part is frozen, so that nothing would be trained; leave one free"
        elif sft.lora_rank and stage.parts.language.freeze:
            yield (
                ("sft", name, "parts", "language", "freeze"),
                f"sft.lora_rank = {sft.lora_rank} trains adapters of the language model only; choose one",
            )
    if sft.compile and (sft.recompute, sft.recompute_vision) != ("none", "none"):
        yield ("sft", "compile"), "sft.recompute and sft.recompute_vision do not go with compiled blocks; choose one"


def stages_of(sft: SftSection) -> list[SftStage]:
    """The options of the stages that there are."""
    names = STAGES[:1] if sft.schedule in ONE_STAGE else STAGES
    return [getattr(sft, name) for name in names]


def idle(sft: SftSection) -> Iterator[tuple[Loc, str, Loc]]:
    """A baseline is one stage: it takes tokens of all three (random_mix also replay and turns), and the other options
    of `knowledge` alone."""
    names = STAGES[:1] if sft.schedule in ONE_STAGE else STAGES
    stages = stages_of(sft)
    for name, stage in zip(names, stages, strict=True):
        yield from _idle_parts(sft, name, stage)
    still = sft.lora_rank > 0 or all("vision" in stage.frozen for stage in stages)
    held = sft.lora_rank > 0 or any(stage.still_vision for stage in stages)
    for field in ("vision_cache_gib", "vision_disk_gib"):
        if not held and field in sft.model_fields_set:
            reason = "no stage freezes the vision tower and its mergers, whose features are never held"
            yield ("sft", field), reason, ("sft", names[0])
    if still and "recompute_vision" in sft.model_fields_set:
        switch: Loc = ("sft", "lora_rank" if sft.lora_rank else names[0])
        yield ("sft", "recompute_vision"), "the vision tower is frozen and has no backward pass", switch
    if "gather_pictures" in sft.model_fields_set and not sft.share_prefix:
        yield ("sft", "gather_pictures"), "sft.share_prefix is false", ("sft", "share_prefix")
    if sft.lr_schedule != "wsd" and "lr_decay" in sft.model_fields_set:
        yield ("sft", "lr_decay"), f"sft.lr_schedule is {sft.lr_schedule}", ("sft", "lr_schedule")
    if sft.validation.every == 0:
        for field in sorted(sft.validation.model_fields_set - {"every"}):
            yield ("sft", "validation", field), "sft.validation.every is 0", ("sft", "validation", "every")
    if sft.schedule in ONE_STAGE:
        switch = ("sft", "schedule")
        reason = f"sft.schedule is {sft.schedule}, which is one stage and takes this from sft.knowledge"
        own = {"learning_rate", "warmup", "freeze_vision", "parts", "iterations", "pack_tokens"}
        own |= {"replay", "turns"} if sft.schedule == "single_stage" else set()
        for name in ("ability", "preference"):
            for field in sorted(own & getattr(sft, name).model_fields_set):
                yield ("sft", name, field), reason, switch
        graded = f"sft.schedule is {sft.schedule}, which does not grade"
        if "iterations" in sft.knowledge.model_fields_set:
            yield ("sft", "knowledge", "iterations"), graded, switch
        if "difficulty_noise" in sft.model_fields_set:
            yield ("sft", "difficulty_noise"), graded, switch


def _idle_parts(sft: SftSection, name: str, stage: SftStage) -> Iterator[tuple[Loc, str, Loc]]:
    loc: Loc = ("sft", name)
    written = {part: getattr(stage.parts, part).model_fields_set for part in stage.parts.model_fields_set}
    if sft.lora_rank:
        switch: Loc = ("sft", "lora_rank")
        if "freeze_vision" in stage.model_fields_set:
            yield (*loc, "freeze_vision"), "adapters leave the vision tower frozen", switch
        for part in ("vision", "merger"):
            for field in sorted(written.get(part, ())):
                yield (*loc, "parts", part, field), "adapters leave tower and mergers frozen", switch
        return
    for part in PARTS:
        if stage.freeze_vision and part != "language":
            for field in sorted(written.get(part, ())):
                yield (*loc, "parts", part, field), f"sft.{name}.freeze_vision freezes it", (*loc, "freeze_vision")
        elif getattr(stage.parts, part).freeze and "learning_rate" in written.get(part, ()):
            yield (*loc, "parts", part, "learning_rate"), "the part is frozen", (*loc, "parts", part, "freeze")
