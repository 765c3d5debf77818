"""`admission.balance`: how many samples of which label a balanced set has (paper §3.2.2, "Data balancing")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from open4ov.recipe_embedder import SHIPPED, EmbedderSection
from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

Share = Annotated[float, Field(ge=0, le=1)]
Target = Literal["uniform", "as_is"] | Share | dict[str, Share]
_TARGET = (
    "uniform, as_is, a power between them (1: as it is, 0: uniform; shares ∝ number^power), or label -> share, which "
    "sum to 1"
)
SUM = 1e-6
"""How far from 1 shares may sum: what decimal fractions miss."""


class BalanceSection(Section):
    """Balance over both label axes at once."""

    samples: Annotated[int, Field(ge=0)] | Literal["as_many"] = Field(
        default=0, description="training samples of the balanced set; as_many: as many as there are; 0: no balancing"
    )
    level: Literal["l1", "l2"] = Field(default="l1", description="which labels are balanced: L1, or 'L1 ~ L2'")
    domain: Target = Field(default="uniform", description=_TARGET)
    ability: Target = Field(default="uniform", description=_TARGET)
    unlabelled: Literal["as_is", "leave_out"] = Field(
        default="as_is", description="samples without a label on an axis: keep the share that they have, or go"
    )
    max_repeat: int = Field(default=3, ge=1, description="most times that a sample is in the set")
    max_clusters: int = Field(
        default=20, ge=0, description="most latent classes tried, from 1 on, to look for imbalance under the labels; "
        "0: none are looked for"
    )  # fmt: skip
    criterion: Literal["bic", "icl"] = Field(
        default="bic", description="what chooses their number: BIC, or ICL (BIC and how clearly classes are apart)"
    )
    cluster_samples: int = Field(default=4000, ge=10, description="most samples that classes are fitted on")
    starts: int = Field(default=4, ge=1, description="EM runs of each number of classes; the likeliest counts")
    embedder: EmbedderSection = Field(
        default_factory=lambda: EmbedderSection(name=SHIPPED), description="of latent classes; as data.embedder"
    )


def contradictions(balance: BalanceSection) -> Iterator[tuple[Loc, str]]:
    """Shares that do not sum to 1."""
    for axis in ("domain", "ability"):
        target: Target = getattr(balance, axis)
        if isinstance(target, dict) and abs(sum(target.values()) - 1) > SUM:
            yield ("admission", "balance", axis), f"the shares sum to {sum(target.values()):g}; they must sum to 1"


def idle(balance: BalanceSection) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    loc = ("admission", "balance")
    written = balance.model_fields_set
    if balance.samples == 0:
        for field in sorted(written - {"samples"}):
            yield (*loc, field), "admission.balance.samples is 0", (*loc, "samples")
    elif balance.max_clusters == 0:
        for field in sorted({"criterion", "cluster_samples", "starts", "embedder"} & written):
            yield (*loc, field), "admission.balance.max_clusters is 0", (*loc, "max_clusters")
