"""`rl.embedder` and `rl.diversity`: what tells two responses apart, and what that earns (paper §4.2.2, eq. 7-8).

The encoder is one of two kinds. A text names a function, `package.module:function` (n texts -> unit rows [n, D]); a
mapping names a model on this machine, `directory: PATH`: of sentence-transformers, or an encoder of Hugging Face's such
as DeBERTa.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from open4ov import recipe_encoder
from open4ov.recipe_encoder import EncoderOptions
from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import RlSection

SHIPPED = "open4ov.rl.distance.encoders:steps"
SHIPPED_THRESHOLD = 0.47
"""That of the shipped encoder, by its calibration (a test repeats it)"""

FORMS = ("package.module:function", "directory: PATH")
Threshold = Annotated[float, Field(ge=0, le=2)] | Literal["auto"]


class EncoderSection(EncoderOptions):
    """Exactly one of `name` and `directory`."""

    directory: str | None = Field(
        default=None,
        min_length=1,
        description="folder of a sentence-transformers model (extra `embed`) or of a Hugging Face encoder (extra `hf`)",
    )

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> Any:
        """As it was written: a name is a text again."""
        if self.name is not None:
            return self.name
        found = cast("dict[str, Any]", handler(self))
        return {key: value for key, value in found.items() if key != "name"}


class DiversitySection(Section):
    """How the distances of a group become a reward."""

    by: Literal["pairs", "clusters"] = Field(
        default="pairs",
        description="pairs: the mean over pairs (eq. 7); clusters: DARLING's, what is alike in a chain is one cluster",
    )
    floor: float = Field(
        default=0.1, ge=0, le=1, description="least factor of a right answer (DARLING's Norm): of one like all others"
    )


def contradictions(rl: RlSection) -> Iterator[tuple[Loc, str]]:
    """Values that cannot hold together."""
    encoder, here = rl.embedder, ("rl", "embedder")
    wrong = list(recipe_encoder.contradictions(encoder, here, FORMS, ("name", "directory")))
    yield from wrong
    if (
        not wrong
        and encoder.name != SHIPPED
        and "diversity_threshold" not in rl.model_fields_set
        and (rl.pass_k_share < 1 or rl.plateau.steps)
    ):
        yield (
            here,
            (
                f"needs rl.diversity_threshold: {SHIPPED_THRESHOLD} is the shipped encoder's; write `auto` to have it "
                "set by the labelled pairs, or a number"
            ),
        )


def idle(rl: RlSection) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    if not _diverse(rl):
        for field in sorted({"diversity", "diversity_threshold", "embedder"} & rl.model_fields_set):
            yield ("rl", field), "rl.pass_k_share is 1, which leaves no step to diversity", ("rl", "pass_k_share")
    else:
        yield from recipe_encoder.idle(rl.embedder, ("rl", "embedder"))


def _diverse(rl: RlSection) -> bool:
    """Whether there may be steps with the diversity-weighted advantage."""
    return rl.pass_k_share < 1 or rl.plateau.steps > 0
