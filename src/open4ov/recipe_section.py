"""What all parts of the recipe have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the recipe: unknown keys, wrong types and infinities are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True)
