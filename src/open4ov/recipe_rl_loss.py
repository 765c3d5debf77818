"""`rl.loss` and its bounds: what goes together, and what does not (paper §4.2.3, eq. 11-12)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import RlSection

Kind = Literal["gspo", "grpo", "dapo"]

WIDEST = 0.1
"""A bound of GSPO above that is one for single tokens: the ratio of a whole response, a geometric mean, hardly ever
gets there, and nothing would be clipped"""
NARROWEST = 0.01
"""A bound of GRPO or DAPO below that is one for whole responses: it would clip most tokens after one step"""


def contradictions(rl: RlSection) -> Iterator[tuple[Loc, str]]:
    """Bounds of a loss of the other kind. An error rather than a note: such a run would train, and measure something
    else than it says."""
    for name in ("clip_low", "clip_high"):
        value = getattr(rl, name)
        if value is None:
            continue
        if name == "clip_low" and value >= 1:
            yield ("rl", name), f"{value} would clip at a ratio of zero or less; use a value below 1"
        elif rl.loss == "gspo" and value > WIDEST:
            yield (
                ("rl", name),
                f"{value} is a bound for the ratio of a token; that of a whole response (rl.loss gspo) stays so near 1 "
                f"that it would never be clipped: use at most {WIDEST} (GSPO's own are 3e-4 and 4e-4), or rl.loss dapo",
            )
        elif rl.loss != "gspo" and value < NARROWEST:
            yield (
                ("rl", name),
                f"{value} is a bound for the ratio of a whole response; rl.loss {rl.loss} clips tokens, most of which "
                f"would be beyond it: use at least {NARROWEST} (0.2 is usual), or rl.loss gspo",
            )
