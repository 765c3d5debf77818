"""How contestants are timed, and how a result is written down: with command, hardware, versions and commit."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def in_turn(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round: all of them in turn, so that a slow moment meets everyone.

    `clock`: `time.process_time` counts what the process itself computed, whatever else the machine does.
    """
    for _ in range(warmup):
        for run in contestants.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            began = clock()
            run()
            seconds[name].append(clock() - began)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> str:
    """How many times faster: the median of the rounds' ratios, and their quartiles."""
    ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"


def machine() -> str:
    """CPU, cores, memory, versions and commit, as lines of Markdown."""
    cpu, memory = platform.processor() or platform.machine(), ""
    for file, key in (("/proc/cpuinfo", "model name"), ("/proc/meminfo", "MemTotal")):
        try:
            found = next(line for line in Path(file).read_text().splitlines() if line.startswith(key))
        except (OSError, StopIteration):
            continue
        value = found.partition(":")[2].strip()
        cpu, memory = (value, memory) if key == "model name" else (cpu, value)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    command = " ".join(["python -m", f"bench.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    return (
        f"- command: `{command}`\n"
        f"- machine: {cpu}, {os.cpu_count()} cores, {memory}; Python {platform.python_version()}, {versions}\n"
        f"- commit: {commit.stdout.strip() or 'unknown'}; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n"
    )


def write(name: str, text: str) -> Path:
    """Writes results/DATE-NAME.md and gives its path. From a changed working tree it goes to the temporary folder: no
    commit would give that result again."""
    if "-dirty" in text.partition("- commit: ")[2].partition(";")[0]:
        path = Path(tempfile.gettempdir()) / f"{datetime.now(UTC):%Y-%m-%d}-{name}.md"
        path.write_text(text)
        print("the working tree has changes: commit them and run again for bench/results/", file=sys.stderr)
        return path
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-{name}.md"
    path.write_text(text)
    return path
