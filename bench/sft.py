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
import statistics
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
from open4ov.model import Processor, Qwen3VL, pack
from open4ov.store import ImageStore

UPDATE = 12
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
        return max(round(UPDATE * mean), max(row["length"] for row in self.rows))

    def worker(self, side: str, **told: Any) -> Worker:
        """Starts `ours` or `peer` with the settings that both share and `told`."""
        number = len(list(self.folder.glob("told-*")))
        out = self.folder / f"{side}-{number}"
        out.mkdir()
        shared = {
            "model": str(self.folder / self.kind), "data": str(self.folder), "out": str(out), "epochs": self.epochs,
            "rate": 5e-4, "precision": self.precision, "threads": self.options.threads, "device": self.options.device,
            "batch": UPDATE, "accumulation": 1, "grouped": True, "workers": 1, "warmup": 2,
        }  # fmt: skip
        if side == "ours":
            shared |= {"pack_tokens": self.pack_tokens, "without": [], "compile": False, "warmup": 0.05}
        else:
            shared |= {"rows": self.rows, "compile": "no"}
        file = self.folder / f"told-{number}.json"
        file.write_text(json.dumps(shared | told))
        python = sys.executable if side == "ours" else self.python
        return Worker(python, f"bench.sft_{side}", [str(file)], out / "log", self.options.threads)


@dataclass
class Figures:
    """What blocks of steps gave together; seconds by the clock that was asked for."""

    seconds: float = 0.0
    tokens: int = 0
    targets: int = 0
    slots: int = 0
    peak: int = 0
    speeds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def add(self, report: dict[str, Any], clock: str) -> None:
        seconds, tokens = report["seconds" if clock == "wall" else "cpu"], 0
        for step in report["steps"]:
            tokens += step["tokens"]
            self.targets += step["targets"]
            self.slots += step["slots"]
            self.losses.append(step["loss"])
        self.seconds, self.tokens = self.seconds + seconds, self.tokens + tokens
        self.peak = max(self.peak, report["peak"])
        if tokens:
            self.speeds.append(tokens / seconds)

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds


def prepare(kind: str, folder: Path, python: Path, options: argparse.Namespace) -> Job:
    """Samples, models, and the lengths that the peer's grouping needs."""
    nano, quick = kind == "nano", options.quick
    folder.mkdir()
    count = 24 if quick else 192 if nano else 72
    sft_work.make(folder, count, 8 if quick else 48)
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
    return mine["loss"], theirs["loss"]


CANDIDATES: dict[str, dict[str, Any]] = {
    "12 samples at once, in random order": {"batch": 12, "accumulation": 1, "grouped": False},
    "12 samples at once, of like length": {"batch": 12, "accumulation": 1, "grouped": True},
    "3 times 4 samples, of like length": {"batch": 4, "accumulation": 3, "grouped": True},
    "12 times 1 sample": {"batch": 1, "accumulation": 12, "grouped": False},
}


def tune(job: Job) -> dict[str, Figures]:
    """Two steps of the peer in each setting, and in the best one also with compiled blocks."""
    found: dict[str, Figures] = {}
    for name, told in CANDIDATES.items():
        found[name] = short(job, "peer", 1, 2, **told)
        print(f"  TRL, {name}: {found[name].speed:.0f} tokens/s", file=sys.stderr)
    best = max(found, key=lambda name: found[name].speed)
    if job.options.compile:
        found[f"{best}; compiled"] = short(job, "peer", 3, 2, **CANDIDATES[best], compile="blocks")
    return found


