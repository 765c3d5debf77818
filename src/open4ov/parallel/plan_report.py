"""A plan in words and as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from . import plan_memory
from .plan_hardware import Hardware
from .plan_rollout import Rollouts
from .plan_search import Found, Plan
from .plan_time import MFU
from .recompute import Mode

if TYPE_CHECKING:
    from .plan_check import Checked

NAMES = {
    "weights": "weights (float32)",
    "gradients": "gradients (float32)",
    "optimizer": "AdamW's moments (float32)",
    "activations": "activations",
    "features": "pictures' features and taps",
    "working": "working memory of a block or of the logits",
    "unsharded": "FSDP's gathered blocks",
    "buffers": "buffers of collectives",
    "rollouts": "rollout engine's whole weights",
    "whole": "whole model on the first process",
    "training": "weights and moments of the training",
    "allocator": "lost by the allocator (assumed)",
    "process": "process and driver (assumed)",
}
"""Of `RankMemory.parts`"""


def title(plan: Plan) -> str:
    """The mesh, the schedule, what is recomputed."""
    setup, job = plan.setup, plan.setup.job
    words = [str(setup.mesh)]
    if setup.mesh.pp > 1:
        words.append(setup.options.schedule)
    words.append(f"recompute {told(job.recompute, job.recompute_vision)}")
    return ", ".join(words)


def told(language: Mode, vision: Mode) -> str:
    """Of the decoder and, where it differs, of the tower."""
    return language if language == vision else f"{language} (tower {vision})"


def reasons(plan: Plan) -> list[str]:
    """Why a plan is as fast as it is: what its time goes into, and what holds it up."""
    seconds, setup = plan.seconds, plan.setup
    parts = [f"{seconds.compute / seconds.total:.0%} products"]
    if seconds.recompute:
        parts.append(f"{seconds.recompute / seconds.total:.0%} computed again")
    if seconds.exposed:
        parts.append(f"{seconds.exposed / seconds.total:.0%} waiting for collectives")
    if seconds.optimizer / seconds.total >= 0.005:
        parts.append(f"{seconds.optimizer / seconds.total:.0%} optimizer")
    lines = ["time of the slowest rank: " + ", ".join(parts)]
    if setup.mesh.pp > 1:
        layers = [len(setup.piece(rank).layers) for rank in range(setup.mesh.pp)]
        lines.append(
            f"pipeline: ranks wait {seconds.bubble:.0%} of the time; layers {layers}, the tower on the first; the "
            f"slowest rank has {seconds.imbalance:.2f} times the mean"
        )
    if setup.filled < 1:
        lines.append(f"{1 - setup.filled:.0%} of the passes have no pack: packs do not share out evenly")
    far = [one for one in seconds.traffic if one.link == "network" and one.axis in ("tp", "cp", "ep")]
    lines += [f"{one.axis} leaves the node: {one.seconds:.2f} s of each step on the network" for one in far]
    return lines


def missing(plan: Plan) -> str:
    """Where a plan that does not fit is too large, and by how much."""
    room = plan.setup.hardware.memory
    largest = ", ".join(f"{NAMES[name]} {size / 1e9:.1f} GB" for name, size in plan.memory.fullest.most_common(3))
    where = f" on rank {plan.memory.rank} of the pipeline" if plan.setup.mesh.pp > 1 else ""
    return (
        f"does not fit: {plan.memory.total / 1e9:.1f} GB of {room:g}{where}, {-plan.left / 1e9:.1f} GB too much "
        f"({largest})"
    )


def figures(plan: Plan, used: int) -> str:
    """A plan's speed, and the bytes that it uses."""
    seconds = plan.seconds
    return (
        f"{seconds.tokens_per_second:,.0f} tokens/s, a step {seconds.total:.2f} s, MFU {seconds.mfu:.1%}, "
        f"{used / 1e9:.1f} of {plan.setup.hardware.memory:g} GB"
    )


def advice(plan: Plan, otherwise: bool = False) -> list[str]:
    """What would make a plan that does not fit smaller, by the largest part of what is too large. otherwise: there is
    a mesh on which the training itself fits."""
    memory, room = plan.memory, plan.setup.hardware.memory * 1e9
    lines: list[str] = []
    if memory.training > room and not otherwise:
        lines.append(_smaller(plan, memory.parts.most_common(1)[0][0]))
    needed = sum(size for name, size in memory.alone.items() if name != "training")
    if needed > room:
        lines.append(
            "The first process has the whole model before and after the training, to grade, filter or make pairs, "
            f"whatever the mesh: more devices do not help, but ones of more than {needed / 1e9:.0f} GB (--hardware) do."
        )
    elif sum(memory.alone.values()) > room:
        lines.append(_smaller(plan, "training"))
    return list(dict.fromkeys(lines))


