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

from dataclasses import asdict
from typing import Any

from bench import rl_work
from bench.rl_contest import Contest, First, head, hold, plain
from bench.rl_job import Job, alike, asked
from bench.rl_report import PHASES, Counted, markdown
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


def first_update(job: Job) -> First:
    """Loss, gradient norm and mean log-probability of one update on the same responses, of all prompts of a step at
    once. Raises AssertionError when the sides differ."""
    found: First = {}
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


def peer(job: Job, setting: str, **told: Any) -> Worker:
    """TRL with a setting of `PARTS`, compiled perhaps."""
    name, compiled = plain(setting)
    return start(job, "peer", parts=PARTS[name], compile=compiled, **told)


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
    contest = Contest(
        name="rl",
        title=head("Online RL against TRL", "TRL 1.16.0, GRPOTrainer as GSPO"),
        settings=tuple(PARTS),
        phases=PHASES,
        prepare=lambda job: rl_work.make(
            job.folder, job.processor, job.shape, (steps(job) + 1) * PROMPTS[job.kind], GROUP
        ),
        first=first_update,
        # on given responses: score and update are what the settings change
        try_out=lambda job, setting: peer(job, setting, fed=True, steps=2),
        # a step is a rollout batch with its mini-batches
        sides=lambda job, setting: {"ours": start(job, "ours"), "peer": peer(job, setting)},
        steps=steps,
        told=lambda job, first, shown, setting, found: markdown(
            _title(job, first), shown, setting, found, counted(job)
        ),
        operations=lambda job: asdict(counted(job)),
    )
    hold(contest, asked(__doc__))


def _title(job: Job, first: First) -> str:
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
