"""`dpo`: offline RL on preference pairs (paper §4.1.2, §4.2.3 stage 2, eq. 13)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from open4ov.errors import nearest
from open4ov.recipe_compute import ComputeOptions
from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import Recipe

MIX = {
    "missing_image": 0.3,
    "context": 0.05,
    "image_normal": 0.45,
    "text_normal": 0.075,
    "mismatch": 0.075,
    "brevity": 0.05,
}
"""The kinds of pairs that are made unless the recipe says otherwise, and the share of each."""
MADE = (*MIX, "blank_image", "unrelated_image", "hidden_evidence")
"""The kinds of pairs that are made of the run's own samples (`rl/hallucination.py`)."""
GIVEN = ("human", "corrective", "scored", "mined")
"""The kinds of pairs that people or judges have chosen (`rl/preference/human.py`)."""
VERIFIED = "verified"
"""Of online RL's tasks, whose reward says which of the model's own responses are right (`rl/preference/mining.py`)."""
KINDS = (*MADE, *GIVEN, VERIFIED)
ABLATED = ("missing_image", "blank_image", "unrelated_image", "hidden_evidence")
"""Those whose picture is taken away or does not show what is asked: right is to say so."""


class DpoValidationSection(Section):
    """Pairs that are kept apart and measured during the training."""

    pairs: int = Field(default=32, ge=0, description="pairs kept apart, by their picture or question; 0: none")
    every: int = Field(default=50, ge=1, description="steps between two measurements; the start and the end are too")


class DpoSection(ComputeOptions):
    """Offline RL: reference-free DPO (paper §4.1.2, eq. 13)."""

    pairs: int = Field(default=1500, ge=0, description="pairs of all kinds together; 0: the model stays as it is")
    mix: dict[str, float] = Field(
        default_factory=lambda: dict(MIX),
        description="kind -> share of the pairs; a kind that is not named is not used; they sum to 1",
    )
    most: int | None = Field(
        default=None,
        ge=1,
        description="most pairs that are trained on: of more, so many are drawn (the model's answers decide how many "
        "drafts make pairs, so that two mixes never make equally many); empty: all that could be made",
    )
    wordings: int | None = Field(
        default=None,
        ge=1,
        description="how many wordings of a refusal are used; a small model soon learns a few, and garbles many; "
        "empty: all, forty for a missing picture",
    )
    preferences: list[str] = Field(
        default_factory=list,
        description="human preference data: folders that `open4ov data import` made, or files in a format it reads",
    )
    mined: str | None = Field(
        default=None,
        min_length=1,
        description="package.module:function (sample, responses -> a score each): the model's own responses become "
        "pairs of kind `mined`",
    )
    attributes: dict[str, float] = Field(
        default_factory=dict,
        description="attribute of human pairs -> weight: pairs whose chosen response is the better one in what is "
        "wanted, the clearest first; negative: less of it; empty: all pairs as they are",
    )
    epochs: int = Field(default=1, ge=1)
    batch: int = Field(default=32, ge=1, description="pairs a step")
    part_tokens: int | None = Field(
        default=None, ge=1, description="most tokens computed at once: a batch is computed in parts; empty: as a whole"
    )
    max_tokens: int = Field(default=2048, ge=2, description="longest prompt with either response; longer pairs go out")
    beta: float = Field(default=0.1, gt=0)
    margin: float = Field(
        default=0.0,
        ge=0,
        description="what beta times the lead of the chosen response is to exceed (SimPO's gamma): margin / beta nats",
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="share of pairs taken to be labelled the wrong way round (cDPO)"
    )
    length_normalised: bool = Field(
        default=False, description="log-probabilities a token instead of a response (SimPO)"
    )
    reference: bool = Field(
        default=False, description="DPO against the starting model, whose log-probabilities are computed once, before"
    )
    learning_rate: float = Field(default=5e-5, gt=0)
    nll_weight: float = Field(
        default=0.1,
        ge=0,
        description="weight of the chosen response's negative log-likelihood, which keeps it likely; 0: eq. 13 alone",
    )
    interpolation: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="how far the model goes the way that the training went: start + interpolation * (trained - start); "
        "below 1 it keeps more of what it could before (WiSE-FT)",
    )
    watch: float = Field(
        default=1.0, gt=0, description="nats a token that the chosen responses of validation may fall below their start"
    )
    on_fall: Literal["warn", "stop"] = Field(
        default="warn", description="stop: end the training there, with the weights of the best measurement"
    )
    validation: DpoValidationSection = Field(default_factory=DpoValidationSection)
    probe: int = Field(
        default=64, ge=0, description="held-out questions asked without their picture and with it, before and after"
    )
    checkpoint_every: int = Field(default=100, ge=1, description="steps")
    tensorboard: bool = Field(default=False, description="event files beside train.jsonl (pip install tensorboard)")
    wandb: str | None = Field(
        default=None,
        min_length=1,
        description="project that steps are also logged to (pip install wandb); key and mode from wandb's environment",
    )


