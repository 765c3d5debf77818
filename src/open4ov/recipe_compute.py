"""`rl` and `dpo`: where a training computes, in what, and how large a step may be."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from open4ov.recipe_section import Section


class ComputeOptions(Section):
    """As `sft.device`, `sft.precision` and `sft.grad_clip`."""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: cuda where there is one")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="of matrix products; auto: bf16 where the device is fast in it, else fp32"
    )
    grad_clip: float = Field(default=1.0, gt=0, description="largest norm of a step's gradient")
