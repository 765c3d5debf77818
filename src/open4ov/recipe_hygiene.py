"""`data.hygiene`: what is left out of a data set, masked in it, or held back from training. All off by default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

Kind = Literal["email", "phone", "id_number", "licence_plate", "card", "ip_address", "identity_tags"]


class HygieneSection(Section):
    """Duplicates, contamination, personal data, licences and grouped splits."""

    near_duplicates: int | None = Field(
        default=None, ge=0, le=23, description="bits (of 64) within which two images are one; the larger stays"
    )
    near_questions: float | None = Field(
        default=None, gt=0, le=1, description="Jaccard index of two questions about one image from which one goes"
    )
    decontaminate: list[str] = Field(
        default_factory=list[str], description="evaluation TSVs (VLMEvalKit) whose images and questions are left out"
    )
    decontaminate_images: list[str] = Field(
        default_factory=list[str],
        description="folders below which the column image_path of those TSVs may name files, beside the TSV's own",
    )
    question_embedder: str | None = Field(
        default=None,
        min_length=1,
        description="package.module:function (N texts -> [N, D]): a second opinion on questions of `decontaminate`",
    )
    question_cosine: float = Field(
        default=0.9, gt=0, le=1, description="cosine of their embeddings from which two questions are one"
    )
    personal_data: dict[Kind, Literal["mask", "drop"]] = Field(
        default_factory=dict[Kind, Literal["mask", "drop"]], description="kind -> mask it, or drop the sample"
    )
    burned_in: str | None = Field(
        default=None,
        min_length=1,
        description="package.module:function that reads text in images: an image -> [((l, t, r, b), text)]; "
        "open4ov.data.burned_in:rapid needs the extra `ocr`",
    )
    licences: list[str] | None = Field(
        default=None, min_length=1, description="licences that stay; `unknown` stands for none stated"
    )
    groups: list[str] = Field(
        default_factory=list[str],
        description="keys of an image's annotation whose values name its groups (patient, vehicle, document)",
    )
    val: float = Field(default=0.0, ge=0, lt=1, description="share of groups held back for validation")
    test: float = Field(default=0.0, ge=0, lt=1, description="share of groups held back for testing")


def contradictions(hygiene: HygieneSection) -> Iterator[tuple[Loc, str]]:
    """Values that cannot hold together."""
    if hygiene.val + hygiene.test >= 1:
        share = hygiene.val + hygiene.test
        yield ("data", "hygiene", "test"), f"val and test take {share:g} of the groups and leave none to train on"
    if hygiene.burned_in and not hygiene.personal_data:
        reason = "needs data.hygiene.personal_data: which kinds of it are to be painted over"
        yield ("data", "hygiene", "burned_in"), reason


def idle(hygiene: HygieneSection) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that were written but that nothing reads: (place, reason, the option that makes it so)."""
    loc: Loc
    if hygiene.decontaminate_images and not hygiene.decontaminate:
        loc = ("data", "hygiene", "decontaminate_images")
        yield loc, "data.hygiene.decontaminate names no TSV", ("data", "hygiene", "decontaminate")
    if hygiene.question_embedder and not hygiene.decontaminate:
        loc = ("data", "hygiene", "question_embedder")
        yield loc, "data.hygiene.decontaminate names no evaluation set", ("data", "hygiene", "decontaminate")
    if "question_cosine" in hygiene.model_fields_set and not hygiene.question_embedder:
        loc = ("data", "hygiene", "question_cosine")
        yield loc, "data.hygiene.question_embedder is empty", ("data", "hygiene", "question_embedder")
    if hygiene.groups and not hygiene.val + hygiene.test:
        loc = ("data", "hygiene", "groups")
        yield loc, "data.hygiene.val and data.hygiene.test are 0, so nothing is split", ("data", "hygiene", "val")
