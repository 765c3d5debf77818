"""`dpo`: offline RL on preference pairs (paper §4.1.2, §4.2.3)."""

from __future__ import annotations

from pydantic import Field

from open4ov.recipe_section import Section


class DpoSection(Section):
    """Offline RL: reference-free DPO (paper §4.1.2, eq. 13)."""

    pairs: int = Field(default=1500, ge=0)
    epochs: int = Field(default=1, ge=1)
    batch: int = Field(default=32, ge=1, description="pairs a step")
    beta: float = Field(default=0.1, gt=0)
    learning_rate: float = Field(default=5e-5, gt=0)
    nll_weight: float = Field(default=0.1, ge=0, description="weight of the chosen response's negative log-likelihood")
