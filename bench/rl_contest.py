"""How `python -m bench.rl` and `python -m bench.dpo` are held: for each model and length of prompts the first step of
both sides, the peer's settings tried one by one, then turns of one step; and what is written of it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.measure import machine, write
from bench.rl_job import Job
from bench.rl_report import Figures
from bench.sft import environment
from bench.sft_pace import Worker

COMPILED = "; compiled"
"""Behind the name of a setting: with compiled blocks"""

First = dict[str, dict[str, float]]
"""What the first step of each side gave, by name"""


@dataclass(frozen=True)
class Contest:
    """`name`: of the result's file; `title`: its head, with the peer's name and version; `settings`: the peer's, by
    name; `phases`: what a step's seconds are made of."""

    name: str
    title: str
    settings: Sequence[str]
    phases: tuple[str, ...]
    prepare: Callable[[Job], None]
    """Writes the work into a job's folder"""
    first: Callable[[Job], First]
    """Raises AssertionError where the sides do not compute the same"""
    try_out: Callable[[Job, str], Worker]
    """A peer with that setting, for two steps"""
    sides: Callable[[Job, str], dict[str, Worker]]
    """Both sides, "ours" first, the peer with that setting"""
    steps: Callable[[Job], int]
    """Timed steps"""
    told: Callable[[Job, First, Mapping[str, Figures], str, Mapping[str, Figures]], str]
    """Markdown of a job: its first step, the settings that were tried, the one that was taken, and the figures"""
    operations: Callable[[Job], Any]


def hold(contest: Contest, options: argparse.Namespace) -> None:
    """Runs it and writes `bench/results/`. Raises AssertionError as `Contest.first`."""
    python = environment(options.venv)
    torch.set_num_threads(options.threads)
    text = f"# {contest.title}; {options.threads} thread each; {options.clock} seconds\n"
    kept: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for kind in options.only:
            setting, tuned = contest.settings[0], dict[str, Figures]()
            for ratio in options.ratios:
                job = Job.prepare(kind, ratio, Path(name) / f"{kind}-{ratio}", python, options)
                contest.prepare(job)
                first = contest.first(job)
                print(f"{kind}, {ratio} x: first step {first}", file=sys.stderr)
                shown: dict[str, Figures] = {}
                if not tuned and not options.quick:  # once for a model, at its first length
                    shown = tuned = tune(contest, job)
                    setting = min(tuned, key=lambda one: tuned[one].whole)
                found = race(contest, job, setting)
                part = contest.told(job, first, shown, setting, found)
                print(part, flush=True)
                text += part
                kept[f"{kind} {ratio}"] = {
                    "first": first,
                    "setting": setting,
                    "tuned": {key: asdict(value) for key, value in shown.items()},
                    "operations": contest.operations(job),
                    **{side: asdict(figures) for side, figures in found.items()},
                }
    path = write(contest.name, text)
    path.with_suffix(".json").write_text(json.dumps(kept, indent=1))
    print(path)


def head(title: str, peer: str) -> str:
    """A result's head: what against what, the machine, the peer and its version."""
    return f"{title}\n\n{machine()}- {peer}"


def plain(setting: str) -> tuple[str, bool]:
    """A setting without what says that blocks are compiled, and whether they are."""
    return setting.removesuffix(COMPILED), setting.endswith(COMPILED)


def tune(contest: Contest, job: Job) -> dict[str, Figures]:
    """A step of the peer in each setting, after one that warms up; with --compile the best of them compiled, too."""
    found: dict[str, Figures] = {}

    def tried(name: str) -> None:
        worker, found[name] = contest.try_out(job, name), Figures(phases=contest.phases)
        worker.block(1)
        found[name].add(worker.block(1), job.options.clock)
        worker.close()
        print(f"  TRL, {name}: {found[name].whole:.1f} s", file=sys.stderr)

    for name in contest.settings:
        tried(name)
    if job.options.compile:
        tried(f"{min(found, key=lambda name: found[name].whole)}{COMPILED}")
    return found


def race(contest: Contest, job: Job, setting: str) -> dict[str, Figures]:
    """All sides train, in turns of one step. The first warms up: its memory counts, its seconds do not."""
    sides = contest.sides(job, setting)
    figures = {side: Figures(phases=contest.phases) for side in sides}
    for number in range(contest.steps(job) + 1):
        for side, worker in sides.items():
            report = worker.block(1)
            if number:
                figures[side].add(report, job.options.clock)
            else:
                figures[side].peak = report["peak"]
    for worker in sides.values():
        worker.close()
    return figures
