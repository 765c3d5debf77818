"""Meshes, recomputation and schedules in all combinations: which fit, and which of these are fastest.

Left out are meshes that hardly anyone wants: tensor parallel beyond a node, copies of a model that does not fill one.
Ranked by tokens a second; among those within a hundredth of one another the simplest comes first, the one with fewest
axes and least recomputation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from open4ov.errors import UserError
from open4ov.recipe_parallel import AXES, ParallelSection, Schedule

from . import plan_memory, plan_time
from .mesh import Mesh, misfits
from .orders import SPLIT, goes_with, needed
from .plan_hardware import Hardware
from .plan_job import Job
from .plan_memory import RankMemory
from .plan_spread import Setup
from .plan_time import Seconds
from .recompute import Mode

MODES: tuple[tuple[Mode, Mode], ...] = (
    ("none", "none"),
    ("op", "op"),
    ("full", "full"),
    ("op", "full"),
    ("none", "full"),
)
"""Recomputation of the decoder and of the tower"""
CLOSE = 0.01
"""Plans whose speeds differ by less are alike"""


@dataclass(frozen=True)
class Plan:
    """One way to do the job: its memory on the fullest rank and its time."""

    setup: Setup
    memory: RankMemory
    seconds: Seconds

    @property
    def left(self) -> float:
        """Bytes of the device that stay free; negative: those that are missing."""
        return self.setup.hardware.memory * 1e9 - self.memory.total

    @property
    def fits(self) -> bool:
        return self.left >= 0

    @property
    def axes(self) -> int:
        """How many axes are in use, which is how much can go wrong."""
        mesh, job = self.setup.mesh, self.setup.job
        used = sum(size > 1 for size in (mesh.pp, mesh.dp_replicate, mesh.dp_shard, mesh.cp, mesh.tp, mesh.ep))
        return 3 * used + (job.recompute != "none") + (job.recompute_vision != "none")


@dataclass(frozen=True)
class Found:
    """What a search has found: the best that fit, and of those that do not the ones that would be faster than the best
    (or, where nothing fits, those that miss least). `seen`: how many were looked at. `trained`: where nothing fits, the
    fastest of those whose training would, but for what the first process has before and after it."""

    best: list[Plan]
    near: list[Plan]
    seen: int
    fitting: int
    trained: tuple[Plan, ...] = ()


def of(job: Job, options: ParallelSection, world: int, hardware: Hardware) -> Plan:
    """The plan of a mesh that is given. Raises UserError as `Mesh.of`, for recomputation that the pipeline's schedule
    cannot go with, and for fewer packs than ranks."""
    setup = Setup(job, options, Mesh.of(options, world, job.config), hardware)
    _check(setup)
    return Plan(setup, plan_memory.fullest(setup), plan_time.step(setup))


def search(job: Job, world: int, hardware: Hardware, keep: int = 5, fixed: dict[str, int] | None = None) -> Found:
    """The best plans for `world` devices. fixed: axes whose size is given.

    Raises UserError where no mesh suits the model and the packs.
    """
    fitting: list[tuple[float, Setup, RankMemory]] = []
    over: list[tuple[float, Setup, RankMemory]] = []
    seen = 0
    refused: list[str] = []
    for options in candidates(job, world, hardware, fixed or {}, refused):
        mesh = Mesh.of(options, world, job.config)
        modes = MODES if not (job.frozen_vision or not job.work.grids) else MODES[:3]
        if job.kind != "sft":
            modes = MODES[:1]  # RL and DPO have no option for it
        for language, vision in modes:
            if options.schedule in SPLIT and mesh.pp > 1 and language == "op":
                continue  # a split backward pass does not allow it (`piped.py`)
            own = replace(job, recompute=language, recompute_vision="none" if job.frozen_vision else vision)
            setup = Setup(own, options, mesh, hardware)
            if mesh.pp > 1 and needed(options.schedule, mesh.pp, setup.microbatches) != setup.microbatches:
                continue  # the schedule has no order for so many
            memory = plan_memory.fullest(setup)
            seen += 1
            missing = memory.total - hardware.memory * 1e9
            (fitting if missing <= 0 else over).append((missing, setup, memory))
    if not seen:
        raise UserError(_none(job, world, fixed or {}, refused))
    plans = [Plan(setup, memory, plan_time.step(setup)) for _, setup, memory in fitting]
    plans.sort(key=lambda plan: -plan.seconds.tokens_per_second)
    best = _varied(plans, keep)
    over.sort(key=lambda one: one[0])
    near = [Plan(setup, memory, plan_time.step(setup)) for _, setup, memory in over[: 60 if best else 3]]
    trained: list[Plan] = []
    if best:
        speed = best[0].seconds.tokens_per_second
        near = [plan for plan in near if plan.seconds.tokens_per_second > speed]
        near.sort(key=lambda plan: -plan.seconds.tokens_per_second)
    else:
        room = hardware.memory * 1e9
        trained = [Plan(setup, memory, plan_time.step(setup)) for _, setup, memory in over if memory.training <= room]
        trained.sort(key=lambda plan: -plan.seconds.tokens_per_second)
    return Found(best, _varied(near, 3), seen, len(fitting), (*_varied(trained, keep),))


def candidates(
    job: Job, world: int, hardware: Hardware, fixed: dict[str, int], refused: list[str] | None = None
) -> Iterator[ParallelSection]:
    """Every mesh that is looked at. refused: gets why the first one that cannot be was left out."""
    text, node = job.config.text, hardware.node
    sizes = [2**n for n in range(world.bit_length()) if 2**n <= world]
    experts = [n for n in sizes if text.num_experts and text.num_experts % n == 0 and n <= 8 * node] or [1]

    def of_axis(name: str, usual: list[int]) -> list[int]:
        return [fixed[name]] if name in fixed else usual

    for pp, tp, cp, copies, ep in product(
        of_axis("pp", [n for n in sizes if n <= min(16, text.num_hidden_layers)]),
        of_axis("tp", [n for n in sizes if n <= node]),
        of_axis("cp", [n for n in sizes if n <= node]),
        of_axis("dp_replicate", [n for n in sizes if n == 1 or world // n >= node]),
        of_axis("ep", experts),
    ):
        if world % (pp * tp * cp * copies):
            continue
        shard = fixed.get("dp_shard", world // (pp * tp * cp * copies))
        if shard * pp * tp * cp * copies != world or (shard * cp * tp) % ep or copies * shard > job.packs:
            continue
        for schedule in _schedules(pp, text.num_hidden_layers):
            options = ParallelSection(
                pp=pp, dp_replicate=copies, dp_shard=shard, cp=cp, tp=tp, ep=ep, schedule=schedule
            )
            try:
                Mesh.of(options, world, job.config)
            except UserError as error:
                if refused is not None and not refused:
                    refused.append(str(error))
                continue
            yield options


def _none(job: Job, world: int, fixed: dict[str, int], refused: list[str]) -> str:
    """Why there is no mesh at all: by the axes that are fixed, by the number of devices, or else as it was refused."""
    asked = " ".join(f"--fix {axis}={size}" for axis, size in fixed.items())
    head = f"no mesh of {world} devices suits {job.model}" + (f" with {asked}" if fixed else "")
    pp, copies, shard, cp, tp, ep = (fixed.get(axis, 1) for axis in (*AXES, "ep"))
    alone = Mesh(pp, copies, shard, cp, tp, ep)
    if faults := [*misfits(alone, ParallelSection.model_validate(fixed), job.config)]:
        return "\n".join((f"{head}:", *faults))
    if world % alone.world:
        return f"{head}: {alone.world} does not divide {world}; give other --gpus, or another size to --fix"
    cut = all(axis in fixed for axis in ("dp_shard", "cp", "tp"))
    folded = alone.dp_shard * alone.cp * alone.tp if cut else world // alone.pp // alone.dp_replicate
    if folded % alone.ep:
        return f"{head}: ep {alone.ep} must divide dp_shard x cp x tp, the ranks that it folds: {folded}"
    ranks = alone.dp_replicate * alone.dp_shard
    if ranks > job.packs:
        return f"{head}: {job.packs} packs a step for {ranks} ranks of dp; give --packs {ranks} or more"
    if refused and fixed:
        return f"{head}: {refused[0]}"
    return f"{head} with {job.packs} packs a step; give other --gpus or more --packs"


def _schedules(pp: int, layers: int) -> list[Schedule]:
    if pp == 1:
        return ["1f1b"]
    return ["1f1b", "interleaved", "zbv"] if 2 * pp <= layers else ["1f1b"]


def _check(setup: Setup) -> None:
    if setup.mesh.pp > 1:
        goes_with(setup.options.schedule, setup.job.recompute)
    ranks = setup.mesh.size("dp")
    if ranks > setup.job.packs:
        raise UserError(
            f"{setup.job.packs} packs a step for {ranks} ranks of dp: some would have none; give --packs {ranks} or "
            "more, or lower parallel.dp_shard or parallel.dp_replicate"
        )


def _varied(plans: list[Plan], keep: int) -> list[Plan]:
    """The first of each mesh, the simplest of those that are alike first."""
    found: list[Plan] = []
    rest = list(plans)
    while rest and len(found) < keep:
        speed = rest[0].seconds.tokens_per_second
        alike = [plan for plan in rest if plan.seconds.tokens_per_second >= speed * (1 - CLOSE)]
        chosen = min(alike, key=lambda plan: (plan.axes, -plan.left))
        found.append(chosen)
        rest = [plan for plan in rest if plan.setup.mesh != chosen.setup.mesh]
    return found
