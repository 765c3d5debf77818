"""`data.labels` as a mapping: labels added to the shipped tree, so that a vertical needs no file of its own."""

from __future__ import annotations

from pydantic import Field

from open4ov.recipe_section import Section


class AddedLabel(Section):
    """An L2 label; what its parts mean: `data/labels.yaml`."""

    id: str = Field(min_length=1, description="its L1's id, a dot, and a word")
    name: str = Field(min_length=1)
    things: list[str] = Field(default_factory=list[str], description="of a domain: what it shows; topics name it")
    abilities: list[str] = Field(default_factory=list[str], description="of a domain: ability L1 ids that make sense")
    patterns: list[str] = Field(default_factory=list[str], description="of an ability: topics, with {thing}")
    tags: list[str] = Field(
        default_factory=list[str], description="facts of an annotation that put a picture under it (catalog)"
    )


class AddedBranch(Section):
    """An L1 label with its L2 labels; of an L1 that the tree has, L2 labels that it gets beside its own."""

    id: str = Field(min_length=1)
    name: str | None = Field(default=None, min_length=1, description="of a new L1; the tree's own has one")
    types: list[str] = Field(default_factory=list[str], description="of an ability: question types")
    l2: list[AddedLabel] = Field(min_length=1)


class LabelsSection(Section):
    """What is added to the shipped tree on each axis."""

    domain: list[AddedBranch] = Field(default_factory=list[AddedBranch])
    ability: list[AddedBranch] = Field(default_factory=list[AddedBranch])