def _smaller(plan: Plan, part: str) -> str:
    freeze = "" if plan.setup.job.frozen_vision else ", or --freeze-vision,"
    if part == "rollouts":
        return "The rollout engine has the whole model on every device; servers by address (rl.rollout.url) spare that."
    if part in ("weights", "gradients", "optimizer", "training"):
        return f"More devices{freeze} take less memory a device: each then has a smaller share of the weights."
    if part == "unsharded":
        return "A block is gathered whole to be computed: tp or ep cuts it; more devices alone do not."
    return f"Fewer --tokens a pack{freeze} take less memory; more devices do where tp or cp shares a pack out."


def text(found: Found, total_tokens: float | None = None, price: float | None = None) -> str:
    """What a search has found, for a person."""
    if not found.best:
        lines = [f"Nothing fits ({found.seen} ways were looked at). What misses least:"]
        lines += [f"  {title(plan)}: {missing(plan)}" for plan in found.near]
        lines += advice(found.near[0], bool(found.trained))
        if found.trained:
            lines += ["", "The training itself would fit. The best by its own memory alone:"]
            lines += [f"  {title(plan)}: {figures(plan, plan.memory.training)}" for plan in found.trained]
        return "\n".join(lines)
    lines = [heading(found.best[0]), f"{found.seen} ways were looked at, {found.fitting} fit. The best:", ""]
    for number, plan in enumerate(found.best, 1):
        lines.append(f"{number}. {title(plan)}: {figures(plan, plan.memory.total)}")
        lines += [f"   {line}" for line in reasons(plan)]
    if found.near:
        lines += ["", "Faster, but:"]
        lines += [f"  {title(plan)}: {missing(plan)}" for plan in found.near]
    lines += ["", detail(found.best[0], total_tokens, price), conventions(found.best[0].setup.hardware)]
    return "\n".join(lines)


def heading(plan: Plan) -> str:
    """What is planned, and what is assumed of it."""
    setup, job, work = plan.setup, plan.setup.job, plan.setup.job.work
    kind = {"sft": "SFT", "rl": "RL's update", "dpo": "DPO"}[job.kind]
    pictures = f"{work.visual(job.config) / work.tokens:.0%} of them of {len(work.grids)} pictures"
    tower = "held" if job.held_vision else "frozen" if job.frozen_vision else "trained"
    return (
        f"{job.model}, {kind} on {setup.mesh.world} x {setup.hardware.name}. A pack: {work.tokens:,} tokens in "
        f"{len(work.documents)} documents, {pictures}, {work.predicted:,} predicted; {job.packs} packs a step "
        f"({job.step_tokens:,} tokens); tower {tower}."
    )


def detail(plan: Plan, total_tokens: float | None = None, price: float | None = None) -> str:
    """One plan: memory of the fullest rank, traffic, time, MFU."""
    setup, memory, seconds = plan.setup, plan.memory, plan.seconds
    where = f" (rank {memory.rank} of the pipeline)" if setup.mesh.pp > 1 else ""
    lines = [f"{title(plan)}", f"Memory of the fullest rank{where}, GB:"]
    lines += [f"  {NAMES[name]:45} {size / 1e9:8.2f}" for name, size in memory.parts.items() if size]
    lines.append(f"  {'in all':45} {sum(memory.parts.values()) / 1e9:8.2f} of {setup.hardware.memory:g}")
    if memory.alone:
        lines.append("The first process before and after it, to grade, filter or make pairs, GB:")
        lines += [f"  {NAMES[name]:45} {size / 1e9:8.2f}" for name, size in memory.alone.items() if size]
        lines.append(f"  {'in all':45} {sum(memory.alone.values()) / 1e9:8.2f} of {setup.hardware.memory:g}")
    if setup.mesh.world > 1:
        host, local = plan_memory.host(setup), min(setup.mesh.world, setup.hardware.node)
        aside = (
            f", beside {host.moments * local / 1e9:,.0f} GB of moments put aside to generate" if host.moments else ""
        )
        lines.append(
            f"Host memory: a process reads only its parts of the model, at most {host.reading / 1e9:.2f} GB at once, "
            f"and copies {host.checkpoint / 1e9:,.1f} GB of weights and moments for a checkpoint "
            f"({host.checkpoint * local / 1e9:,.0f} GB in a node of {local}){aside}; the first one has the whole "
            f"model, {host.whole / 1e9:,.0f} GB, when it is saved at the end"
        )
    inside = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in memory.activations.most_common())
    flying = f"; {memory.in_flight:g} at once" if memory.in_flight != 1 else ""
    lines.append(f"  activations of one microbatch: {inside}{flying}")
    if seconds.traffic:
        lines.append("Sent by a rank in a step:")
        lines += [
            f"  {one.axis:13} {one.bytes / 1e9:9.2f} GB {one.link:8} {one.seconds:7.3f} s  {one.what}"
            for one in seconds.traffic
        ]
    lines.append(
        f"A step: {seconds.total:.3f} s; bubble {seconds.bubble:.1%}; imbalance of experts' ranks taken as "
        f"{setup.job.imbalance:g}" + ("" if setup.mesh.ep > 1 else " (without effect: ep is 1)")
    )
    lines.append(
        f"MFU {seconds.mfu:.1%}: decoder {seconds.mfu_decoder:.1%}, tower {seconds.mfu_vision:.1%} of the peak of "
        f"{setup.hardware.peak:g} TFLOP/s"
    )
    if total_tokens:
        hours = total_tokens / seconds.tokens_per_second / 3600
        devices = hours * setup.mesh.world
        cost = f", {devices * price:,.0f} at {price:g} an hour and device" if price else ""
        lines.append(f"{total_tokens:,.0f} tokens: {hours:,.1f} hours, {devices:,.0f} device hours{cost}")
    return "\n".join(lines)


