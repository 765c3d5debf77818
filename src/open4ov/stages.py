"""Stages that are put together from parts which do not know one another: training with admission's eyes on its data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from open4ov.admission import mastery
from open4ov.engine import Engine
from open4ov.functions import function
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import Sample
from open4ov.sft import trainer

if TYPE_CHECKING:
    from open4ov.graph import StageRun


def sft(run: StageRun, stage: trainer.Stage) -> None:
    """The stage `sft_<stage>`, its samples graded by the model that it begins with."""
    section = run.recipe.admission.mastery
    verifier = function(run.recipe.sft.verifier, "sft.verifier")

    def grade(
        samples: Sequence[Sample], model: Qwen3VL, processor: Processor, image: Callable[[str], Image.Image]
    ) -> list[Sample]:
        engine = Engine(model, processor)
        return mastery.grade(
            samples, engine, image, verifier, section.rollouts, section.samples, run.seed, run.progress
        )

    trainer.run_stage(run, stage, grade if section.rollouts else None)
