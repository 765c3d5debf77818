"""Our online RL as a worker of `python -m bench.rl`: rollout, old log-probabilities, update, each timed.

    python -m bench.rl_ours SETTINGS

SETTINGS is JSON: model, data, out (folders), steps, prompts (a step), minibatches, group, response (tokens), rate,
precision, threads, `fed` (the responses of work.json are taken, none is sampled); and, where they are not the usual
ones, device and rollout (a recipe's `rl.rollout`). The generator and the updater are the trainer's
own (`rl/trainer.py`); lengths and rewards are set instead of earned.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.rl_pace import Phases, peak_gpu
from bench.rl_work import RIGHT, read
from bench.sft_pace import Pace
from open4ov import memory, training
from open4ov.engine import Completion, VisionCache
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import RlSection
from open4ov.recipe_rl_rollout import exact
from open4ov.rl import advantage, importance, rollout
from open4ov.rl.generation import generator
from open4ov.rl.rollout import Group
from open4ov.rl.tasks import Task
from open4ov.rl.update import Batch, Updater


class Loop:
    """The steps of a training, with responses of a set length and rewards by place."""

    def __init__(self, told: dict[str, Any], phases: Phases) -> None:
        self.fed, self.phases = told["fed"], phases
        size, tokens = told["group"], told["response"]
        rolling, device = {"stop_loops": False, **told.get("rollout", {})}, told.get("device", "cpu")
        limits = {"max_tokens": tokens, "length_weight": 0.0, "rollout": rolling}
        options = {"group": size, "minibatches": told["minibatches"], "device": device, "precision": told["precision"]}
        self.section = RlSection.model_validate(options | limits)
        processor = Processor.from_pretrained(told["model"])
        self.model = Qwen3VL.from_pretrained(told["model"], device=device)
        training.freeze_vision(self.model)
        self.optimizer, self.rate = training.adamw(self.model, told["rate"]), told["rate"]
        self.pictures = VisionCache(self.model, processor)
        half = training.autocast(self.section.precision, self.model.device)
        self.generator = generator.build(self.model, processor, self.section.rollout, self.pictures, autocast=half)
        weighed = importance.wanted(self.section.rollout.tis, exact(self.section.rollout))
        self.updater = Updater(self.model, processor, self.pictures, self.section, weighed)

    def step(self, tasks: list[Task], given: list[list[int]], number: int) -> dict[str, Any]:
        """One rollout batch with its mini-batches: what they saw, and the phases' seconds."""
        self.phases.begin("rollout")
        responses = self._given(given) if self.fed else self._sampled(tasks, number)
        self.phases.begin("score")
        groups = [self._group(task, own) for task, own in zip(tasks, responses, strict=True)]
        batch = self.updater.prepare(groups)
        scored = self._scored(batch) if self.fed else {}
        self.phases.begin("update")
        seen = self.updater.apply(batch, self.optimizer, self.rate)
        self.generator.update_weights()
        memory.trim()
        tokens = sum(len(response.token_ids) for own in responses for response in own)
        spent = self.phases.take()
        self.phases.begin("")
        figures = {"loss": seen.losses, "norm": seen.norms, "response": tokens, "phases": spent, "gpu": peak_gpu()}
        return figures | scored | ({} if self.fed else {"apart": self._apart(batch)})

    def _sampled(self, tasks: list[Task], number: int) -> list[list[Completion]]:
        requests = rollout.requests(tasks, self.section, number, 0)
        return self.generator.generate([replace(request, ignore_eos=True) for request in requests])

    def _given(self, given: list[list[int]]) -> list[list[Completion]]:
        made = [Completion("", tokens, [0.0] * len(tokens), "length", 0) for tokens in given]
        return [made[start : start + self.section.group] for start in range(0, len(made), self.section.group)]

    def _group(self, task: Task, responses: list[Completion]) -> Group:
        right = torch.tensor(RIGHT[: len(responses)], dtype=torch.float64)
        lengths = torch.tensor([len(response.token_ids) for response in responses], dtype=torch.float64)
        return Group(task, responses, right, lengths, torch.zeros_like(right), advantage.diversity(right))

    def _scored(self, batch: Batch) -> dict[str, list[float]]:
        """The mean log-probability before any update, of each mini-batch."""
        with torch.no_grad():
            scores = [torch.cat([self.updater.score(part)[0] for part in parts]) for parts in batch.minibatches]
        return {"logp": [float(one.mean()) for one in scores]}

    @staticmethod
    def _apart(batch: Batch) -> float:
        """How far the rollout's log-probabilities are from those computed anew, at most, nats: rounding."""
        scored = [(part.old_logp, part.rollout_logp) for parts in batch.minibatches for part in parts]
        return max((float((a - b).abs().max()) for a, b in scored if a is not None), default=0.0)


def main() -> None:
    told = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(told["threads"])
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    pace, loop = Pace(), Loop(told, Phases())
    tasks, given = read(Path(told["data"]))
    size, group = told["prompts"], told["group"]
    pace.begin()
    for number in range(told["steps"]):
        first = number * size % len(tasks)
        rows = given[first * group : (first + size) * group]
        pace.step(**loop.step(tasks[first : first + size], rows, number))
    pace.end()


if __name__ == "__main__":
    main()
