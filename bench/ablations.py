"""Does a part of the paradigm do what it is for? A recipe with it and without, several seeds, paired. See `--help`.

    python -m bench.ablations --out out/ablations [--only curriculum,blend] [--seeds 0,1,2] [--jobs 2]

Each arm is a run of one recipe with overrides. Arms share what they have in common: the stages up to where they part
are made once for a seed and linked into the others. All arms of a seed are asked the same questions; the differences
are paired by seed and question, with 95 % intervals (`open4ov compare` says the same of any two runs). An interrupted
run goes on where it was.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import ablation_budget
from bench.measure import machine, write
from open4ov.evaluate.compare import against, answers
from open4ov.evaluate.scores import ROWS, summarise
from open4ov.run_dir import read_json

RECIPE = Path(__file__).parents[1] / "recipes" / "in-car-nano.yaml"
SMALL_SAMPLED = ("evaluate.samples=4", "evaluate.sampled_items=60")
"""The sampled suites are not what these ablations are about"""
DATA = ("images", "data", "evaluate_base")
"""What does not hang on the options of `sft`"""
COMMON = (*DATA, "sets", "preference_set")
ROWS_SHOWN = ("general", "vertical", "text", "reasoning_greedy", "mismatch")


@dataclass(frozen=True)
class Arm:
    """A run: `overrides` of the recipe, as far as the stage `until`. `like`: the arm with which it `shares` stages."""

    overrides: tuple[str, ...]
    until: str
    like: str | None = None
    shares: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        return self.until.removeprefix("evaluate_")


@dataclass(frozen=True)
class Ablation:
    """`arm` minus `control`, and what is asked by that."""

    question: str
    arm: str
    control: str


# Harsh enough that there is something to mend: stage 1 of the blend's arms replays little. Both keep apart what the
# deficits are measured on, so that they are trained on the same sets.
_FORGETFUL = (
    "sft.held_out=0.06",
    "sft.knowledge.tokens=350_000",
    "sft.knowledge.replay=0.1",
    "sft.ability.tokens=160_000",
)
_ITERATED = ("sft.knowledge.iterations=4", "admission.mastery.samples=400")
_UNIFORM = ("admission.mastery.weights={mastered: 1, partial: 1, unmastered: 1}",)
ARMS: dict[str, Arm] = {
    "curriculum": Arm((), "evaluate_sft_preference"),
    "random_mix": Arm(("sft.schedule=random_mix",), "evaluate_sft_knowledge", "curriculum", COMMON),
    "single_stage": Arm(("sft.schedule=single_stage",), "evaluate_sft_knowledge", "curriculum", COMMON),
    "fixed": Arm((*_FORGETFUL, "sft.ability.blend=fixed"), "evaluate_sft_ability", "curriculum", DATA),
    "deficit": Arm(
        (*_FORGETFUL, "sft.ability.blend=deficit"),
        "evaluate_sft_ability",
        "fixed",
        (*DATA, "sets", "sft_knowledge", "evaluate_sft_knowledge"),
    ),
}
BUDGETS = (100_000, 200_000, 400_000)
"""Tokens of the arms that ask how soon an accuracy is reached"""
for _tokens in BUDGETS:
    _budget = (f"sft.knowledge.tokens={_tokens}",)
    ARMS[f"mastery_{_tokens // 1000}k"] = Arm((*_ITERATED, *_budget), "evaluate_sft_knowledge", "curriculum", COMMON)
    ARMS[f"uniform_{_tokens // 1000}k"] = Arm(
        (*_ITERATED, *_UNIFORM, *_budget), "evaluate_sft_knowledge", "curriculum", COMMON
    )

ABLATIONS: dict[str, list[Ablation]] = {
    "curriculum": [
        Ablation("three stages against all sets shuffled, equal tokens", "curriculum", "random_mix"),
        Ablation("three stages against one stage of the vertical and its replay, equal tokens", "curriculum",
                 "single_stage"),
    ],
    "blend": [Ablation("stage 2 blended by the measured deficits against an even blend", "deficit", "fixed")],
    "mastery": [
        Ablation(f"resampled by mastery against uniform, {size}k tokens", f"mastery_{size}k", f"uniform_{size}k")
        for size in (tokens // 1000 for tokens in BUDGETS)
    ],
}  # fmt: skip


def needed(only: list[str]) -> list[str]:
    """The arms of the ablations, each after the one that it is like."""
    found: dict[str, None] = {}

    def add(name: str) -> None:
        if (before := ARMS[name].like) is not None:
            add(before)
        found[name] = None

    for name in only:
        for ablation in ABLATIONS[name]:
            add(ablation.arm)
            add(ablation.control)
    return list(found)


def share(place: Path, arm: Arm, source: Path) -> None:
    """Links the stages that two runs have in common; what is there already stays."""
    place.mkdir(parents=True, exist_ok=True)
    for name in ("run.json", "image-store", *arm.shares):
        if not (source / name).exists() or (place / name).exists():
            continue
        if name == "run.json":
            shutil.copyfile(source / name, place / name)
        else:
            shutil.copytree(source / name, place / name, copy_function=os.link)


def command(arm: Arm, seed: int, place: Path, threads: int, extra: tuple[str, ...]) -> list[str]:
    """The command of an arm. What is overridden for all arms has the last word, `threads` too."""
    overrides = (f"seed={seed}", f"threads={threads}", *SMALL_SAMPLED, *arm.overrides)
    mine = {one.partition("=")[0] for one in extra}
    overrides = (*(one for one in overrides if one.partition("=")[0] not in mine), *extra)
    words = [sys.executable, "-m", "open4ov.cli", "run", str(RECIPE), "--out", str(place), "--until", arm.until]
    return [*words, *(word for one in overrides for word in ("--set", one)), "--quiet"]


def run_arm(name: str, seed: int, out: Path, threads: int, extra: tuple[str, ...]) -> None:
    """Brings one arm of one seed up to date. Raises RuntimeError with the run's own message when it fails."""
    arm, place = ARMS[name], out / f"seed-{seed}" / name
    if arm.like is not None:
        share(place, arm, place.parent / arm.like)
    done = subprocess.run(command(arm, seed, place, threads, extra), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}, seed {seed}: {done.stderr.strip()}")
    print(f"seed {seed}: {name}", file=sys.stderr, flush=True)


