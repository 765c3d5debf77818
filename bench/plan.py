"""The planner against reality: what a pass keeps, by mode of recomputation, and how long a step takes. See `--help`.

    python -m bench.plan [--only memory,time,scaling] [--rounds 5]

memory: bytes that PyTorch has allocated and not freed after a forward pass (`recompute.saved_bytes`), and those
planned, for nano, its sibling with experts and 60 M parameters of nano's shape; on a GPU for the 2B shape. time:
efficiencies are measured on one model, and the step of another is planned with them: on a CPU nano's give those of the
60 M shape, on a GPU those of eight layers of the 2B shape give all 28. Seconds are the process's own on a CPU, whatever
else the machine does. scaling: what the planner says of 8 to 1,024 H100.
`--calibrate` prints the entry of `parallel/hardware.yaml` that the machine would have.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
import yaml

from bench.measure import machine, write
from bench.steps import NANO, middle, work
from open4ov import training
from open4ov.assets import base_dir
from open4ov.model import Config, Encoded, Pack, Processor, Qwen3VL, pack
from open4ov.model.sizes import SIZES
from open4ov.parallel import plan_activations, plan_hardware, plan_search, plan_time, recompute
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.plan_activations import Spread
from open4ov.parallel.plan_hardware import Efficiency, Hardware
from open4ov.parallel.plan_job import Job, Work
from open4ov.parallel.plan_spread import Setup
from open4ov.parallel.recompute import Mode
from open4ov.recipe_parallel import ParallelSection

MODES: tuple[Mode, ...] = ("none", "op", "full")
LENGTHS = {"equal": [96] * 4, "mixed": [40, 64, 96, 130, 300]}
LONG = {"equal": [1024] * 8, "mixed": [320, 640, 1280, 2560]}
LINKS = {"inside": 4.0, "outside": 1.0}
"""GB/s between processes of a CPU: assumed, nothing here is sent"""


def _shape(name: str, processor: Processor, layers: int | None = None) -> Config:
    from bench.gpu import shape  # brings in transformers

    return shape(name, processor, layers)


def _drawn(config: Config) -> Qwen3VL:
    from bench.gpu import random

    return random(config, torch.float32)


def model_of(name: str) -> Qwen3VL:
    if name == "60 M":
        return Qwen3VL(middle(Qwen3VL.from_pretrained(NANO).config), seed=1)
    return Qwen3VL.from_pretrained(base_dir(name))


def work_of(batch: Pack) -> Work:
    grids = tuple((t, h, w) for t, h, w in batch.grids.tolist())
    return Work(tuple(batch.lengths.tolist()), grids, len(batch.predicted))


def memory(kind: torch.device) -> str:
    lines = [
        "| model | lengths | products | recompute | kept, MB | planned, MB | planned / kept |",
        "|---|---|---|---|---|---|---|",
    ]
    processor, gpu = Processor.from_pretrained(NANO), kind.type == "cuda"
    for name in ("2B",) if gpu else ("nano", "nano-moe", "60 M"):
        model = _drawn(_shape(name, processor)) if gpu else model_of(name)
        for title, lengths in (LONG if gpu else LENGTHS).items():
            batch = pack(work(processor, lengths).documents).to(kind)
            for half in (True,) if gpu else (False, True):
                for mode in MODES:
                    recompute.apply(model, language=mode, vision=mode)
                    compute = _loss(model, batch, half)
                    kept = _kept(compute) if gpu else recompute.saved_bytes(compute)
                    spread = Spread(half=half, cuda=gpu)
                    planned = plan_activations.forward(model.config, work_of(batch), spread, mode, mode)
                    size = sum(planned.values())
                    product = "bf16" if half else "fp32"
                    lines.append(
                        f"| {name} | {title} | {product} | {mode} | {kept / 1e6:.1f} | {size / 1e6:.1f} | "
                        f"{size / kept:.3f} |"
                    )
    return "\n".join(lines)


def _kept(compute: Callable[[], torch.Tensor]) -> int:
    """As `recompute.saved_bytes`, on a GPU."""
    compute()
    gc.collect()
    before = torch.cuda.memory_allocated()
    result = compute()
    found = torch.cuda.memory_allocated() - before
    del result
    return found


def _loss(model: Qwen3VL, batch: Pack, half: bool) -> Callable[[], torch.Tensor]:
    def compute() -> torch.Tensor:
        with torch.autocast(model.device.type, torch.bfloat16) if half else nullcontext():
            return model.loss(batch)

    return compute


def stepping(
    config: Config, documents: list[Encoded], half: bool, device: torch.device
) -> tuple[Callable[[], None], Work]:
    """A training step as `training.step` makes it, and what it computes."""
    model = _drawn(config) if device.type == "cuda" else Qwen3VL(config, seed=1)
    optimizer = training.adamw(model, 1e-5)
    batch = pack(documents).to(device)

    def step() -> None:
        _loss(model, batch, half)().backward()
        training.step(model, optimizer, 1e-5, 1.0)

    return step, work_of(batch)


def seconds(step: Callable[[], None], rounds: int, device: torch.device) -> float:
    """The median of the rounds, after two that warm up."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    found: list[float] = []
    for number in range(rounds + 2):
        began = clock()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= 2:
            found.append(clock() - began)
    return statistics.median(found)


