"""Online RL against TRL's GRPOTrainer set up as GSPO: the same weights, prompts with one picture, lengths, freezing,
optimizer and precision, in turns step by step, on one thread each. See `--help`.

    python -m bench.rl [--only nano,60M] [--ratios 4,1] [--quick] [--clock wall] [--compile] [--venv .venv-trl]

TRL runs in an environment of its own, which `scripts/trl_venv.sh` makes when it is not there. It gets the best of
several settings, tried first: forward passes of an update's responses, and with --compile compiled blocks. It generates
with transformers, its way without vLLM: it hands weights to vLLM over NCCL, between GPUs.

Every response is exactly as long as wanted and rewarded by its place in the group, so that both sides have the same to
compute: 8 responses a prompt, the prompt 4 times as long as a response and as long as one. Figures: seconds of rollout,
score (old log-probabilities; on TRL's side also its second reading of the pictures) and update, the whole step, peak
memory of each side's process; the update's ratio against that of the counted operations (`model/flops.py`); and, from
one update on the same responses, loss, gradient norm and mean log-probability: that the work is the same.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench import rl_work
from bench.measure import machine, write
from bench.rl_job import Job, alike, asked
from bench.rl_report import Counted, Figures, markdown
from bench.sft import environment
from bench.sft_pace import Worker
from open4ov.model.flops import count, shared_prefix

GROUP = 8
PROMPTS = {"nano": 4, "60M": 2}
"""Prompts of a step"""
MINIBATCHES = 2
STEPS = {"nano": 3, "60M": 2}
"""Timed steps, after one that warms up"""


def steps(job: Job) -> int:
    return 1 if job.options.quick else STEPS[job.kind]


def start(job: Job, side: str, **told: Any) -> Worker:
    shared: dict[str, Any] = {
        "rate": 1e-5, "steps": steps(job) + 1, "prompts": PROMPTS[job.kind], "minibatches": MINIBATCHES, "group": GROUP,
        "response": job.shape.response, "fed": False,
    }  # fmt: skip
    if side == "peer":
        shared |= {"parts": 1, "compile": False, "rewards": rl_work.RIGHT}
    return job.start("rl", side, shared | told)


def first_update(job: Job) -> dict[str, dict[str, float]]:
    """Loss, gradient norm and mean log-probability of one update on the same responses, of all prompts of a step at
    once. Raises AssertionError when the sides differ."""
    found: dict[str, dict[str, float]] = {}
    for side in ("ours", "peer"):
        worker = start(job, side, fed=True, steps=1, minibatches=1)
        step = worker.block(1)["steps"][0]
        worker.close()
        found[side] = {name: step[name][0] for name in ("loss", "norm", "logp")}
        expected = PROMPTS[job.kind] * GROUP * job.shape.response
        assert step["response"] == expected, f"{side} trained on {step['response']} tokens, not {expected}"
    for name in ("norm", "logp"):
        alike(name, found["ours"][name], found["peer"][name], job.precision)
    assert abs(found["ours"]["loss"] - found["peer"]["loss"]) < 1e-3, found  # zero: a group's advantages cancel out
    return found


PARTS = {"an update's responses at once": 1, "in two parts": 2, "in four parts": 4}
"""The peer's settings: in how many forward passes it takes the responses of an update"""


def told_by(name: str) -> dict[str, Any]:
    """The settings behind a name of `PARTS`, with "; compiled" behind it perhaps."""
    plain, _, compiled = name.partition("; ")
    return {"parts": PARTS[plain], "compile": bool(compiled)}


def tune(job: Job) -> dict[str, Figures]:
    """A step of the peer in each setting, on given responses: score and update are what the settings change."""
    found: dict[str, Figures] = {}

    def tried(name: str) -> None:
        worker, found[name] = start(job, "peer", fed=True, steps=2, **told_by(name)), Figures()
        worker.block(1)
        found[name].add(worker.block(1), job.options.clock)
        worker.close()
        print(f"  TRL, {name}: {found[name].whole:.1f} s", file=sys.stderr)

    for name in PARTS:
        tried(name)
    if job.options.compile:
        tried(f"{min(found, key=lambda name: found[name].whole)}; compiled")
    return found