TOLD = {"checkpoint_every", "tensorboard", "wandb"}
"""What is kept and told on the way: the model that a training ends with is the same."""


def contradictions(recipe: Recipe) -> Iterator[tuple[Loc, str]]:
    """Values that cannot hold together."""
    dpo, loc = recipe.dpo, ("dpo", "mix")
    for kind, share in dpo.mix.items():
        if kind not in KINDS:
            yield (*loc, kind), f"unknown kind '{kind}'{nearest(kind, KINDS)}"
        elif share < 0:
            yield (*loc, kind), f"{share:g} is negative"
    total = sum(dpo.mix.values())
    if abs(total - 1) > 1e-6:
        yield loc, f"the shares sum to {total:g}; they must sum to 1"
    human = [kind for kind in GIVEN if dpo.mix.get(kind, 0) > 0 and kind != "mined"]
    if dpo.pairs and human and not dpo.preferences:
        yield (*loc, human[0]), "no file of preference pairs is named in dpo.preferences"
    if dpo.pairs and dpo.mix.get("mined", 0) > 0 and dpo.mined is None:
        yield (*loc, "mined"), "dpo.mined names no function that scores responses"


def idle(recipe: Recipe) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run: (place, reason, the option that makes it so)."""
    dpo, written = recipe.dpo, recipe.dpo.model_fields_set
    if dpo.pairs == 0:
        for field in sorted(written - {"pairs"}):
            yield ("dpo", field), "dpo.pairs is 0", ("dpo", "pairs")
        return
    if dpo.most is not None and dpo.most >= dpo.pairs:
        yield ("dpo", "most"), f"no more than {dpo.pairs} pairs are asked for", ("dpo", "pairs")
    mix: Loc = ("dpo", "mix")
    wanted = {kind for kind, share in dpo.mix.items() if share > 0}
    if dpo.preferences and not wanted & (set(GIVEN) - {"mined"}):
        yield ("dpo", "preferences"), "no share of dpo.mix is for human, corrective or scored pairs", mix
    if VERIFIED in wanted and not recipe.rl.steps:
        yield (*mix, VERIFIED), "rl.steps is 0, so that there are no tasks of online RL", ("rl", "steps")
    if dpo.mined is not None and "mined" not in wanted:
        yield ("dpo", "mined"), "no share of dpo.mix is for mined pairs", mix
    if dpo.attributes and not wanted & set(GIVEN):
        yield ("dpo", "attributes"), "no share of dpo.mix is for pairs that have attributes", mix
    if dpo.wordings is not None and not wanted & {*ABLATED, "image_normal", "text_normal", "mismatch"}:
        yield ("dpo", "wordings"), "no share of dpo.mix is for pairs with a refusal", mix
    if dpo.probe and "probe" in written and not wanted & set(ABLATED):
        yield ("dpo", "probe"), "no share of dpo.mix is for pairs without what they are asked about", mix
    if dpo.validation.pairs == 0:
        for field in sorted({"watch", "on_fall"} & written):
            yield ("dpo", field), "dpo.validation.pairs is 0", ("dpo", "validation", "pairs")
        if "every" in dpo.validation.model_fields_set:
            yield ("dpo", "validation", "every"), "dpo.validation.pairs is 0", ("dpo", "validation", "pairs")