def run_seed(names: list[str], seed: int, out: Path, threads: int, extra: tuple[str, ...]) -> None:
    for name in names:
        run_arm(name, seed, out, threads, extra)


def table(only: list[str], seeds: list[int], out: Path) -> str:
    """What came out, as Markdown."""
    places = {name: [out / f"seed-{seed}" / name for seed in seeds] for name in needed(only)}
    rows = [name for name in ROWS_SHOWN if name in ROWS or name in ("general", "vertical", "text")]
    lines = ["## Arms\n", f"| arm | tokens | {' | '.join(rows)} |", "|---|---|" + "---|" * len(rows)]
    for name, runs in places.items():
        results = summarise(answers(runs, ARMS[name].model), 0.95)
        found = {**results["suites"], **results["groups"]}
        cells = [f"{100 * found[row]['score']:.1f}" if row in found else "" for row in rows]
        lines.append(f"| {name} | {_tokens_of(runs[0], ARMS[name].model):,} | {' | '.join(cells)} |")
    lines += ["\n## Differences, points\n", "| question | row | difference | 95 % interval |", "|---|---|---|---|"]
    for name in only:
        for one in ABLATIONS[name]:
            arm, control = ARMS[one.arm], ARMS[one.control]
            found = against(places[one.arm], arm.model, places[one.control], control.model)
            lines += [
                f"| {one.question} | {row} | {100 * found[row]['score']:+.1f} | "
                f"{100 * found[row]['low']:+.1f} to {100 * found[row]['high']:+.1f} |"
                for row in rows
                if row in found
            ]
    text = "\n".join(lines) + "\n"
    return text + budgets(places) if "mastery" in only else text


def budgets(places: dict[str, list[Path]]) -> str:
    """By how many tokens resampling by mastery reaches what uniform drawing has at the end; Markdown."""
    runs = {way: [places[f"{way}_{tokens // 1000}k"] for tokens in BUDGETS] for way in ("mastery", "uniform")}
    scores = {way: ablation_budget.read(found, "sft_knowledge") for way, found in runs.items()}
    tokens = [sum(_tokens_of(run, "sft_knowledge") for run in one) / len(one) for one in runs["mastery"]]
    means = {way: np.mean([[s.mean(axis=1) for s in seed] for seed in found], axis=(0, 1)).tolist()
             for way, found in scores.items()}  # fmt: skip
    return ablation_budget.markdown(means, tokens, ablation_budget.needed(scores["mastery"], scores["uniform"], tokens))


def _tokens_of(run: Path, model: str) -> int:
    """Training tokens up to a model."""
    total = 0
    for stage in ("sft_knowledge", "sft_ability", "sft_preference"):
        total += int((read_json(run / stage / "summary.json") or {"tokens": 0})["tokens"])
        if stage == model:
            break
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the runs go")
    parser.add_argument("--only", default=",".join(ABLATIONS), help=f"of {', '.join(ABLATIONS)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at once; each has its share of the cores")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of all arms")
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name]
    if unknown := sorted(set(only) - ABLATIONS.keys()):
        parser.error(f"--only {unknown[0]}: one of {', '.join(ABLATIONS)}")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    names = needed(only)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        extra = tuple(options.set)
        for done in [pool.submit(run_seed, names, seed, options.out, threads, extra) for seed in seeds]:
            done.result()
    text = f"# Ablations of SFT, seeds {options.seeds}\n\n{machine()}\n{table(only, seeds, options.out)}"
    print(text)
    print(write("ablations-sft", text), file=sys.stderr)


if __name__ == "__main__":
    main()
