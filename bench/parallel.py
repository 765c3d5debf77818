"""One process with all cores against as many processes of one thread each, on the same global batch. See `--help`.

    python -m bench.parallel [--only nano,60M] [--rounds 5] [--steps 6]

Both make the same updates: AdamW, clipping, the same packs with pictures, the tower frozen and computed in every step.
They take turns, each started anew in a round, so that a slow moment of the machine meets both; loading and the first
steps are not counted. A ratio is of the same round. Losses of all steps must agree: that the work is the same.
FSDP is what is aimed at (0.8); the other axes are shown beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.measure import machine, write
from bench.parallel_worker import LENGTH

AXES = ("dp_shard", "dp_replicate", "tp", "cp", "pp")
PACKS, DOCUMENTS = 4, 8
WARMUP = 2
AIM = 0.8
ONE = "one process"


def run(folder: Path, name: str, model: str, cores: int, steps: int) -> dict[str, list[float]]:
    """One contestant's steps in processes of their own."""
    axis = {} if name == ONE else {"dp_shard": 1, name: cores}
    threads = cores if name == ONE else 1
    told: dict[str, Any] = {"model": model, "packs": PACKS, "documents": DOCUMENTS, "warmup": WARMUP, "steps": steps}
    told |= {"threads": threads, "parallel": axis, "out": str(folder / "found.json")}
    settings = folder / "settings.json"
    settings.write_text(json.dumps(told))
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(cores)] if axis else []
    command = [sys.executable, *many, "-m", "bench.parallel_worker", str(settings)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip()}")
    return json.loads((folder / "found.json").read_text())


def compare(model: str, names: list[str], cores: int, rounds: int, steps: int) -> list[str]:
    """Rows of the table."""
    found: dict[str, list[dict[str, list[float]]]] = {name: [] for name in (ONE, *names)}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for name, results in found.items():
                results.append(run(Path(folder), name, model, cores, steps))
            print(f"{model}: round {number + 1} of {rounds}", file=sys.stderr)
    tokens = PACKS * DOCUMENTS * LENGTH
    alone = [statistics.median(one["seconds"]) for one in found[ONE]]
    rows: list[str] = []
    for name, results in found.items():
        own = [statistics.median(one["seconds"]) for one in results]
        apart = max(
            abs(a - b) / abs(a)
            for one, other in zip(found[ONE], results, strict=True)
            for a, b in zip(one["losses"], other["losses"], strict=True)
        )
        shares = sorted(a / b for a, b in zip(alone, own, strict=True))
        who = f"{ONE}, {cores} threads" if name == ONE else f"{cores} processes, {name} {cores}"
        rows.append(
            f"| {model} | {who} | {tokens / statistics.median(own):,.0f} | {statistics.median(shares):.2f} | "
            f"{shares[0]:.2f} to {shares[-1]:.2f} | {apart:.1e} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="nano,60M", help="models")
    parser.add_argument("--axes", default=",".join(AXES), help="of the mesh, one at a time")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    lines = [
        "# Several processes against one\n",
        machine(),
        f"{PACKS} packs a step of {DOCUMENTS} documents of {LENGTH} tokens, float32. Relative: tokens a second over "
        f"those of one process in the same round, median and range of {options.rounds} rounds; aim for dp_shard "
        f"(FSDP): {AIM}. Apart: the largest relative difference of a step's loss from that of one process.\n",
        "| model | who | tokens/s | relative | range | losses apart |",
        "|---|---|---|---|---|---|",
    ]
    for model in options.only.split(","):
        lines += compare(model, options.axes.split(","), options.processes, options.rounds, options.steps)
    text = "\n".join(lines) + "\n"
    print(text)
    print(write("parallel", text), file=sys.stderr)


if __name__ == "__main__":
    main()
