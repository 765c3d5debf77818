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

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench import rl_work
from bench.rl_contest import Contest, First, head, hold, plain
from bench.rl_job import Job, alike, asked
from bench.rl_report import Counted, Figures
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


def first_step(job: Job) -> First:
    """Loss, gradient norm and mean log-probability of an answer. Raises AssertionError when ours are not those of the
    peer without a reference, or a reference that is the model itself has another loss than log 2."""
    found: First = {}
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


def told_by(job: Job, setting: str) -> dict[str, Any]:
    """What a setting of `PARTS`, compiled perhaps, is to the peer."""
    name, compiled = plain(setting)
    return {"parts": PARTS[name] or PAIRS[job.kind], "compile": compiled}


def sides(job: Job, setting: str) -> dict[str, Worker]:
    return {side: start(job, side, **({} if side == "ours" else told_by(job, setting))) for side in SIDES}


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


def markdown(job: Job, first: First, tuned: Mapping[str, Figures], setting: str, found: Mapping[str, Figures]) -> str:
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
    contest = Contest(
        name="dpo",
        title=head("DPO against TRL", "TRL 1.16.0, DPOTrainer"),
        settings=tuple(PARTS),
        phases=PHASES,
        prepare=lambda job: rl_work.make_pairs(
            job.folder, job.processor, job.shape, (steps(job) + 1) * PAIRS[job.kind]
        ),
        first=first_step,
        try_out=lambda job, setting: start(job, "with its reference", steps=2, **told_by(job, setting)),
        sides=sides,
        steps=steps,
        told=markdown,
        operations=lambda job: {side: asdict(one) for side, one in counted(job).items()},
    )
    hold(contest, asked(__doc__))


if __name__ == "__main__":
    main()