def peak(half: bool, device: torch.device) -> float:
    """TFLOP/s of a large square product."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if half else torch.float32)
    return 2 * size**3 / seconds(lambda: _nothing(a @ a), 5, device) / 1e12


def _nothing(x: torch.Tensor) -> None:
    del x


def device_of(kind: torch.device, half: bool, rate: float, share: Efficiency) -> Hardware:
    card = torch.cuda.get_device_name(kind) if kind.type == "cuda" else "a CPU, one thread"
    gigabytes = torch.cuda.get_device_properties(kind).total_memory / 1e9 if kind.type == "cuda" else 8.0
    return Hardware(
        device="cuda" if kind.type == "cuda" else "cpu",
        name=f"NVIDIA {card.removeprefix('NVIDIA ')}" if kind.type == "cuda" else card,
        memory=gigabytes, peak=rate, bandwidth=3000.0 if kind.type == "cuda" else 10.0, node=1, **LINKS, link_share=1.0,
        host=0.5, fragments=0.05, efficiency=share, measured=f"python -m bench.plan, {'bf16' if half else 'fp32'}",
        sources=["measured"],
    )  # fmt: skip


def planned(config: Config, job: Work, half: bool, hardware: Hardware) -> float:
    made = Job("bench", config, job, packs=1, half=half)
    return plan_time.step(Setup(made, ParallelSection(), Mesh(), hardware)).total


def calibrated(
    config: Config, text: list[Encoded], pictures: list[Encoded], half: bool, kind: torch.device, rounds: int
) -> Hardware:
    """The decoder's efficiency from packs without pictures, the tower's from those with some: each such that what is
    planned is what was measured."""
    rate = peak(half, kind)
    share = dict.fromkeys(Efficiency.model_fields, 0.5)
    for documents, names in ((text, ("dense", "experts", "attention", "head")), (pictures, ("vision",))):
        step, job = stepping(config, documents, half, kind)
        measured = seconds(step, rounds, kind)
        low, high = 1e-4, 1.0
        for _ in range(40):
            middle_ = (low * high) ** 0.5
            share |= dict.fromkeys(names, middle_)
            slower = planned(config, job, half, device_of(kind, half, rate, Efficiency(**share))) > measured
            low, high = (middle_, high) if slower else (low, middle_)
    return device_of(kind, half, rate, Efficiency(**{name: round(value, 4) for name, value in share.items()}))


def without_pictures(processor: Processor, lengths: list[int]) -> list[Encoded]:
    from open4ov.sample import assistant, user

    made = [processor.encode([user("What is this?"), assistant("one two three " * n)], []) for n in lengths]
    return [processor.cut(document, n) for document, n in zip(made, lengths, strict=True)]


def timing(rounds: int, kind: torch.device) -> tuple[str, list[Hardware]]:
    processor = Processor.from_pretrained(NANO)
    if kind.type == "cuda":
        small, large = _shape("2B", processor, 8), _shape("2B", processor)
        lengths, titles = [1024] * 8, ("2B shape, 8 layers", "2B shape")
    else:
        small = Qwen3VL.from_pretrained(NANO).config
        large = middle(small)
        lengths, titles = [96] * 8, ("nano", "60 M")
    lines = [
        "| planned with efficiencies of | model | pack | products | step, s | planned, s | planned / measured |",
        "|---|---|---|---|---|---|---|",
    ]
    found: list[Hardware] = []
    for half in (True,) if kind.type == "cuda" else (False, True):
        packs = {"text": without_pictures(processor, lengths), "pictures": work(processor, lengths).documents}
        hardware = calibrated(small, packs["text"], packs["pictures"], half, kind, rounds)
        found.append(hardware)
        longer = without_pictures(processor, [2 * length for length in lengths[: len(lengths) // 2]])
        for title, config in zip(titles, (small, large), strict=True):
            for name, documents in {**packs, "text, twice as long": longer}.items():
                if config is small and name != "text, twice as long":
                    continue  # what the efficiencies were measured on
                step, job = stepping(config, documents, half, kind)
                took = seconds(step, rounds, kind)
                said = planned(config, job, half, hardware)
                lines.append(
                    f"| {titles[0]} | {title} | {name} | {'bf16' if half else 'fp32'} | {took:.3f} | {said:.3f} | "
                    f"{said / took:.2f} |"
                )
    return "\n".join(lines), found


def scaling() -> str:
    """Simulated: tokens a second from 8 to 1,024 H100, with as many packs for each GPU, and with as many in all."""
    lines = [
        "| model | GPUs | mesh | packs a step | step, s | tokens/s | of linear | MFU | waits, share |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    hardware = plan_hardware.find("h100")
    for name, shard, ep in (("8B", 8, 1), ("30B-A3B", 64, 8)):
        for title, packs_of in (("4 a GPU", lambda world: 4 * world), ("1,024 in all", lambda world: 1024)):
            first = 0.0
            for world in (2**power for power in range(shard.bit_length() - 1, 11)):
                config = SIZES[name]
                job = Work.usual(config, 8192, 2048, 0.5, (48, 64), 0.25)
                made = Job(name, config, job, packs_of(world), recompute="op", recompute_vision="full")
                options = ParallelSection(dp_shard=shard, dp_replicate=world // shard, ep=ep)
                found = plan_search.of(made, options, world, hardware).seconds
                rate = found.tokens_per_second / world
                first = first or rate
                lines.append(
                    f"| {name} | {world} | dp_replicate {world // shard} x dp_shard {shard}, ep {ep} | {title} | "
                    f"{found.total:.2f} | {found.tokens_per_second:,.0f} | {rate / first:.0%} | {found.mfu:.1%} | "
                    f"{found.exposed / found.total:.0%} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="memory,time,scaling", help="memory, time, scaling")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calibrate", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kind = training.device("auto", "device")
    parts = ["# The planner against reality", machine()]
    if kind.type == "cuda":
        parts.append(f"- GPU: {torch.cuda.get_device_name(kind)}")
    if "memory" in options.only:
        parts += ["## What a forward pass keeps", memory(kind), "Target: within 10 %."]
    if "time" in options.only:
        table, found = timing(options.rounds, kind)
        parts += ["## Step time", table, "Target: within 20 %. Seconds of the process on a CPU, by the clock on a GPU."]
        if options.calibrate:
            parts += ["## Entries for hardware.yaml", "```yaml", *(_entry(one) for one in found), "```"]
    if "scaling" in options.only:
        parts += ["## Scaling, simulated", scaling()]
    text = "\n\n".join(parts) + "\n"
    print(text)
    print(write("plan" if options.only == parser.get_default("only") else f"plan-{options.only}", text))


def _entry(one: Hardware) -> str:
    return yaml.safe_dump({one.name: replace_floats(one.model_dump())}, sort_keys=False)


def replace_floats(values: dict[str, object]) -> dict[str, object]:
    """Rounded to what was measured."""
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


if __name__ == "__main__":
    main()
