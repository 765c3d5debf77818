"""SFT against TRL's SFTTrainer: the same weights, samples, freezing, optimizer and precision, one after the other in
short turns, on one thread each. See `--help`.

    python -m bench.sft [--only nano,60M] [--quick] [--clock wall] [--venv .venv-trl]

TRL runs in an environment of its own, which `scripts/trl_venv.sh` makes when it is not there. It gets the best of
several settings, tried first: samples of a forward pass with gradient accumulation to the same update, length grouping,
compiled blocks, a data loader of its own process. The vision tower is frozen on both sides. Figures: useful tokens (no
padding) a second over all steps, with what comes before them (our one pass of the tower, which is shared by all
epochs), predicted tokens a second, peak memory, loss on held-out samples of the two saved models by one scorer, and the
loss of the first step on the same samples: that the work is the same. Then our savings are taken away one after the
other until what remains is the difference of the two programs at the same work.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from bench import sft_work
from bench.measure import machine, write
from bench.sft_pace import ROOT, Worker
from bench.sft_report import Figures, markdown
from open4ov.model import Processor, Qwen3VL, pack
from open4ov.store import ImageStore

UPDATE = {"nano": 12, "60M": 6}
"""Samples of an update of the peer; our packs hold as many tokens as that many samples have on average"""


@dataclass
class Job:
    """One model's work: what both sides are told, and where they leave things."""

    kind: str
    folder: Path
    python: Path
    options: argparse.Namespace
    epochs: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    precision: str = "fp32"

    @property
    def pack_tokens(self) -> int:
        mean = sum(row["length"] for row in self.rows) / len(self.rows)
        return max(round(UPDATE[self.kind] * mean), max(row["length"] for row in self.rows))

    def worker(self, side: str, **told: Any) -> Worker:
        """Starts `ours` or `peer` with the settings that both share and `told`."""
        number = len(list(self.folder.glob("told-*")))
        out = self.folder / f"{side}-{number}"
        out.mkdir()
        shared = {
            "model": str(self.folder / self.kind), "data": str(self.folder), "out": str(out), "epochs": self.epochs,
            "rate": 5e-4, "precision": self.precision, "threads": self.options.threads, "device": self.options.device,
            "batch": UPDATE[self.kind], "accumulation": 1, "grouped": True, "workers": 1, "warmup": 0,
        }  # fmt: skip
        if side == "ours":
            shared |= {"pack_tokens": self.pack_tokens, "without": [], "compile": False}
        else:
            shared |= {"rows": self.rows, "compile": "no"}
        file = self.folder / f"told-{number}.json"
        file.write_text(json.dumps(shared | told))
        python = sys.executable if side == "ours" else self.python
        return Worker(python, f"bench.sft_{side}", [str(file)], out / "log", self.options.threads)


def prepare(kind: str, folder: Path, python: Path, options: argparse.Namespace) -> Job:
    """Samples, models, and the lengths that the peer's grouping needs."""
    nano, quick = kind == "nano", options.quick
    folder.mkdir()
    count = 2 * UPDATE[kind] if quick else 120 if nano else 30
    sft_work.make(folder, count, 8 if quick else 32)
    sft_work.build(kind, folder)
    job = Job(kind, folder, python, options, epochs=2)
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


def tune(job: Job) -> dict[str, Figures]:
    """Two steps of the peer in each setting, and in the best one also with compiled blocks."""
    found: dict[str, Figures] = {}
    for name in PARTS:
        found[name] = short(job, "peer", 1, 2, **told_by(job, name))
        print(f"  TRL, {name}: {found[name].speed:.0f} tokens/s", file=sys.stderr)
    best = max(found, key=lambda name: found[name].speed)
    if job.options.compile:
        found[f"{best}; compiled"] = short(job, "peer", 3, 2, **told_by(job, f"{best}; compiled"))
    return found


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


def race(job: Job, setting: str) -> dict[str, Any]:
    """Both train all epochs to the end, in turns of a few steps; then the saved models meet the held-out samples."""
    clock = job.options.clock
    sides = {
        "ours": job.worker("ours", compile=job.options.compile),
        "peer": job.worker("peer", **told_by(job, setting)),
    }
    figures = {side: Figures() for side in sides}
    before = sides["ours"].block(1)
    figures["ours"].peak = before["peak"]  # the tower's pass is part of the training
    going = set(sides)
    for warm in (True, *[False] * 10**6):
        for side in sorted(going):
            report = sides[side].block(2)
            if warm:  # compilation, first use of everything: trained, not timed
                continue
            if report.get("end"):  # the saving of the model is in this block: not a training's speed
                going.discard(side)
            else:
                figures[side].add(report, clock)
        if not going:
            break
    for worker in sides.values():
        worker.close()
    score = scorer(job)
    paths = {side: max(job.folder.glob(f"{side}-*/model"), key=lambda path: path.stat().st_mtime) for side in sides}
    return {
        "before": before["seconds" if clock == "wall" else "cpu"],
        "held_out": {side: score(path) for side, path in paths.items()},
        "start": score(job.folder / job.kind),
        **figures,
    }


