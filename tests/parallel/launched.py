"""What the tests of launching start as real processes: `torchrun launched.py WHAT [TIMEOUT]`, or `begin`."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from open4ov.errors import UserError
from open4ov.parallel import crew
from open4ov.parallel.agree import agree
from open4ov.parallel.launch import World, joined
from open4ov.recipe_parallel import ParallelSection

torch.set_num_threads(1)


def summed(world: World) -> None:
    value = torch.ones(1) * world.rank
    dist.all_reduce(value)
    print(f"the sum is {value.item():g}")
    print("to stderr", file=sys.stderr)
    warnings.warn("a warning", stacklevel=1)
    logging.getLogger("torch").warning("by a log")


def user_error(world: World) -> None:
    if world.rank == 1:
        raise UserError("recipe.yaml, line 3: sft.tokens: expected more")
    dist.barrier()


def user_errors(world: World) -> None:
    raise UserError(f"a fault of rank {world.rank}")


def fault(world: World) -> None:
    if world.rank == world.size - 1:
        raise KeyError("no such thing")
    dist.barrier()


def dies(world: World) -> None:
    dist.barrier()
    if world.rank == 1:
        os._exit(9)
    dist.barrier()


def dies_alone(world: World) -> None:
    """Nobody waits for it in a collective."""
    if world.rank == 1:
        os._exit(9)
    time.sleep(600)


def hangs(world: World) -> None:
    if world.rank == 1:
        over_there()
    dist.barrier()


def over_there() -> None:
    time.sleep(600)


def works(world: World) -> None:
    for _ in range(600):
        dist.barrier()
        (Path(os.environ["NUMBERS"]) / "working").touch()
        time.sleep(0.1)


def differ(world: World) -> None:
    facts = {"recipe: sft.pack_tokens": "512", "code of open4ov": "a" * 64}
    agree(world, facts, "first")
    agree(world, {**facts, "recipe: sft.pack_tokens": "1024"} if world.rank == 1 else facts, "second")


def called(world: World) -> None:
    def do(work: dict[str, str]) -> None:
        value = torch.ones(1)
        dist.all_reduce(value)
        if world.leads:
            print(work["name"], value.item())

    if world.leads:
        with crew.leading(world) as own:
            for name in ("sft", "rl"):
                time.sleep(0.5)
                own.call({"name": name})
                do({"name": name})
    else:
        crew.follow(world, do)


def interrupted(world: World) -> None:
    if world.rank == 1:
        raise KeyboardInterrupt
    dist.barrier()


def begin(what: str, timeout: float = 60.0) -> None:
    """As the program does it: a UserError from before the ranks have met is told by each."""
    if "NUMBERS" in os.environ:
        (Path(os.environ["NUMBERS"]) / os.environ["RANK"]).write_text(str(os.getpid()))
    try:
        with joined(ParallelSection(timeout=timeout), "cpu") as own_world:
            globals()[what](own_world)
    except UserError as error:
        print(f"open4ov: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    begin(sys.argv[1], *map(float, sys.argv[2:]))
