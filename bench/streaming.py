"""Data construction: memory as the number of samples grows, and what each step costs a sample. See `--help`.

    python -m bench.streaming [--samples 10000 100000] [--pairs 4] [--defects 0.1] [--write]
    python -m bench.streaming --only asked      requests and tokens an image by role, of photographs of 1024 x 768
    python -m bench.streaming --only counter    milliseconds of the calls that workers make to the one book and cache

Everything but the model and the pictures is real: recipe, prompts, labels, topics, fine matching, question checks,
votes, verification, Parquet. The provider is in this process and answers at once (`open4ov.mllm.guessing.made_up`, the
answers of the dry run: every judge agrees). The images are records without pixels, as none of these steps reads pixels
by itself: decoding, hashing and encoding of pictures for an endpoint are not in these figures. Each size runs in a
process of its own; peak is its resident memory at most (VmHWM), the start is after imports and before the first image.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from bench.measure import machine, write
from open4ov.data import chunk_steps
from open4ov.data.construct import build, estimate
from open4ov.data.task import Task
from open4ov.mllm import Asker, Request
from open4ov.mllm.guessing import made_up
from open4ov.recipe import BudgetSection, DataSection, ProviderSection
from open4ov.sample import Sample, content_id
from open4ov.store import ImageStore, write_samples


class Cheap:
    """A provider that answers at once; a short list of topics, so that the topics are not what is measured."""

    concurrency = 1

    def identity(self, role: str) -> str:
        return "cheap"

    def answer(self, request: Request) -> dict[str, Any]:
        return made_up(request)


def records(count: int) -> Iterator[Sample]:
    for number in range(count):
        sha = content_id("picture", number) * 4
        yield Sample(
            id=content_id("folder", sha), source="folder", task="image", images=[sha], extra={"file": f"{number}.jpg"}
        )


def kilobytes(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def child(samples: int, pairs: int, defects: float, chunk: int, folder: Path) -> dict[str, Any]:
    """One construction; its figures."""
    images = samples // pairs
    source = folder / "images.parquet"
    write_samples(source, records(images))
    section = DataSection(
        min_pairs=pairs, max_pairs=pairs, topics_per_pair=1, density_evidence=0, inject_defects=defects, chunk=chunk
    )
    spent: Counter[str] = Counter()

    def timed(name: str, work: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any, **named: Any) -> None:
            before = time.process_time()
            work(*arguments, **named)
            spent[name] += time.process_time() - before

        return run

    for name, work in list(chunk_steps.STEPS.items()):
        chunk_steps.STEPS[name] = timed(name, work)
    start = kilobytes("VmRSS")
    before, began = time.process_time(), time.perf_counter()
    task = Task(section, source, folder / "store", folder / "work", 0)
    told = build(task, folder / "out", Asker(section, {"default": Cheap()}))
    spent["all"] = time.process_time() - before
    return {
        "images": images, "samples": told["counts"]["kept"], "defects": told["counts"]["defects"], "pairs": pairs,
        "topics": told["counts"]["topics"], "start": start, "peak": kilobytes("VmHWM"), "cpu": dict(spent),
        "seconds": time.perf_counter() - began, "work": size(folder / "work"), "out": size(folder / "out"),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    heads = (
        "samples", "images", "defects", "peak, MiB", "above the start, MiB", "match", "write", "judge", "all the rest",
        "all", "wall s", "working folder", "output",
    )  # fmt: skip
    lines = [
        "Columns from `match` on: processor milliseconds a sample of each step and of all, seconds by the clock, and "
        "bytes a sample on disk.\n",
        f"| {' | '.join(heads)} |",
        "|" + "---|" * len(heads),
    ]
    for row in rows:
        cpu, samples = row["cpu"], row["samples"]
        rest = cpu["all"] - sum(value for name, value in cpu.items() if name != "all")
        steps = (cpu["match"], cpu["write"], cpu["judge"], rest, cpu["all"])
        cells = [
            f"{samples:,}", f"{row['images']:,}", f"{row['defects']:,}", f"{row['peak'] / 1024:.0f}",
            f"{(row['peak'] - row['start']) / 1024:.0f}", *(f"{1000 * spent / samples:.3f}" for spent in steps),
            f"{row['seconds']:.0f}", f"{row['work'] / samples:.0f}", f"{row['out'] / samples:.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def asked(pairs: int, images: int = 40) -> str:
    """By the dry run: prompts as they would be sent, answers made up."""
    with tempfile.TemporaryDirectory() as folder:
        store = ImageStore(Path(folder))
        shas = [store.put(Image.new("RGB", (1024, 768), (n, 80, 160))) for n in range(images)]
        some = [Sample(id=str(n), source="folder", task="image", images=[sha]) for n, sha in enumerate(shas)]
        provider = ProviderSection(kind="openai", model="m", image_tokens="patch32")
        section = DataSection(
            providers={"default": provider}, min_pairs=pairs, max_pairs=pairs, topics_per_pair=1, density_evidence=0
        )
        found = estimate(some, section, store, 0)
    lines = ["| role | requests an image | input tokens an image | of them the picture's | output tokens an image |",
             "|---|---|---|---|---|"]  # fmt: skip
    for line in (*(one for one in found["lines"] if one["role"] != "topics"),):
        cells = [line[name] / images for name in ("calls", "input", "image_tokens", "output")]
        lines.append(f"| {line['role']} | {' | '.join(f'{cell:,.1f}' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def counted(calls: int = 2000) -> str:
    """The four calls of one question: is it kept, set aside, keep it, book it."""
    from open4ov.mllm.budget import Usage
    from open4ov.mllm.cache import Kept, key
    from open4ov.mllm.shared_desk import Counter as Desk

    section = DataSection(budget=BudgetSection(tokens=10**12))

    def question(call: Callable[..., Any], number: int) -> None:
        name = key(question=number)
        call("get", name)
        reserved = call("offer", "w", "rank", "p", Usage(2000, 4000), None)
        call("put", name, Kept('{"score": 1, "reason": "as it should be"}', 1500, 30, False), "m", "judge@2")
        call("settle", "w", reserved, Usage(1500, 30))

    lines = ["| four calls of a question | ms by the clock | ms of the asking process |", "|---|---|---|"]

    def timed(name: str, call: Callable[..., Any]) -> None:
        began, before = time.perf_counter(), time.process_time()
        for number in range(calls):
            question(call, number)
        clock, spent = time.perf_counter() - began, time.process_time() - before
        lines.append(f"| {name} | {1000 * clock / calls:.2f} | {1000 * spent / calls:.2f} |")

    with tempfile.TemporaryDirectory() as folder:
        here = Desk(section, Path(folder) / "a")
        timed("in this process", lambda method, *arguments: getattr(here, method)(*arguments))
        try:
            import ray
        except ImportError:
            lines.append("| by Ray | not installed | |")
            return "\n".join(lines) + "\n"
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=128 * 2**20)
        actor = ray.remote(Desk).options(num_cpus=0, max_concurrency=64).remote(section, Path(folder) / "b")
        timed("by an actor of Ray", lambda method, *arguments: ray.get(getattr(actor, method).remote(*arguments)))
        ray.shutdown()
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--pairs", type=int, default=4, help="samples an image")
    parser.add_argument("--defects", type=float, default=0.0, help="share of known defects")
    parser.add_argument("--chunk", type=int, default=2048, help="images of a chunk")
    parser.add_argument("--write", action="store_true", help="write bench/results/")
    parser.add_argument("--only", choices=("asked", "counter"))
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(child(chosen.child, chosen.pairs, chosen.defects, chosen.chunk, Path(folder))))
        return
    if chosen.only:
        print(machine(), asked(chosen.pairs) if chosen.only == "asked" else counted(), sep="\n")
        return
    rows: list[dict[str, Any]] = []
    for samples in chosen.samples:
        options = ["--pairs", chosen.pairs, "--defects", chosen.defects, "--chunk", chosen.chunk, "--child", samples]
        command = [sys.executable, "-m", "bench.streaming", *map(str, options)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows.append(json.loads(told.splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
    text = table(rows)
    print(text)
    if chosen.write:
        print(write("data-streaming", f"# Data construction in chunks\n\n{machine()}\n{text}"))


if __name__ == "__main__":
    main()
