"""SFT against TRL's SFTTrainer: the same weights, samples, freezing, optimizer and precision, one after the other in
short turns, on one thread each. See `--help`.

    python -m bench.sft [--only nano,60M] [--questions 1,4] [--quick] [--clock wall] [--venv .venv-trl]

TRL runs in an environment of its own, which `scripts/trl_venv.sh` makes when it is not there. It gets the best of
several settings, tried first: samples of a forward pass with gradient accumulation to the same update, length grouping,
compiled blocks, a data loader of its own process. The vision tower is frozen on both sides, and the rate constant: the
two programs count the steps of a falling one differently, which decides over so few. Each model is trained on as many
samples about as many pictures, and on samples of which several are about the same picture, as VQA data has them:
only there can a picture be computed once for several questions. Figures: useful tokens (no padding; a picture counts
for each of its questions) a second over all steps, with what comes before them (our one pass of the tower, which is
shared by all epochs), predicted tokens a second, peak memory, loss on held-out samples of the two saved models by one
scorer, and the loss of the first step on the same samples: that the work is the same. Then our savings are taken away
one after the other until what remains is the difference of the two programs at the same work.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench import sft_work
from bench.measure import machine, write
from bench.sft_job import PARTS, UPDATE, Job, first_loss, prepare, short, told_by
from bench.sft_pace import ROOT
from bench.sft_report import Figures, Result, aims, markdown
from open4ov.model import Processor, Qwen3VL, pack
from open4ov.store import ImageStore


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
    "share": "a picture computed once for its questions in a pack, against for each of them",
    "cache": "features of the frozen tower kept, against the tower at every step",
    "once": "a picture read and resized once, against at every step",
    "targets": "head on predicted tokens, against on every position",
    "packing": "no padding, against padding as the peer's batches have it",
}


def factors(job: Job, peer: float, setting: str) -> list[tuple[str, float]]:
    """Tokens a second of our loop as savings are taken away one after the other; last the peer."""
    told, rows, without = told_by(job, setting), list[tuple[str, float]](), list[str]()
    rows.append(("ours, all of it, features in hand", short(job, "ours", 1, 2, compile=job.options.compile).speed))
    if job.options.compile:
        rows.append(("blocks compiled, against eager", short(job, "ours", 1, 2).speed))
    for name, title in STEPS.items():
        without.append(name)
        if name != "share" or job.each > 1:
            figures = short(job, "ours", 1, 2, without=without, batch=told["batch"], grouped=told["grouped"])
            rows.append((title, figures.speed))
    rows.append(("the program itself at the same work: kernels, copies, bookkeeping", peer))
    return rows


def _title(job: Job, losses: tuple[float, float]) -> str:
    lengths = [row["length"] for row in job.rows]
    compiled = ", compiled blocks" if job.options.compile else ""
    pictures = len({row["image"] for row in job.rows})
    return (
        f"\n## {job.kind}, {_questions(job.each)}, {job.precision}{compiled}\n\n"
        f"First step on the same samples: loss {losses[0]:.5f} ours, {losses[1]:.5f} TRL. {len(lengths)} samples of "
        f"{min(lengths)} to {max(lengths)} tokens about {pictures} pictures, {job.epochs} epochs; packs of "
        f"{job.pack_tokens} tokens against updates of {UPDATE[job.kind]} samples."
    )


def _questions(each: int) -> str:
    return "one question a picture" if each == 1 else f"{each} questions a picture"


def environment(path: Path) -> Path:
    """The Python of TRL's environment, which is made when it is not there or of other versions."""
    print(f"TRL's environment is {path}; scripts/trl_venv.sh makes it if it is missing (minutes)", file=sys.stderr)
    subprocess.run([str(ROOT / "scripts" / "trl_venv.sh"), str(path)], check=True)
    return path / "bin" / "python"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="nano,60M", help="of nano, 60M")
    parser.add_argument("--questions", default="1,4", help="questions a picture; of several, one run each")
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
    kinds, questions = options.only.split(","), [int(each) for each in options.questions.split(",")]
    if unknown := [kind for kind in kinds if kind not in sft_work.MODELS]:
        parser.error(f"--only: no model {', '.join(unknown)}; there are {', '.join(sft_work.MODELS)}")
    if min(questions) < 1:
        parser.error("--questions: a picture has one question or more")
    python = environment(options.venv)
    torch.set_num_threads(options.threads)
    text, kept, results = "", dict[str, Any](), list[Result]()
    with tempfile.TemporaryDirectory() as name:
        for kind in kinds:
            tuned: dict[str, Figures] = {}
            for each in questions:
                job = prepare(kind, each, Path(name) / f"job-{kind}-{each}", python, options)
                result, part, figures = measured(job, tuned, last=each == questions[-1])
                print(part, flush=True)
                results.append(result)
                text += part
                kept[f"{kind}, {each}"] = figures
    head = f"# SFT against TRL\n\n{machine()}- TRL 1.16.0; {options.threads} thread each; {options.clock} seconds\n"
    path = write("sft", head + ("" if options.quick else aims(results)) + text)
    path.with_suffix(".json").write_text(json.dumps(kept, indent=1))
    print(path)


def measured(job: Job, tuned: dict[str, Figures], last: bool) -> tuple[Result, str, dict[str, Any]]:
    """One model on one data set: what came out, its part of the report, and the figures as they go into a file.

    `tuned`: how fast the peer is in each setting, on the model's first data set; tried now where it is empty. Factors
    are measured on its `last` one.
    """
    quick = job.options.quick
    losses = first_loss(job)
    print(f"{job.kind}, {_questions(job.each)}: first loss {losses}", file=sys.stderr)
    first = not tuned
    if first:
        tuned |= {next(iter(PARTS)): Figures(1, 1, 1, 1)} if quick else tune(job)
    best = max(tuned, key=lambda setting: tuned[setting].speed)
    found = race(job, best)
    rows = factors(job, found["peer"].speed, best) if last and not quick else []
    part = markdown(_title(job, losses), job.tokens, tuned if first and not quick else {}, found, rows, not quick)
    result = Result.of(job.kind, job.each, job.tokens, found)
    found |= {side: asdict(found[side]) for side in ("ours", "peer")}
    kept = {"first_loss": losses, "tuned": {k: asdict(v) for k, v in tuned.items()}, **found, "factors": rows}
    return result, part, kept


if __name__ == "__main__":
    main()