def race(job: Job, setting: str) -> dict[str, Figures]:
    """Both train, in turns of one step: a rollout batch with its mini-batches."""
    sides = {"ours": start(job, "ours"), "peer": start(job, "peer", **told_by(setting))}
    figures = {side: Figures() for side in sides}
    for number in range(steps(job) + 1):
        for side, worker in sides.items():
            report = worker.block(1)
            if number:  # the first warms up
                figures[side].add(report, job.options.clock)
            else:
                figures[side].peak = report["peak"]
    for worker in sides.values():
        worker.close()
    return figures


def counted(job: Job) -> Counted:
    """The operations of a step's update on both sides, by formula: the peer's tower sees the picture of every response,
    and every response has its prompt computed; both apply the head to responses only."""
    config, prompts, shape = job.config, PROMPTS[job.kind], job.shape
    lengths = [shape.response] * GROUP
    rows = count(config, [shape.prompt + length for length in lengths], [job.grid] * GROUP, predicted=sum(lengths))
    shared = shared_prefix(config, shape.prompt, lengths)
    return Counted(
        ours=prompts * shared.training(cached_vision=True),
        peer=prompts * rows.training(frozen_vision=True),
        without_vision=prompts * rows.training(cached_vision=True),
    )


def main() -> None:
    options = asked(__doc__)
    python = environment(options.venv)
    torch.set_num_threads(options.threads)
    text = (
        f"# Online RL against TRL\n\n{machine()}- TRL 1.16.0, GRPOTrainer as GSPO; {options.threads} thread each; "
        f"{options.clock} seconds\n"
    )
    kept: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for kind in options.only:
            setting, tuned = next(iter(PARTS)), dict[str, Figures]()
            for ratio in options.ratios:
                job = Job.prepare(kind, ratio, Path(name) / f"{kind}-{ratio}", python, options)
                rl_work.make(job.folder, job.processor, job.shape, (steps(job) + 1) * PROMPTS[kind], GROUP)
                first = first_update(job)
                print(f"{kind}, {ratio} x: first update {first}", file=sys.stderr)
                shown = {}
                if not tuned and not options.quick:  # once for a model, at its first length
                    shown = tuned = tune(job)
                    setting = min(tuned, key=lambda one: tuned[one].whole)
                found, operations = race(job, setting), counted(job)
                part = markdown(_title(job, first), shown, setting, found, operations)
                print(part, flush=True)
                text += part
                kept[f"{kind} {ratio}"] = {
                    "first": first,
                    "setting": setting,
                    "tuned": {key: asdict(value) for key, value in shown.items()},
                    "operations": asdict(operations),
                    **{side: asdict(figures) for side, figures in found.items()},
                }
    path = write("rl", text)
    path.with_suffix(".json").write_text(json.dumps(kept, indent=1))
    print(path)


def _title(job: Job, first: dict[str, dict[str, float]]) -> str:
    ours, peer, shape = first["ours"], first["peer"], job.shape
    return (
        f"\n## {job.kind}, {job.precision}: prompt {shape.prompt} tokens ({shape.side**2} of them picture), response "
        f"{shape.response}\n\n{PROMPTS[job.kind]} prompts a step, {GROUP} responses each, {MINIBATCHES} mini-batches. "
        f"One update on the same responses: gradient norm {ours['norm']:.5f} ours, {peer['norm']:.5f} TRL; mean "
        f"log-probability {ours['logp']:.5f}, {peer['logp']:.5f}; loss {ours['loss']:.1e}, {peer['loss']:.1e} "
        "(a group's advantages cancel out)."
    )


if __name__ == "__main__":
    main()
