"""A stage of SFT, its samples graded and drawn by admission."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from open4ov import training
from open4ov.admission import mastery, mastery_report
from open4ov.engine import Engine
from open4ov.model import Processor, Qwen3VL
from open4ov.rollout_book import FOLDER, Book
from open4ov.rollouts import digest
from open4ov.run_dir import read_json
from open4ov.sample import Sample
from open4ov.sft import planning, trainer
from open4ov.store import write_json
from open4ov.verifier import Verifier

if TYPE_CHECKING:
    from open4ov.graph import StageRun


def run(run: StageRun, stage: planning.Stage) -> None:
    """The stage `sft_<stage>`, its samples graded by the model as it is, in the precision of its training, and where it
    has several iterations drawn by their grades.

    Leaves `mastery.json`, what each grading found, and `mastery_cost.json`, what it took.
    """
    section = run.recipe.admission.mastery
    began, took = time.monotonic(), list[float]()

    def grade(
        samples: Sequence[Sample],
        model: Qwen3VL,
        processor: Processor,
        image: Callable[[str], Image.Image],
        iteration: int,
    ) -> list[Sample]:
        """From iteration 1 on the samples bring the grades of the one before."""
        half = training.kind(run.recipe.sft.precision, model.device) == "bf16"
        engine = Engine(model, processor, autocast=torch.bfloat16 if half else None)
        name, book = digest(engine), Book(run.images.root.parent / FOLDER)
        with Verifier(run.recipe.sft.verifier, section.verifier_seconds, "sft.verifier") as verifier:
            found = mastery.examine(
                samples, engine, image, section, verifier, run.seed, book, name, iteration, run.progress
            )
        report = mastery_report.report(found, section.weights, samples if iteration else ())
        cost = mastery_report.cost_figures(found.cost, book.cost(name))
        book.close()
        took.append(found.cost.seconds)
        write_json(run.scratch / f"mastery_{iteration:03}.json", {"report": report, "cost": cost})
        return found.samples

    def resample(samples: Sequence[Sample], iteration: int) -> list[Sample]:
        return mastery.resample(samples, section.weights, seed=f"{run.seed} {stage} {iteration}")

    trainer.run_stage(run, stage, grade if section.rollouts else None, resample)
    gradings = [read_json(path) or {} for path in sorted(run.scratch.glob("mastery_*.json"))]
    if gradings:
        seconds = time.monotonic() - began
        since_start = {"seconds": round(seconds, 3), "sampling_share": round(sum(took) / seconds, 4)}
        cost = {"since_last_start": since_start, "gradings": [one.get("cost") for one in gradings]}
        write_json(run.out / "mastery.json", {"gradings": [one.get("report") for one in gradings]})
        write_json(run.out / "mastery_cost.json", cost)
        run.log({"mastery_cost": cost})
