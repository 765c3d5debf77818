"""A layer with experts, forward and backward: grouped products against the loop, and what it costs to send rows to
experts on other ranks. Ratios of contestants that take turns in one run.

    python -m bench.experts [--rounds 10] [--processes 2]
    torchrun --nproc-per-node 8 -m bench.experts            # on GPUs: bf16, a layer of 30B-A3B, a rank each

On a CPU the layer is small (256 wide, 32 experts of 128, 4 a token, 1,024 tokens on each rank, float32), and the
processes of one thread share the machine, so what counts is a process's own time on a processor, whatever else the
machine does: what copies and messages cost, not what a network does. On GPUs it is time by the clock.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage]

from bench.measure import in_turn, machine, ratio, write
from open4ov.model import TextConfig
from open4ov.model.moe import MoE
from open4ov.model.sizes import SIZES
from open4ov.parallel import expert
from open4ov.parallel.mesh import Mesh

Seconds = dict[str, list[float]]
SMALL = TextConfig(
    vocab_size=100,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    mrope_section=(16, 8, 8),
    num_experts=32,
    num_experts_per_tok=4,
    moe_intermediate_size=128,
)


@dataclass(frozen=True)
class Work:
    """What is computed: the layer's shape, tokens of each rank, where and in what type."""

    config: TextConfig
    tokens: int
    device: torch.device
    dtype: torch.dtype

    @staticmethod
    def here(rank: int) -> Work:
        if torch.cuda.is_available():
            torch.cuda.set_device(rank % torch.cuda.device_count())
            return Work(SIZES["30B-A3B"].text, 8192, torch.device("cuda", torch.cuda.current_device()), torch.bfloat16)
        return Work(SMALL, 1024, torch.device("cpu"), torch.float32)

    def layer(self) -> MoE:
        """Random weights, the same on each rank; the router's choice is close to even."""
        torch.manual_seed(0)
        with self.device:
            moe = MoE(self.config)
            for weight in moe.parameters():
                nn.init.normal_(weight, 0.0, 0.02)
        return moe.to(self.dtype)

    def clock(self) -> Callable[[], float]:
        return time.perf_counter if self.device.type == "cuda" else time.process_time

    def step(self, moe: MoE, seed: int) -> Callable[[], None]:
        """Forward and backward of this rank's tokens."""
        torch.manual_seed(seed)
        x = torch.randn(self.tokens, self.config.hidden_size, device=self.device, dtype=self.dtype)

        def run() -> None:
            moe.zero_grad()
            moe(x.detach().requires_grad_()).backward(x)
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        return run


def kernels(work: Work, rounds: int) -> Seconds:
    """One rank, all experts."""
    contestants = {}
    for kernel in ("grouped", "loop"):
        moe = work.layer()
        moe.kernel = kernel
        contestants[kernel] = work.step(moe, 1)
    return in_turn(contestants, rounds, clock=work.clock())


def ways(work: Work, rounds: int) -> tuple[Seconds, float]:
    """Every rank the same number of tokens: with all experts of its own, and with a share of them. And how uneven the
    load was."""
    size, rank = dist.get_world_size(), dist.get_rank()
    mesh = Mesh(dp_shard=size, ep=size).open(work.device)
    layers = {"experts of its own": work.layer()}
    for name in ("all_to_all", "local"):
        layers[name] = work.layer()
        expert.apply(layers[name], mesh, name)
    seconds = in_turn({name: work.step(moe, rank) for name, moe in layers.items()}, rounds, clock=work.clock())
    return seconds, expert.imbalance(layers["all_to_all"]) or 1.0


def _process(rank: int, size: int, rounds: int, folder: str) -> None:
    torch.set_num_threads(1)
    work = Work.here(rank)
    store = FileStore(f"{folder}/store", size)
    dist.init_process_group("nccl" if work.device.type == "cuda" else "gloo", store=store, rank=rank, world_size=size)
    found = ways(work, rounds)
    if rank == 0:
        torch.save(found, f"{folder}/found")
    dist.barrier()
    dist.destroy_process_group()


def started(processes: int, rounds: int) -> tuple[Seconds, float]:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(_process, (processes, rounds, folder), processes, start_method="spawn")  # pyright: ignore[reportPrivateImportUsage]
        return torch.load(Path(folder) / "found", weights_only=True)


def report(work: Work, alone: Seconds, together: Seconds, uneven: float, ranks: int) -> str:
    config = work.config
    where = torch.cuda.get_device_name() if work.device.type == "cuda" else "CPU"
    lines = [
        f"# Experts\n\n{machine()}- {where}, {str(work.dtype).removeprefix('torch.')}; hidden {config.hidden_size}, "
        f"{config.num_experts} experts of {config.moe_intermediate_size}, {config.num_experts_per_tok} a token, "
        f"{work.tokens} tokens on each rank; forward and backward of one layer; {work.clock().__name__}\n",
        "## One rank\n",
        "| kernel | ms | loop over it |\n|---|---|---|",
    ]
    lines += [_row(name, seconds, ratio(alone["loop"], seconds)) for name, seconds in alone.items()]
    lines += [f"\n## {ranks} ranks\n", "| experts | ms | over experts of its own |\n|---|---|---|"]
    own = together["experts of its own"]
    lines += [_row(name, seconds, ratio(seconds, own)) for name, seconds in together.items()]
    lines.append(f"\nThe busiest rank's experts computed {uneven:.3f} times the mean.")
    return "\n".join(lines) + "\n"


def _row(name: str, seconds: list[float], times: str) -> str:
    return f"| {name} | {1000 * statistics.median(seconds):.1f} | {times} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2, help="started here, unless torchrun has")
    options = parser.parse_args()
    ranks, rank = int(os.environ.get("WORLD_SIZE", str(options.processes))), int(os.environ.get("RANK", "0"))
    if "RANK" in os.environ:
        work = Work.here(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if work.device.type == "cuda" else "gloo")
        together, uneven = ways(work, options.rounds)
        dist.barrier()
        dist.destroy_process_group()
    else:
        together, uneven = started(ranks, options.rounds)
        torch.set_num_threads(1)
        work = Work.here(0)
    if rank == 0:
        text = report(work, kernels(work, options.rounds), together, uneven, ranks)
        print(text)
        print(write("experts", text), file=sys.stderr)


if __name__ == "__main__":
    main()
