"""The stage `rl` of a run: online RL on the tasks of the stage `rl_pool`.

It leaves model/, curve.json, summary.json, train.jsonl, rollouts.json (groups to look at) and failed.parquet: the tasks
none of whose responses was right. With `rl.filter` the tasks are those that the model answers now rightly, now wrongly
(`selection.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch

from open4ov import answers_symbolic, journal, training
from open4ov.errors import UserError
from open4ov.functions import function
from open4ov.model import Processor, Qwen3VL
from open4ov.rl import replay, selection
from open4ov.rl.failed import Failures
from open4ov.rl.tasks import Task, read
from open4ov.rl.trainer import fit
from open4ov.rollout_book import FOLDER, Book
from open4ov.sample import Sample
from open4ov.store import read_samples, write_json, write_samples

if TYPE_CHECKING:
    from open4ov.graph import StageRun

THRESHOLDS = "encoder_thresholds"
"""The folder of a run that keeps the thresholds which the labelled pairs have set"""


def run(run: StageRun) -> None:
    """The stage `rl`: trains the last SFT model on the tasks of the stage `rl_pool`."""
    section = run.recipe.rl
    torch.set_flush_denormal(True)
    start = next(folder for name, folder in run.inputs.items() if name.startswith("sft_")) / "model"
    model, processor = Qwen3VL.from_pretrained(start), Processor.from_pretrained(start)
    model.to(training.device(section.device, "rl.device"))
    tasks = read(run.inputs["rl_pool"], run.images)
    failures = Failures()
    filtered: dict[str, Any] = {}
    if section.steps and section.filter.rollouts:
        selected = _selected(run, tasks, model, processor)
        tasks, filtered = selected.tasks, {"filter": selected.figures}
        failures.never(selected.never, section.filter.rollouts)
    result = fit(
        model,
        processor,
        tasks,
        section,
        run.seed,
        run.progress,
        run.log,
        failures=failures,
        images=run.images,
        replayed=_replayed(run) if section.steps and section.replay.share else (),
        checkpoints=run.scratch / "checkpoints",
        thresholds=run.images.root.parent / THRESHOLDS,
        folder=run.scratch / "journal",
        name=f"{run.recipe.name} {run.stage}",
    )
    if unsaid := result.summary["no_verdict"]:
        told = answers_symbolic.counts.reason
        run.note(f"{unsaid} symbolic answers got no verdict and counted as wrong (the last: {told})")
    failed = failures.samples(run.images)
    write_samples(run.out / "failed.parquet", failed)
    model.save_pretrained(run.out / "model")
    processor.save_pretrained(run.out / "model")
    journal.publish(run.scratch / "journal", run.out)
    write_json(run.out / "rollouts.json", result.shown)
    write_json(run.out / "curve.json", result.curve)
    write_json(run.out / "summary.json", {**result.summary, "failed": len(failed), **filtered})


def _selected(run: StageRun, tasks: Sequence[Task], model: Qwen3VL, processor: Processor) -> selection.Selected:
    section = run.recipe.rl
    reward = function(section.reward, "rl.reward")
    engine, name = selection.asked(model, processor, section)
    with closing(engine), closing(Book(run.images.root.parent / FOLDER)) as book:
        found = selection.select(tasks, engine, name, section, reward, run.images, book, run.seed, run.progress)
    told, wanted = found.figures, section.steps * section.prompts
    run.log({"filter": {**told, "cost": found.cost.figures()}})
    if told["used"] < wanted:
        run.note(
            f"rl.filter left {told['used']} of {told['candidates']} candidates for {wanted} prompts: they are gone "
            "through several times; raise rl.filter.candidates"
        )
    return found


def _replayed(run: StageRun) -> list[Sample]:
    """The general set that SFT was made from. Raises UserError when it is empty."""
    found = replay.usable(read_samples(run.inputs["data"] / "general.parquet"))
    if not found:
        raise UserError("rl.replay.share: there is no general sample to replay (images.general_count); set it to 0")
    return found
