"""The stage `dpo`: offline RL, its controls asked with the questions that stage 3 of SFT derives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from open4ov.rl import dpo
from open4ov.sample import Sample
from open4ov.sft.preference import pool

if TYPE_CHECKING:
    from open4ov.graph import StageRun


def run(run: StageRun) -> None:
    """The stage `dpo`."""
    dpo.run(run, texts=texts)


def texts(samples: Sequence[Sample]) -> list[Sample]:
    """The questions without a picture among the samples, and those that follow from their annotations: in both
    languages, so that the language does not tell which question is refused."""
    return [sample for group in pool.gather(samples).texts.values() for sample in group]