def conventions(hardware: Hardware) -> str:
    """What the figures of all plans on that device count and rest on."""
    return f"{MFU}.\nEfficiencies: {hardware.measured}."


def table(plans: Mapping[str, Plan]) -> str:
    """The trainings of a recipe, one a line."""
    rows = [("training", "fits", "GB", "s/step", "MFU", "mesh")]
    for name, plan in plans.items():
        used = f"{plan.memory.total / 1e9:.1f} of {plan.setup.hardware.memory:g}"
        mfu = f"{plan.seconds.mfu:.1%}"
        rows.append((name, "yes" if plan.fits else "NO", used, f"{plan.seconds.total:.2f}", mfu, title(plan)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def data(plan: Plan) -> dict[str, Any]:
    """One plan for a program; bytes, seconds."""
    setup, seconds = plan.setup, plan.seconds
    mesh, job = setup.mesh, setup.job
    return {
        "mesh": {axis: mesh.size(axis) for axis in ("pp", "dp_replicate", "dp_shard", "cp", "tp", "ep")},
        "schedule": setup.options.schedule if mesh.pp > 1 else None,
        "recompute": job.recompute,
        "recompute_vision": job.recompute_vision,
        "fits": plan.fits,
        "memory": {"rank": plan.memory.rank, "total": plan.memory.total, **plan.memory.parts},
        "alone": dict(plan.memory.alone),
        "host": asdict(plan_memory.host(setup)) if mesh.world > 1 else {},
        "activations": dict(plan.memory.activations),
        "in_flight": plan.memory.in_flight,
        "free": round(plan.left),
        "layers": [len(setup.piece(rank).layers) for rank in range(mesh.pp)],
        "seconds": {name: getattr(seconds, name) for name in ("total", "compute", "recompute", "exposed", "optimizer")},
        "bubble": seconds.bubble,
        "imbalance": seconds.imbalance,
        "mfu": {"all": seconds.mfu, "decoder": seconds.mfu_decoder, "vision": seconds.mfu_vision, "counts": MFU},
        "tokens_per_second": seconds.tokens_per_second,
        "traffic": [
            {"axis": one.axis, "bytes": one.bytes, "seconds": one.seconds, "link": one.link, "what": one.what}
            for one in seconds.traffic
        ],
    }


def found_data(found: Found) -> dict[str, Any]:
    """A search for a program."""
    return {
        "seen": found.seen,
        "fitting": found.fitting,
        "best": [data(plan) for plan in found.best],
        "near": [{**data(plan), "why": missing(plan)} for plan in found.near],
        "trained": [data(plan) for plan in found.trained],
        "efficiencies": (found.best or found.near)[0].setup.hardware.measured if found.best or found.near else "",
    }


def rollout_text(one: Rollouts, updates: int) -> str:
    """Of a step of RL, beside its updates."""
    return (
        f"rollouts of a step: {one.tokens:,} tokens in {one.seconds:.0f} s ({one.tokens_per_second:,.0f} tokens/s; "
        f"limited by {one.bound}, until the longest has ended; no prompt beyond those that are trained on), and then "
        f"{updates} updates as above"
    )


def check_text(found: Mapping[str, Sequence[Checked]]) -> str:
    """What `plan --check` has found, training by training and rank by rank."""
    return "\n".join(f"{names}:\n{_ranks(group)}" for names, group in found.items())


def _ranks(group: Sequence[Checked]) -> str:
    lines: list[str] = []
    for one in group:
        states = one.built
        told_ = f"{one.parameters} parameters, {states.total:,} bytes (weights {states.weights:,}, gradients "
        told_ += f"{states.gradients:,}, optimizer {states.optimizer:,})"
        if one.exact:
            lines.append(f"rank {one.rank}: exact: {told_}")
            continue
        lines.append(f"rank {one.rank}: DIFFERS: built {told_}, planned {one.planned.total:,}")
        lines += [f"  {line}" for line in one.differences[:5]]
        if len(one.differences) > 5:
            lines.append(f"  and {len(one.differences) - 5} more")
    return "\n".join(lines)
