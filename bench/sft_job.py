"""One model's work in `python -m bench.sft`: what both sides are told, and a few steps of either."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from bench import sft_work
from bench.sft_pace import Worker
from bench.sft_report import Figures
from open4ov.model import Processor
from open4ov.store import ImageStore

UPDATE = {"nano": 12, "60M": 6}
"""Samples of an update of the peer; our packs hold as many tokens as that many samples have on average"""
SAMPLES = {"nano": 96, "60M": 24}
QUICK = {"nano": 24, "60M": 12}
"""Samples of an epoch; both are whole pictures for one, two or four questions a picture"""
EPOCHS = 2


@dataclass
class Job:
    """One model and data set: what both sides are told, and where they leave things. `each`: questions a picture."""

    kind: str
    each: int
    folder: Path
    python: Path
    options: argparse.Namespace
    epochs: int = EPOCHS
    rows: list[dict[str, Any]] = field(default_factory=list)
    precision: str = "fp32"

    @property
    def tokens(self) -> int:
        """Of one epoch."""
        return sum(row["length"] for row in self.rows)

    @property
    def pack_tokens(self) -> int:
        mean = self.tokens / len(self.rows)
        return max(round(UPDATE[self.kind] * mean), max(row["length"] for row in self.rows))

    def worker(self, side: str, **told: Any) -> Worker:
        """Starts `ours` or `peer` with the settings that both share and `told`."""
        number = len(list(self.folder.glob("told-*")))
        out = self.folder / f"{side}-{number}"
        out.mkdir()
        shared = {
            "model": str(self.folder / self.kind), "data": str(self.folder), "out": str(out), "epochs": self.epochs,
            "rate": 5e-4, "precision": self.precision, "threads": self.options.threads, "device": self.options.device,
            "batch": UPDATE[self.kind], "accumulation": 1, "grouped": True, "workers": 1,
        }  # fmt: skip
        if side == "ours":
            shared |= {"pack_tokens": self.pack_tokens, "parts": 1, "without": [], "compile": False}
        else:
            shared |= {"rows": self.rows, "compile": "no"}
        file = self.folder / f"told-{number}.json"
        file.write_text(json.dumps(shared | told))
        python = sys.executable if side == "ours" else self.python
        return Worker(python, f"bench.sft_{side}", [str(file)], out / "log", self.options.threads)


def prepare(kind: str, each: int, folder: Path, python: Path, options: argparse.Namespace) -> Job:
    """Samples, models, and the lengths that the peer's grouping needs."""
    folder.mkdir()
    count = (QUICK if options.quick else SAMPLES)[kind]
    sft_work.make(folder, count, 8 if options.quick else 32, each=each)
    sft_work.build(kind, folder)
    job = Job(kind, each, folder, python, options)
    processor = Processor.from_pretrained(folder / kind)
    samples = sft_work.read(folder, "train", ImageStore(folder / "store"))
    job.rows = json.loads((folder / "train.json").read_text())
    for row, sample in zip(job.rows, samples, strict=True):
        with Image.open(folder / row["image"]) as image:
            row["length"] = len(processor.encode(sample.messages, [image.convert("RGB")], pixels=False))
    job.precision = options.precision if options.precision != "auto" else faster()
    return job


def faster() -> str:
    """The precision whose products are faster on this processor: bf16 has no instructions on many."""
    seconds: dict[str, float] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x, w = torch.ones(1024, 256, dtype=dtype), torch.ones(704, 256, dtype=dtype)
        F.linear(x, w)
        began = time.process_time()
        for _ in range(5):
            F.linear(x, w)
        seconds[name] = time.process_time() - began
    return min(seconds, key=lambda name: seconds[name])


PARTS = {
    "an update's samples at once, in random order": (1, False),
    "an update's samples at once, of like length": (1, True),
    "in three parts, of like length": (3, True),
    "one sample at a time": (0, False),
}
"""The peer's settings: in how many forward passes it takes the samples of an update (0: one each), and whether its
sampler puts samples of like length together"""


def told_by(job: Job, name: str) -> dict[str, Any]:
    """The settings behind a name of `PARTS`, with "; compiled" behind it perhaps."""
    plain, _, compiled = name.partition("; ")
    update, (parts, grouped) = UPDATE[job.kind], PARTS[plain]
    parts = parts or update
    together = {"batch": update // parts, "accumulation": parts, "grouped": grouped}
    return together | {"compile": "blocks" if compiled else "no"}


NEAR = {"fp32": 1e-3, "bf16": 2e-2}
"""How far apart the two losses of a first step may be, relative"""


def check_losses(ours: float, theirs: float, precision: str) -> None:
    """Raises AssertionError for losses that are not those of the same weights on the same samples."""
    apart = abs(ours - theirs) / max(abs(theirs), 1e-9)
    assert apart < NEAR[precision], f"the first losses are {apart:.1e} apart in {precision}: {ours} and {theirs}"


def first_loss(job: Job, samples: int = 6) -> tuple[float, float]:
    """The loss of the first step on the same samples: ours, the peer's."""
    ours = job.worker("ours", pack_tokens=10**6, epochs=1, first=samples, most=1)
    ours.block(1)
    mine = ours.block(1)["steps"][0]
    ours.close()
    told = {"rows": job.rows[:samples], "batch": samples, "grouped": False, "order": "sequential", "workers": 0}
    peer = job.worker("peer", **told, epochs=1, most=1)
    theirs = peer.block(1)["steps"][0]
    peer.close()
    for key in ("tokens", "targets"):
        assert mine[key] == theirs[key], f"the two sides read different {key}: {mine} and {theirs}"
    check_losses(mine["loss"], theirs["loss"], job.precision)
    return mine["loss"], theirs["loss"]


def short(job: Job, side: str, warm: int, steps: int, **told: Any) -> Figures:
    """A few steps of one side, after `warm` others."""
    worker, figures = job.worker(side, **told), Figures()
    if side == "ours":
        worker.block(1)
    worker.block(warm)
    for _ in range(steps):
        figures.add(worker.block(1), job.options.clock)
    worker.close()
    return figures
