"""INT8 weights against bf16 and fp32 on a CPU: speed, memory, and what becomes of the scores. See `--help`.

    python -m bench.quantize [--only speed,scores] [--models nano,60M] [--rounds 3] [--items 100]

Tokens a second through our engine, one thread; the suites of the nano lineage with the same questions for both, greedy
and sampled as in a run, differences paired by question with a bootstrap interval.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

from bench.engines import Work, build, ours, requests
from bench.measure import in_turn, machine, ratio, write
from open4ov.assets import base_dir
from open4ov.engine import Engine
from open4ov.engine.quantize import quantize, weight_bytes
from open4ov.evaluate.scores import differences, summarise
from open4ov.evaluate.suites import ask
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import EvaluateSection

KINDS = ("fp32", "bf16", "int8")
JOBS = {
    "32 requests, 64 new tokens each": (32, (8, 32), (64, 64), 4),
    "1 request, 128 new tokens": (1, (8, 8), (128, 128), 0),
    "32 long prompts, 4 new tokens": (32, (150, 250), (4, 4), 2),
}


def model(directory: Path, kind: str) -> Qwen3VL:
    found = Qwen3VL.from_pretrained(directory).requires_grad_(False)
    if kind == "bf16":
        return found.to(torch.bfloat16)
    if kind == "int8":
        quantize(found, "int8")
    return found


def speed(kinds: list[str], rounds: int, folder: Path) -> str:
    lines = [
        "| model | work | fp32, tokens/s | bf16 | int8 | int8 is faster than bf16 | than fp32 | weights, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        directory = build(kind, folder)
        processor = Processor.from_pretrained(directory)
        models = {name: model(directory, name) for name in KINDS}
        sizes = " / ".join(f"{weight_bytes(one) / 2**20:.0f}" for one in models.values())
        for title, (count, prompt, new, pictures) in JOBS.items():
            work = Work.of(requests(count, prompt, new, pictures), processor)
            contestants = {
                name: ours(directory, work, torch.float32, Engine(one, processor, max_batch=32, watch=False))
                for name, one in models.items()
            }
            seconds = in_turn(contestants, rounds, warmup=1)
            total = work.tokens + (sum(map(len, work.documents)) if new[1] < 10 else 0)
            speeds = [f"{total / statistics.median(seconds[name]):.0f}" for name in KINDS]
            against = [ratio(seconds[name], seconds["int8"]) for name in ("bf16", "fp32")]
            lines.append(f"| {kind} | {title} | {' | '.join((*speeds, *against))} | {sizes} |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n\nTokens are new ones; with long prompts, those of the prompts too."


def scores(items: int) -> str:
    """Each suite of nano: plain, quantised, and the paired difference."""
    directory = base_dir("nano")
    processor = Processor.from_pretrained(directory)
    section = EvaluateSection(items=items, sampled_items=items, precision="fp32")
    plain, small = (ask(model(directory, kind), processor, section, seed=0) for kind in ("fp32", "int8"))
    before, after = (summarise(answers, section.confidence)["suites"] for answers in (plain, small))
    paired = differences(small, plain, section.confidence)
    lines = ["| suite | items | fp32 | int8 | difference (95 % interval) |", "|---|---|---|---|---|"]
    for name, row in before.items():
        gap = paired[name]
        digits = 1 if row["unit"] == "share" else 2
        scale = 100 if row["unit"] == "share" else 1
        values = [f"{scale * one['score']:.{digits}f}" for one in (row, after[name])]
        low, middle, high = (f"{scale * gap[key]:+.{digits}f}" for key in ("low", "score", "high"))
        lines.append(f"| {row['title']} | {row['items']} | {' | '.join(values)} | {middle} ({low} to {high}) |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="speed,scores")
    parser.add_argument("--models", default="nano,60M", help="for speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=100, help="questions of each suite")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = (
        f"# INT8 weights\n\n{machine()}- one thread; the decoder's linear layers in int8, tower and head as they are\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        parts = {
            "speed": lambda: speed(options.models.split(","), options.rounds, Path(folder)),
            "scores": lambda: scores(options.items),
        }
        for title in options.only.split(","):
            found = f"\n## {title.capitalize()}{' of nano' if title == 'scores' else ''}\n\n{parts[title]()}\n"
            print(found, flush=True)
            text += found
    print(write("quantize", text))


if __name__ == "__main__":
    main()
