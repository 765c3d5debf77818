"""The stage `rl` of a run: online RL on the tasks of the stage `rl_pool`.

It leaves model/, curve.json, summary.json, train.jsonl, rollouts.json (groups to look at) and failed.parquet: the tasks
none of whose responses was right. With `rl.filter` the tasks are those that the model answers now rightly, now wrongly
(`rl/pool/mixed.py`).
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
from open4ov.rl import replay
from open4ov.rl.failed import Failures
from open4ov.rl.pool import mixed
from open4ov.rl.tasks import Task, read
from open4ov.rl.trainer import fit
from open4ov.rollout_book import FOLDER, Book
from open4ov.sample import Sample
from open4ov.stages import spread
from open4ov.store import read_samples, write_json, write_samples

if TYPE_CHECKING:
    from open4ov.graph import StageRun


def run(run: StageRun) -> None:
    """The stage `rl`: trains the last SFT model on the tasks of the stage `rl_pool`."""
    section = run.recipe.rl
    torch.set_flush_denormal(True)
    start = next(folder for name, folder in run.inputs.items() if name.startswith("sft_")) / "model"
    processor, device = Processor.from_pretrained(start), training.device(section.device, "rl.device")
    tasks = read(run.inputs["rl_pool"], run.images)
    failures = Failures()
    filtered: dict[str, Any] = {}
    filters = bool(section.steps and section.filter.rollouts)
    model = Qwen3VL.from_pretrained(start, device=device) if run.crew is None else None
    if filters:
        selected = _selected(run, tasks, model or mixed.model_of(start, section), processor)
        tasks, filtered = selected.tasks, {"filter": selected.figures}
        failures.never(selected.never, section.filter.rollouts)
    replayed = _replayed(run) if section.steps and section.replay.share else ()
    if run.crew is not None:
        # the training reads its own, in parts, and gives the whole back
        result, model = spread.online(run, start, processor, tasks, failures)
    else:
        assert model is not None
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
            replayed=replayed,
            checkpoints=run.scratch / "checkpoints",
            thresholds=run.images.root.parent / spread.THRESHOLDS,
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


def _selected(run: StageRun, tasks: Sequence[Task], model: Qwen3VL, processor: Processor) -> mixed.Selected:
    section = run.recipe.rl
    reward = function(section.reward, "rl.reward")
    engine, name = mixed.asked(model, processor, section)
    with closing(engine), closing(Book(run.images.root.parent / FOLDER)) as book:
        found = mixed.select(tasks, engine, name, section, reward, run.images, book, run.seed, run.progress)
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
