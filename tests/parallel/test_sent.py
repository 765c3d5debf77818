"""Decoder layers that FSDP sends in bf16 (`parallel.gather`): fewer bytes, and the same products."""

from __future__ import annotations

from pathlib import Path

import pytest
import sent
import world
from parity import Case

CASES = [
    Case({"dp_shard": 2}, recompute="full"),
    Case({"dp_shard": 2}, "experts", "shared", recompute="op"),
    Case({"dp_shard": 2, "ep": 2}, "experts"),
    Case({"tp": 2}, "dense", "grouped", frozen=True),
    Case({"pp": 2}, "untied"),
    Case({"dp_shard": 2}, "experts", frozen=True, adapters=2),
]


@pytest.mark.distributed
def test_what_products_read_is_the_same_in_half_the_bytes(tiny_dir: Path) -> None:
    """The norms' weights are ones here, which bf16 has: what differs is the rounding of their gradients."""
    results = world.run(sent.on_meshes, 2, tiny_dir, CASES, timeout=600)
    for found in results:
        for case, both in zip(CASES, found, strict=True):
            half, full = both["auto"], both["fp32"]
            assert half.loss == full.loss, case
            assert half.scores.equal(full.scores), case
            assert half.gradients.keys() == full.gradients.keys()
            for name, gradient in half.gradients.items():
                other = full.gradients[name]
                apart = float((gradient - other).abs().max() / other.abs().max().clamp(min=1e-12))
                assert apart <= (2**-7 if "norm" in name else 0.0), f"{case}: {name} {apart:.1e}"
            more = full.gathered - half.gathered  # embedding, head and tower, most of so small a model, are as before
            if case.sizes.get("dp_shard", 1) > 1:
                assert more > 0.05 * full.gathered, (case, more)
