"""Our reference-free DPO as a worker of `python -m bench.dpo`.

    python -m bench.dpo_ours SETTINGS

SETTINGS is JSON: model, data, out (folders), steps, pairs (a step), beta, rate, precision, threads. Each picture is
new: the tower sees it once, for both answers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from bench.rl_pace import Phases
from bench.rl_work import read, read_pairs
from bench.sft_pace import Pace
from open4ov import memory, training
from open4ov.engine import VisionCache
from open4ov.model import Processor, Qwen3VL
from open4ov.rl import dpo
from open4ov.rl.prefix import SharedPrefix, log_probs
from open4ov.rl.rollout import encoded_prompts


def main() -> None:
    told = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(told["threads"])
    torch.set_flush_denormal(True)
    model, processor = Qwen3VL.from_pretrained(told["model"]), Processor.from_pretrained(told["model"])
    training.freeze_vision(model)
    optimizer, pictures = training.adamw(model, told["rate"]), VisionCache(model, processor)
    tasks, _ = read(Path(told["data"]))
    answers = [
        [[*processor.tokenize(text), processor.eos_id] for text in pair] for pair in read_pairs(Path(told["data"]))
    ]
    pace, phases, size = Pace(), Phases(), told["pairs"]
    pace.begin()
    for number in range(told["steps"]):
        phases.begin("step")
        here = slice(number * size, (number + 1) * size)
        with training.precision(told["precision"]):
            groups = SharedPrefix.build(encoded_prompts(processor, tasks[here], pictures), answers[here])
            logp, _ = log_probs(model, groups)
        sums = logp.new_zeros(2 * size).index_add(0, groups.response, logp)
        loss, _ = dpo.loss(sums[::2], sums[1::2], told["beta"])
        loss.backward()
        norm = training.step(model, optimizer, told["rate"], grad_clip=1.0)
        memory.trim()
        figures = {"loss": loss.item(), "norm": norm, "logp": float(sums.detach().mean()), "tokens": len(logp)}
        spent = phases.take()
        phases.begin("")
        pace.step(**figures, phases=spent)
    pace.end()


if __name__ == "__main__":
    main()
