"""Reference-free DPO against TRL's DPOTrainer: the same weights, pairs with one picture, lengths, freezing, optimizer
and precision, in turns step by step, on one thread each. See `--help`.

    python -m bench.dpo [--only nano,60M] [--ratios 4,1] [--quick] [--clock wall] [--compile] [--venv .venv-trl]

TRL 1.16 has no reference-free DPO for pictures: its DPOTrainer always runs a reference model and refuses to compute its
log-probabilities beforehand for data with pictures, and its CPOTrainer reads text only. So two peers are measured: the
DPOTrainer as it is, with its reference, and the same with the reference's log-probabilities put to zero by hand, which
is the loss without a reference at no cost for one. The second one's loss, gradient norm and log-probabilities must be
ours. Every answer has the same number of tokens; the prompt is 4 times as long as an answer, and as long as one.

Our side is the stage's own training. It encodes all pictures before its first step: a step's share of that is part of
the step's seconds, and is told apart. TRL encodes them within its steps.
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
from bench.rl_report import Counted, Figures
from bench.sft import environment
from bench.sft_pace import Worker
from open4ov.model.flops import count, shared_prefix

PAIRS = {"nano": 8, "60M": 4}
"""Pairs of a step"""
STEPS = {"nano": 4, "60M": 3}
"""Timed steps, after one that warms up"""
PHASES = ("look", "step")
"""What a step's seconds are made of; `look`: its share of our pass over all pictures"""
SIDES = {
    "ours": {},
    "with its reference": {"reference": True},
    "reference put to zero": {"reference": False},
}


def steps(job: Job) -> int:
    return 1 if job.options.quick else STEPS[job.kind]


def start(job: Job, side: str, **told: Any) -> Worker:
    shared: dict[str, Any] = {"rate": 1e-5, "steps": steps(job) + 1, "pairs": PAIRS[job.kind], "beta": 0.1}
    if side == "ours":
        return job.start("dpo", "ours", shared | told)
    return job.start("dpo", "peer", shared | {"parts": 1, "compile": False} | SIDES[side] | told)


def first_step(job: Job) -> dict[str, dict[str, float]]:
    """Loss, gradient norm and mean log-probability of an answer. Raises AssertionError when ours are not those of the
    peer without a reference, or a reference that is the model itself has another loss than log 2."""
    found: dict[str, dict[str, float]] = {}
    for side in SIDES:
        worker = start(job, side, steps=1)
        found[side] = worker.block(1)["steps"][0]
        worker.close()
        expected = 2 * PAIRS[job.kind] * job.shape.response
        assert found[side]["tokens"] == expected, f"{side} read {found[side]['tokens']} tokens, not {expected}"
    ours, with_reference, without = found.values()
    for name in ("loss", "norm", "logp"):
        alike(name, ours[name], without[name], job.precision)
    alike("logp", ours["logp"], with_reference["logp"], job.precision)
    alike("loss", 0.693147, with_reference["loss"], job.precision)
    return found


PARTS = {"all pairs at once": 1, "in two parts": 2, "a pair at a time": 0}
"""The peer's settings: in how many forward passes it takes the pairs of a step (0: one each)"""


def told_by(job: Job, name: str) -> dict[str, Any]:
    plain, _, compiled = name.partition("; ")
    return {"parts": PARTS[plain] or PAIRS[job.kind], "compile": bool(compiled)}


def tune(job: Job) -> dict[str, Figures]:
    """A step of the peer with its reference in each setting."""
    found: dict[str, Figures] = {}

    def tried(name: str) -> None:
        worker = start(job, "with its reference", steps=2, **told_by(job, name))
        found[name] = Figures(phases=PHASES)
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
    """All three train, in turns of one step."""
    workers = {side: start(job, side, **({} if side == "ours" else told_by(job, setting))) for side in SIDES}
    figures = {side: Figures(phases=PHASES) for side in workers}
    for number in range(steps(job) + 1):
        for side, worker in workers.items():
            report = worker.block(1)
            if number:  # the first warms up
                figures[side].add(report, job.options.clock)
    for worker in workers.values():
        worker.close()
    return figures