def scorer(job: Job) -> Any:
    """A function from a saved model's folder to its loss (nats a predicted token) on the held-out samples, in fp32."""
    store = ImageStore(job.folder / "store")
    samples = sft_work.read(job.folder, "held_out", store)
    processor = Processor.from_pretrained(job.folder / job.kind)
    batches = [
        pack([processor.encode(s.messages, [store.get(s.images[0])]) for s in samples[start : start + 8]])
        for start in range(0, len(samples), 8)
    ]

    @torch.no_grad()
    def score(path: Path) -> float:
        model = Qwen3VL.from_pretrained(path).eval()
        counts = [len(batch.predicted) for batch in batches]
        losses = [float(model.loss(batch)) for batch in batches]
        return sum(loss * n for loss, n in zip(losses, counts, strict=True)) / sum(counts)

    return score


STEPS = {
    "cache": "features of the frozen tower kept, against the tower at every step",
    "once": "a picture read and resized once, against at every step",
    "targets": "head on predicted tokens, against on every position",
    "packing": "no padding, against padding as the peer's batches have it",
}


def factors(job: Job, peer: float, setting: str) -> list[tuple[str, float]]:
    """Tokens a second of our loop as savings are taken away one after the other; last the peer."""
    told, rows, without = told_by(job, setting), [], []
    rows.append(("ours, all of it, features in hand", short(job, "ours", 1, 2, compile=job.options.compile).speed))
    if job.options.compile:
        rows.append(("blocks compiled, against eager", short(job, "ours", 1, 2).speed))
    for name, title in STEPS.items():
        without.append(name)
        figures = short(job, "ours", 1, 2, without=without, batch=told["batch"], grouped=told["grouped"])
        rows.append((title, figures.speed))
    rows.append(("the program itself at the same work: kernels, copies, bookkeeping", peer))
    return rows


def _title(job: Job, losses: tuple[float, float]) -> str:
    lengths = [row["length"] for row in job.rows]
    compiled = ", compiled blocks" if job.options.compile else ""
    return (
        f"\n## {job.kind}, {job.precision}{compiled}\n\nFirst step on the same samples: loss {losses[0]:.5f} ours, "
        f"{losses[1]:.5f} TRL. {len(lengths)} samples of {min(lengths)} to {max(lengths)} tokens, {job.epochs} epochs; "
        f"packs of {job.pack_tokens} tokens against updates of {UPDATE[job.kind]} samples."
    )


def _epoch(job: Job) -> int:
    """Tokens of one epoch."""
    return sum(row["length"] for row in job.rows)


def environment(path: Path) -> Path:
    """The Python of TRL's environment, which is made when it is not there or of other versions."""
    print(f"TRL's environment is {path}; scripts/trl_venv.sh makes it if it is missing (minutes)", file=sys.stderr)
    subprocess.run([str(ROOT / "scripts" / "trl_venv.sh"), str(path)], check=True)
    return path / "bin" / "python"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="nano,60M", help="of nano, 60M")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few samples, one setting of the peer")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: for a machine with other work; what the "
        "peer's data loader computes, a process of its own, is not in it",
    )
    parser.add_argument(
        "--precision", choices=("auto", "bf16", "fp32"), default="auto", help="auto: the faster one here"
    )
    parser.add_argument("--compile", action="store_true", help="compiled blocks on both sides (the peer: if they help)")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-trl", help="TRL's environment")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if unknown := [kind for kind in options.only.split(",") if kind not in sft_work.MODELS]:
        parser.error(f"--only: no model {', '.join(unknown)}; there are {', '.join(sft_work.MODELS)}")
    python = environment(options.venv)
    torch.set_num_threads(options.threads)
    text, kept = (
        f"# SFT against TRL\n\n{machine()}- TRL 1.16.0; {options.threads} thread each; {options.clock} seconds\n",
        {},
    )
    with tempfile.TemporaryDirectory() as name:
        for kind in options.only.split(","):
            job = prepare(kind, Path(name) / f"job-{kind}", python, options)
            losses = first_loss(job)
            print(f"{kind}: first loss {losses}", file=sys.stderr)
            tuned = {next(iter(PARTS)): Figures(1, 1, 1, 1)} if options.quick else tune(job)
            best = max(tuned, key=lambda setting: tuned[setting].speed)
            found = race(job, best)
            rows = [] if options.quick else factors(job, found["peer"].speed, best)
            title = _title(job, losses)
            part = markdown(title, _epoch(job), {} if options.quick else tuned, found, rows)  # quick: nothing was tried
            print(part, flush=True)
            text += part
            found |= {side: asdict(found[side]) for side in ("ours", "peer")}
            kept[kind] = {
                "first_loss": losses,
                "tuned": {k: asdict(v) for k, v in tuned.items()},
                **found,
                "factors": rows,
            }
    path = write("sft", text)
    path.with_suffix(".json").write_text(json.dumps(kept, indent=1))
    print(path)


if __name__ == "__main__":
    main()
