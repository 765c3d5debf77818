"""Fine matching against its own matrix product, and the topic tree at size. See `--help`.

    python -m bench.matching [--rounds 15] [--threads N]

The exact top 5 over 38,455 topics (the paper's number), 384 features, fp32, batches of 256 images, within three L1
labels of each axis and within all, beside the same product alone in both orders of its factors; and, once each, how
long 38,455 and 500,000 topics take to generate, merge and write, without the time of a model.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import in_turn, machine, ratio, write
from open4ov.data import labels, topics
from open4ov.data.nearest import Keys
from open4ov.mllm import Asker, Request
from open4ov.recipe import DataSection

TOPICS, WIDTH, BATCH, K = 38_455, 384, 256, 5
SIZES = (38_455, 500_000)


def matching(rounds: int) -> str:
    rng = np.random.default_rng(0)
    domains, abilities = 9, 11  # as in the shipped tree
    groups = rng.integers(0, domains * abilities, TOPICS)
    rows = _unit(rng.standard_normal((TOPICS, WIDTH)))
    images = _unit(rng.standard_normal((BATCH, WIDTH)))
    three = np.zeros((BATCH, domains, abilities), dtype=np.bool_)
    for image in range(BATCH):
        chosen = np.ix_(rng.permutation(domains)[:3], rng.permutation(abilities)[:3])
        three[image][chosen] = True
    within = {"three L1 labels an axis": three.reshape(BATCH, -1), "all labels": np.ones_like(three).reshape(BATCH, -1)}
    keys = Keys(rows, groups)
    _exact(keys, rows, groups, images, within["three L1 labels an axis"])
    wide, tall = np.empty((BATCH, TOPICS), np.float32), np.empty((TOPICS, BATCH), np.float32)
    transposed = np.ascontiguousarray(rows.T)
    contestants: dict[str, Any] = {
        "images · topicsᵀ": lambda: np.matmul(images, rows.T, out=wide),
        "images · topicsᵀ, topics stored by column": lambda: np.matmul(images, transposed, out=wide),
        "topics · imagesᵀ": lambda: np.matmul(rows, images.T, out=tall),
    }
    products = list(contestants)
    for name, allowed in within.items():
        contestants[f"top 5 within {name}"] = lambda allowed=allowed: keys.nearest(images, allowed, K)
    seconds = in_turn(contestants, rounds)
    quickest = min(products, key=lambda name: statistics.median(seconds[name]))
    lines = [
        "| what | ms a batch, median | images/s | speed of the quickest product alone reached, median (quartiles) |",
        "|---|---|---|---|",
    ]
    for name, found in seconds.items():
        middle = statistics.median(found)
        reached = "" if name in products else ratio(seconds[quickest], found)
        lines.append(f"| {name} | {1000 * middle:.1f} | {BATCH / middle:.0f} | {reached} |")
    return "\n".join(lines) + "\n\nThe first batch was compared with a sort of all float64 cosines: equal."


def _exact(keys: Keys, rows: Any, groups: Any, images: Any, allowed: Any) -> None:
    cosines = images.astype(np.float64) @ rows.astype(np.float64).T
    cosines[~allowed[:, groups]] = -np.inf
    right = np.argsort(-cosines, axis=1, kind="stable")[:, :K]
    found, _ = keys.nearest(images, allowed, K)
    assert np.array_equal(found, right), "the top 5 differ from brute force"


def _unit(rows: Any) -> Any:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class _Invented:
    """Answers every pair with as many topics as asked, a twelfth of them in other words for another one."""

    concurrency = 1

    def identity(self, role: str) -> str:
        return "invented"

    def answer(self, request: Request) -> dict[str, Any]:
        values = request.prompt.values
        about = f"{values['ability']['l2']} of {values['domain']['l2']}"
        names = [f"{about}, case {n}" for n in range(values["limit"])]
        names[::12] = [f"Case {n + 1} of the {about.casefold()}" for n in range(0, values["limit"], 12)]
        return {"topics": names}


def tree(size: int) -> str:
    """One row of the table; run in a process of its own, so that the memory is this size's."""
    shipped = labels.load()
    names = [set(shipped.names(axis)) for axis in labels.AXES]
    pairs = sum(1 for _ in shipped.pairs(*names))
    limit = -(-size * 12 // (11 * pairs))
    asker = Asker(DataSection(), {"default": _Invented()})
    before = _memory("VmRSS")
    began = time.perf_counter()
    found, _ = topics.generate(asker, shipped, *names, limit=limit)
    made = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        topics.write(Path(folder) / "topics.parquet", found, shipped)
        written = time.perf_counter() - began
        megabytes = (Path(folder) / "topics.parquet").stat().st_size / 1e6
        began = time.perf_counter()
        count = sum(1 for _ in topics.read(Path(folder) / "topics.parquet"))
        read = time.perf_counter() - began
    assert count == len(found)
    memory = _memory("VmHWM") - before
    return (
        f"| {pairs * limit:,} | {len(found):,} | {made:.1f} | {written:.1f} | {read:.1f} | {memory:.0f} | "
        f"{megabytes:.1f} |"
    )


def _memory(line: str) -> float:
    """MiB of this process now (VmRSS) or at its highest (VmHWM)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(one for one in status if one.startswith(line)).split()[1]) / 1024


def trees() -> str:
    lines = [
        "| named | kept | generated and merged, s | written, s | read, s | memory above the start, MiB | file, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        command = [sys.executable, "-m", "bench.matching", "--tree", str(size)]
        lines.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, help="threads of the matrix product; the machine's if not given")
    parser.add_argument("--tree", type=int, metavar="TOPICS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tree:
        print(tree(options.tree))
        return
    if options.threads and os.environ.get("OPENBLAS_NUM_THREADS") != str(options.threads):
        # read when the library is loaded, so it has to be there from the start
        os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads)
        os.execv(sys.executable, [sys.executable, "-m", "bench.matching", *sys.argv[1:]])
    text = f"# Matching\n\n{machine()}- numpy {np.__version__}, {options.threads or 'all'} threads\n"
    for title, part in (
        (f"Top {K} of {TOPICS:,} topics, {WIDTH} wide, fp32, {BATCH} images a batch", lambda: matching(options.rounds)),
        ("The topic tree at size", trees),
    ):
        found = f"\n## {title}\n\n{part()}\n"
        print(found, flush=True)
        text += found
    print(write("matching", text))


if __name__ == "__main__":
    main()