def counted(job: Job) -> dict[str, Counted]:
    """The operations of a step: ours against each peer. The peer's tower sees a picture once for each answer, in every
    pass; ours once for both."""
    config, pairs, shape = job.config, PAIRS[job.kind], job.shape
    rows = count(config, [shape.prompt + shape.response] * 2, [job.grid] * 2, predicted=2 * shape.response)
    shared = shared_prefix(config, shape.prompt, [shape.response] * 2).training(cached_vision=True)
    ours = pairs * (shared + count(config, [], [job.grid]).vision)
    policy = pairs * rows.training(frozen_vision=True)
    without = pairs * rows.training(cached_vision=True)
    reference = pairs * rows.forward
    text_only = pairs * (rows.forward - rows.vision)
    return {
        "with its reference": Counted(ours, policy + reference, without + text_only),
        "reference put to zero": Counted(ours, policy, without),
    }


def markdown(
    job: Job, first: dict[str, dict[str, float]], tuned: dict[str, Figures], setting: str, found: dict[str, Figures]
) -> str:
    ours, shape = found["ours"], job.shape
    told = {side: f"loss {f['loss']:.5f}, norm {f['norm']:.5f}, logp {f['logp']:.3f}" for side, f in first.items()}
    lines = [
        f"\n## {job.kind}, {job.precision}: prompt {shape.prompt} tokens ({shape.side**2} of them picture), answer "
        f"{shape.response}\n\n{PAIRS[job.kind]} pairs a step. First step: "
        + "; ".join(f"{side}: {one}" for side, one in told.items()),
    ]
    if tuned:
        lines += ["", "| TRL's settings, tried for a step | s |", "|---|---|"]
        lines += [f"| {name} | {figures.whole:.2f} |" for name, figures in tuned.items()]
    lines += [
        "",
        f"| a step ({setting}) | seconds | times ours (range over steps) | peak memory, MiB |",
        "|---|---|---|---|",
        f"| ours | {ours.whole:.2f} ({ours.of('look'):.2f} of it pictures) | | {ours.peak / 2**20:.0f} |",
    ]
    operations = counted(job)
    after = []
    for side, figures in found.items():
        if side == "ours":
            continue
        ratios = sorted(b / a for a, b in zip(ours.wholes, figures.wholes, strict=True))
        lines.append(
            f"| TRL, {side} | {figures.whole:.2f} | {figures.whole / ours.whole:.2f} ({ratios[0]:.2f} to "
            f"{ratios[-1]:.2f}) | {figures.peak / 2**20:.0f} |"
        )
        after.append(f"Against TRL {side}. {operations[side].told(ours.whole, figures.whole)}")
    return "\n".join([*lines, "", *after]) + "\n"


def main() -> None:
    options = asked(__doc__)
    python = environment(options.venv)
    torch.set_num_threads(options.threads)
    text = (
        f"# DPO against TRL\n\n{machine()}- TRL 1.16.0, DPOTrainer; {options.threads} thread each; {options.clock} "
        "seconds\n"
    )
    kept: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for kind in options.only:
            setting, tuned = next(iter(PARTS)), dict[str, Figures]()
            for ratio in options.ratios:
                job = Job.prepare(kind, ratio, Path(name) / f"{kind}-{ratio}", python, options)
                rl_work.make_pairs(job.folder, job.processor, job.shape, (steps(job) + 1) * PAIRS[kind])
                first = first_step(job)
                print(f"{kind}, {ratio} x: first step {first}", file=sys.stderr)
                shown = {}
                if not tuned and not options.quick:  # once for a model, at its first length
                    shown = tuned = tune(job)
                    setting = min(tuned, key=lambda one: tuned[one].whole)
                found = race(job, setting)
                part = markdown(job, first, shown, setting, found)
                print(part, flush=True)
                text += part
                kept[f"{kind} {ratio}"] = {
                    "first": first,
                    "setting": setting,
                    "tuned": {key: asdict(value) for key, value in shown.items()},
                    "operations": {side: asdict(one) for side, one in counted(job).items()},
                    **{side: asdict(figures) for side, figures in found.items()},
                }
    path = write("dpo", text)
    path.with_suffix(".json").write_text(json.dumps(kept, indent=1))
    print(path)


if __name__ == "__main__":
    main()