def told_by(name: str) -> dict[str, Any]:
    """The settings behind a name that `tune` gave."""
    plain, _, compiled = name.partition("; ")
    return CANDIDATES[plain] | {"compile": "blocks" if compiled else "no"}


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
    sides = {"ours": job.worker("ours", compile=job.options.compile), "peer": job.worker("peer", **told_by(setting))}
    figures = {side: Figures() for side in sides}
    before = sides["ours"].block(1)
    going = set(sides)
    for warm in (True, *[False] * 10**6):
        for side in sorted(going):
            report = sides[side].block(2)
            if warm:  # compilation, first use of everything: trained, not timed
                continue
            figures[side].add(report, clock)
            if report.get("end"):
                going.discard(side)
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
    told, rows, without = told_by(setting), [], []
    rows.append(("ours, all of it, features in hand", short(job, "ours", 1, 3, compile=job.options.compile).speed))
    if job.options.compile:
        rows.append(("blocks compiled, against eager", short(job, "ours", 1, 3).speed))
    for name, title in STEPS.items():
        without.append(name)
        figures = short(job, "ours", 1, 3, without=without, batch=told["batch"], grouped=told["grouped"])
        rows.append((title, figures.speed))
    rows.append(("the program itself at the same work: kernels, copies, bookkeeping", peer))
    return rows


def report(job: Job, losses: tuple[float, float], tuned: dict[str, Figures], found: dict[str, Any], rows: Any) -> str:
    """The Markdown of one model."""
    ours, peer = found["ours"], found["peer"]
    lines = [f"\n## {job.kind}, {job.precision}\n"]
    lines.append(
        f"First step, same samples: loss {losses[0]:.5f} ours, {losses[1]:.5f} TRL. {len(job.rows)} samples of "
        f"{min(r['length'] for r in job.rows)} to {max(r['length'] for r in job.rows)} tokens, {job.epochs} epochs; "
        f"packs of {job.pack_tokens} tokens against updates of {UPDATE} samples.\n"
    )
    lines += ["| TRL's settings, tried for two steps | tokens/s | slots with padding |", "|---|---|---|"]
    lines += [f"| {name} | {f.speed:.0f} | {f.slots / f.tokens:.2f} |" for name, f in tuned.items()]
    lines += ["", "| | ours | TRL, its best setting | ratio |", "|---|---|---|---|"]
    for n, title in ((1, "useful tokens/s, one epoch, tower included"), (3, "three epochs"), (10, "ten epochs")):
        speed = n * _epoch(job) / (n * _epoch(job) / ours.speed + found["before"])
        lines.append(f"| {title} | {speed:.0f} | {peer.speed:.0f} | {speed / peer.speed:.2f} |")
    lines.append(
        f"| steps alone (features in hand) | {ours.speed:.0f} | {peer.speed:.0f} | {ours.speed / peer.speed:.2f} |"
    )
    pairs = sorted(a / b for a, b in zip(ours.speeds, peer.speeds, strict=False))
    spread = f"{statistics.median(pairs):.2f} ({pairs[0]:.2f} to {pairs[-1]:.2f})"
    lines.append(f"| the same, turn by turn: median, range | | | {spread} |")
    mine, theirs = ours.targets / ours.seconds, peer.targets / peer.seconds
    lines.append(f"| predicted tokens/s, steps alone | {mine:.0f} | {theirs:.0f} | {mine / theirs:.2f} |")
    lines.append(f"| peak resident memory, MiB | {ours.peak >> 20} | {peer.peak >> 20} | {ours.peak / peer.peak:.2f} |")
    held = found["held_out"]
    lines.append(f"| held-out loss (start {found['start']:.3f}) | {held['ours']:.4f} | {held['peer']:.4f} | |")
    if rows:
        lines += ["", "| saving taken away | tokens/s that remain | factor |", "|---|---|---|"]
        before = None
        for title, speed in rows:
            lines.append(f"| {title} | {speed:.0f} | {'' if before is None else f'{before / speed:.2f}'} |")
            before = speed
        lines.append(f"| all factors together | | {rows[0][1] / rows[-1][1]:.2f} |")
    return "\n".join(lines) + "\n"


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
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine with other work")
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
            tuned = {"12 samples at once, of like length": Figures(1, 1, 1, 1)} if options.quick else tune(job)
            best = max(tuned, key=lambda setting: tuned[setting].speed)
            found = race(job, best)
            rows = [] if options.quick else factors(job, found["peer"].speed, best)
            part = report(job, losses, {} if options.quick else tuned, found, rows)
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
