"""Our reference-free DPO as a worker of `python -m bench.dpo`: the stage's own training (`rl/preference/training.py`).

    python -m bench.dpo_ours SETTINGS

SETTINGS is JSON: model, data, out (folders), steps, pairs (a step), beta, rate, precision, threads. Each picture is
new. The training encodes all of them before its first step (`Scorer.look`): the same is timed by itself before, and
each step is charged with its share of it. The warm-up step has the training's own pass, and what else comes first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Protocol

import torch

from bench.rl_pace import Phases
from bench.rl_work import read, read_pairs
from bench.sft_pace import Pace
from open4ov import memory
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import DpoSection
from open4ov.rl.preference.prompts import Prompts
from open4ov.rl.preference.scores import Scorer
from open4ov.rl.preference.training import train
from open4ov.sample import Sample, assistant


class Told(Protocol):
    """What is told of each step, as `Pace` is."""

    def step(self, **figures: Any) -> None: ...


def run(told: dict[str, Any], pace: Told) -> None:
    """Trains, and tells `pace` of each step: loss, norm, mean log-probability of an answer, response tokens, phases."""
    model, processor = Qwen3VL.from_pretrained(told["model"]), Processor.from_pretrained(told["model"])
    data, size, steps = Path(told["data"]), told["pairs"], told["steps"]
    tasks, answers = read(data)[0][: steps * size], read_pairs(data)[: steps * size]
    pictures = {task.sample.id: task.images[0] for task in tasks}
    pairs = [
        Sample(
            id=task.sample.id,
            source="bench",
            task="vqa",
            images=[task.sample.id],
            messages=[*task.prompt, assistant(chosen)],
            rejected=[assistant(rejected)],
        )
        for task, (chosen, rejected) in zip(tasks, answers, strict=True)
    ]
    section = DpoSection.model_validate(
        {
            "pairs": len(pairs),
            "batch": size,
            "beta": told["beta"],
            "learning_rate": told["rate"],
            "nll_weight": 0,
            "precision": told["precision"],
            "device": "cpu",
            "validation": {"pairs": 0},
            "probe": 0,
        }
    )
    prompts, phases = Prompts(processor, pictures.__getitem__), Phases()
    tokens = sum(len(prompts.response(text)) for pair in answers for text in pair) // steps
    phases.begin("look")
    Scorer(model, prompts, section.precision).look(pairs)
    phases.begin("")
    memory.trim()
    look = [spent / steps for spent in phases.take()["look"]]

    def stepped(point: dict[str, Any]) -> None:
        spent = {"look": look, **phases.take()}
        phases.begin("")
        pace.step(
            loss=point["loss"],
            norm=point["grad_norm"],
            logp=(point["chosen_logp"] + point["rejected_logp"]) / 2,
            tokens=tokens,
            phases=spent,
        )
        phases.begin("step")

    phases.begin("step")
    train(model, processor, pairs, pictures.__getitem__, section, 0, log=stepped)


def main() -> None:
    told = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(told["threads"])
    torch.set_flush_denormal(True)
    pace = Pace()
    pace.begin()
    run(told, pace)
    pace.end()


if __name__ == "__main__":
    main()
