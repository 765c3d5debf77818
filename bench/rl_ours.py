"""Our online RL as a worker of `python -m bench.rl`: rollout, old log-probabilities, update, each timed.

    python -m bench.rl_ours SETTINGS

SETTINGS is JSON: model, data, out (folders), steps, prompts (a step), minibatches, group, response (tokens), rate,
precision, threads, `fed` (the responses of work.json are taken, none is sampled).
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from bench.rl_pace import Phases
from bench.rl_work import RIGHT, read
from bench.sft_pace import Pace
from open4ov import memory, training
from open4ov.engine import Engine, Request
from open4ov.model import Processor, Qwen3VL
from open4ov.rl import advantage, gspo
from open4ov.rl.prefix import SharedPrefix, log_probs
from open4ov.rl.rollout import encoded_prompts
from open4ov.rl.tasks import Task


class Loop:
    """The steps of `rl/trainer.py` with responses of a set length and rewards by place."""

    def __init__(self, told: dict[str, Any], phases: Phases) -> None:
        self.told, self.phases = told, phases
        self.processor = Processor.from_pretrained(told["model"])
        self.model = Qwen3VL.from_pretrained(told["model"])
        training.freeze_vision(self.model)
        self.optimizer = training.adamw(self.model, told["rate"])
        self.engine = Engine(self.model, self.processor)

    def step(self, tasks: list[Task], given: list[list[int]], number: int) -> dict[str, Any]:
        told, phases = self.told, self.phases
        phases.begin("rollout")
        group, minibatches = told["group"], told["minibatches"]
        if told["fed"]:
            groups = [given[i * group : (i + 1) * group] for i in range(len(tasks))]
        else:
            groups = self._sampled(tasks, number)
        phases.begin("score")
        advantages = advantage.diversity(torch.tensor(RIGHT[:group]))
        prompts = encoded_prompts(self.processor, tasks, self.engine.vision_cache)
        cuts = [round(i * len(tasks) / minibatches) for i in range(minibatches + 1)]
        parts = [SharedPrefix.build(prompts[a:b], groups[a:b]) for a, b in pairwise(cuts)]
        with torch.no_grad():  # those of the first mini-batch are the policy's own
            old = [None, *(log_probs(self.model, part)[0] for part in parts[1:])]
        phases.begin("update")
        losses, norms, scores = [], [], []
        for part, before in zip(parts, old, strict=True):
            logp, _ = log_probs(self.model, part)
            reference = logp.detach() if before is None else before
            responses = int(part.response[-1]) + 1
            loss, _ = gspo.loss(logp, reference, part.response, advantages.repeat(responses // group))
            loss.backward()
            norms.append(training.step(self.model, self.optimizer, told["rate"], grad_clip=1.0))
            losses.append(loss.item())
            scores.append(float(logp.detach().mean()))
        self.engine.update_weights()
        memory.trim()
        tokens = sum(len(response) for responses in groups for response in responses)
        figures = {"loss": losses, "norm": norms, "logp": scores, "response": tokens, "phases": phases.take()}
        phases.begin("")
        return figures

    def _sampled(self, tasks: list[Task], number: int) -> list[list[list[int]]]:
        limits = {"max_tokens": self.told["response"], "temperature": 1.0, "ignore_eos": True}
        requests = [
            Request(task.prompt, task.images, n=self.told["group"], seed=1000 * number + i, **limits)
            for i, task in enumerate(tasks)
        ]
        return [[completion.token_ids for completion in found] for found in self.engine.generate(requests)]


def main() -> None:
    told = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(told["threads"])
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    pace, loop = Pace(), Loop(told, Phases())
    tasks, given = read(Path(told["data"]))
    size, group = told["prompts"], told["group"]
    pace.begin()
    with training.precision(told["precision"]):
        for number in range(told["steps"]):
            here = slice(number * size % len(tasks), number * size % len(tasks) + size)
            rows = slice(here.start * group, here.stop * group)
            pace.step(**loop.step(tasks[here], given[rows], number))
    pace.end()


if __name__ == "__main__":
    main()
