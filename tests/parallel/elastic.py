"""A training that torchrun restarts: `elastic.py MODEL FOLDER`. In the first try rank 1 is killed at the third step."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from spread import point, spread, step, tiny_model, weights

from open4ov.parallel import checkpoint
from open4ov.parallel.launch import joined
from open4ov.recipe_parallel import ParallelSection

STEPS, KILLED_AT = 5, 3


def main(directory: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    with joined(ParallelSection(timeout=60), "cpu") as world:
        model, optimizer = spread(tiny_model(directory), {}, world.size)
        found = checkpoint.load(folder / "checkpoints", model, optimizer, str.isprintable)
        writer = checkpoint.Writer(folder / "checkpoints")
        begun = found.done if found else 0
        with (folder / f"begun-{world.rank}").open("a") as log:
            print(begun, file=log)
        for number in range(begun + 1, STEPS + 1):
            step(model, optimizer, number)
            if number == KILLED_AT and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                writer.wait()  # so that the test knows which one is there
                if world.rank == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
            writer.save(model, optimizer, point(number))
        writer.close()
        found_weights = weights(model)
        if world.leads:
            save_file(found_weights, folder / "weights.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
