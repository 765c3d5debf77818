"""Stages that are put together from parts which do not know one another: training with admission's eyes on its data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from open4ov.admission import mastery
from open4ov.data import labels
from open4ov.engine import Engine
from open4ov.functions import function
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import Sample
from open4ov.sft import planning, trainer
from open4ov.sft import sets as sft_sets

if TYPE_CHECKING:
    from open4ov.graph import StageRun


def sets(run: StageRun) -> None:
    """The stage `sets`: SFT-Knowledge and SFT-Ability, of samples whose labels the run's label tree has."""
    tree = labels.load(run.recipe.data.labels)
    firsts = {(axis, name) for axis in labels.AXES for name in (*tree.names(axis), labels.OTHERS)}
    seconds = {(axis, l1.name, l2.name) for axis in labels.AXES for l1 in tree.axis(axis) for l2 in l1.l2}

    def known(sample: Sample) -> bool:
        return all(
            (one.axis, one.l1) in firsts and (one.l2 is None or (one.axis, one.l1, one.l2) in seconds)
            for one in sample.labels
        )

    sft_sets.build(run, known)


def sft(run: StageRun, stage: planning.Stage) -> None:
    """The stage `sft_<stage>`, its samples graded by the model that it begins with."""
    section = run.recipe.admission.mastery
    verifier = function(run.recipe.sft.verifier, "sft.verifier")

    def grade(
        samples: Sequence[Sample],
        model: Qwen3VL,
        processor: Processor,
        image: Callable[[str], Image.Image],
        iteration: int,
    ) -> list[Sample]:
        engine = Engine(model, processor)
        return mastery.grade(
            samples, engine, image, verifier, section.rollouts, section.samples, run.seed, run.progress
        )

    trainer.run_stage(run, stage, grade if section.rollouts else None)
