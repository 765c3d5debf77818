"""Does a part of RL do what it is for? A recipe with it and without, several seeds, paired. See `--help`.

    python -m bench.ablations_rl --out out/ablations-rl [--only pass_k,tis] [--seeds 0,1,2] [--jobs 1] [--from RUN]

As `bench.ablations`, whose second half it is: an arm is a run of one recipe with overrides, and all arms of a seed
begin with one model, that of stage 3 of SFT, which is made once for a seed and linked into the others. `--from` takes a
finished run of the same recipe (the demo's) for the first seed, as far as that model. Questions are paired by seed and
question; what only the training knows (entropy, dead groups) is paired by seed, with Student's interval.

An arm whose options this version's recipe does not know is left out and named; the others run. An interrupted run goes
on where it was. Threads are set from outside (OMP_NUM_THREADS): the keys of linked stages stay as they are.

Expected, from the stage times of the demo on two cores that do nothing else (the whole has not been run yet): 11
minutes for the model that the arms of a seed begin with (none with `--from`), 3.5 minutes for an arm (RL 166 s, then
questions); 16 arms and 3 seeds about 3 hours. `--set rl.steps=12` halves an arm's training.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import ablation_choices
from bench.ablation_figures import FIGURES, Difference, of_run, paired
from bench.ablations import RECIPE, Ablation, Arm, share
from bench.measure import machine, write
from open4ov.errors import UserError
from open4ov.evaluate.compare import against, answers
from open4ov.evaluate.scores import summarise
from open4ov.recipe import load

EVALUATED = ("base", "sft_knowledge", "sft_ability", "sft_preference")
START = (
    *("images", "data", "sets", "preference_set"),
    *("sft_knowledge", "sft_ability", "sft_preference"),
    *(f"evaluate_{model}" for model in EVALUATED),
)
"""What all arms of a seed have in common"""
ROLLED = (*START, "rl_pool", "rl", "evaluate_rl")
SETS = "{sets}"
"""Stands in an override for the folder with the set of multiple choice (`ablation_choices.py`)"""
_CHOICES = (f"rl.pool.sources=[{{kind: set, path: {SETS}}}]", "rl.pool.queue=0", "rl.text_share=0")
"""Trains on multiple choice about pictures, and on nothing else"""
_PLAIN = ("rl.length_weight=0",)
"""Without the length channel, where the weights of the others are compared"""


def _arm(*overrides: str, until: str = "evaluate_rl", like: str = "start", shares: tuple[str, ...] = START) -> Arm:
    return Arm(overrides, until, like, shares)


ARMS: dict[str, Arm] = {
    "start": Arm((), "evaluate_sft_preference"),
    "recipe": _arm(),
    "pass_1": _arm("rl.pass_k=1", "rl.pass_k_share=1"),
    "pass_4": _arm("rl.pass_k=4", "rl.pass_k_share=1"),
    "diverse": _arm("rl.pass_k_share=0", *_PLAIN),
    "uniform": _arm("rl.pass_k_share=0", "rl.diversity.floor=1", *_PLAIN),  # max(Div, 1) = 1
    "any_length": _arm(*_PLAIN),
    "int8_tis": _arm("rl.rollout.weights=int8", "rl.rollout.tis=always"),
    "int8": _arm("rl.rollout.weights=int8", "rl.rollout.tis=never"),
    "oversampled": _arm("rl.oversampling.enabled=true"),
    "dpo": _arm(until="evaluate_dpo", like="recipe", shares=ROLLED),
    "tower_trained": _arm("rl.freeze_vision=false"),
    "screened": _arm("rl.leakage.rollouts=8"),
    "no_text": _arm("rl.text_share=0"),
    "filtered": _arm("rl.filter.rollouts=4"),
    "cloze": _arm(*_CHOICES, "rl.pool.cloze=true"),
    "letters": _arm(*_CHOICES, "rl.pool.cloze=false"),
}
_REASONING = ("reasoning", "reasoning_pass_k", "diversity", "length", "reasoning_greedy")
_KEPT = ("general", "vertical", "text")

ABLATIONS: dict[str, list[Ablation]] = {
    "pass_k": [
        Ablation("Pass@4, then diversity, against Pass@1 only", "recipe", "pass_1"),
        Ablation("Pass@4 throughout against Pass@1 only", "pass_4", "pass_1"),
    ],
    "diversity": [Ablation("eq. 9 weighted by diversity against unweighted, no length reward", "diverse", "uniform")],
    "length": [Ablation("length reward against none", "recipe", "any_length")],
    "tis": [
        Ablation("INT8 rollouts with TIS against rollouts by the weights themselves", "int8_tis", "recipe"),
        Ablation("INT8 rollouts without TIS against rollouts by the weights themselves", "int8", "recipe"),
        Ablation("INT8 rollouts with TIS against without", "int8_tis", "int8"),
    ],
    "oversampling": [Ablation("Ratio-EMA oversampling against none", "oversampled", "recipe")],
    "dpo": [Ablation("DPO after RL against RL alone", "dpo", "recipe")],
    "tower": [Ablation("tower frozen against trained", "recipe", "tower_trained")],
    "leakage": [Ablation("leakage screen against none", "screened", "recipe")],
    "cloze": [Ablation("multiple choice turned into open questions against kept", "cloze", "letters")],
    "text": [Ablation("a fifth of the prompts without a picture against none", "recipe", "no_text")],
    "filter": [Ablation("prompts with right and wrong rollouts only, against all", "filtered", "recipe")],
}
ROWS: dict[str, tuple[str, ...]] = {
    "dpo": (*_KEPT, "reasoning_greedy", "missing_image", "absent", "mismatch", "context"),
    "tower": (*_KEPT, "naming", "colour", "counting", "reading", "position", "comparing", "charts", "reasoning"),
}
"""Rows of an evaluation that an ablation is asked about, where they are others than these:"""
ROWS_OF_ALL = (*_REASONING, *_KEPT)
IN_POINTS = {"diversity", "length"}
"""Rows that are counts, not shares"""


def unknown(names: Sequence[str], extra: Sequence[str]) -> dict[str, str]:
    """Arm -> what this version's recipe does not know of its options; only arms with such. Raises UserError for an arm
    that is at fault in another way."""
    found: dict[str, str] = {}
    for name in names:
        try:
            load(RECIPE, [*told_to(name, Path("sets")), *extra])
        except UserError as error:
            told = [line for line in str(error).splitlines() if "unknown key" in line]
            if not told:
                raise UserError(f"arm {name}: {error}") from None
            found[name] = "; ".join(told)
    return found


def told_to(name: str, sets: Path) -> list[str]:
    """The overrides of an arm, with the folder of the set of multiple choice."""
    return [one.replace(SETS, str(sets)) for one in ARMS[name].overrides]


def needed(ablations: Sequence[Ablation]) -> list[str]:
    """The arms of the ablations, each after the one that it is like."""
    found: dict[str, None] = {}

    def add(name: str) -> None:
        if (before := ARMS[name].like) is not None:
            add(before)
        found[name] = None

    for ablation in ablations:
        add(ablation.arm)
        add(ablation.control)
    return list(found)


def run_arm(name: str, seed: int, out: Path, threads: int, extra: Sequence[str]) -> None:
    """Brings one arm of one seed up to date. Raises RuntimeError with the run's own message when it fails."""
    arm, place = ARMS[name], out / f"seed-{seed}" / name
    if arm.like is not None:
        share(place, arm, place.parent / arm.like)
    command = [sys.executable, "-m", "open4ov.cli", "run", str(RECIPE), "--out", str(place), "--until", arm.until]
    overrides = told_to(name, out / "sets")
    if overrides != list(arm.overrides):
        ablation_choices.write(out / "sets")
    command += [word for one in (f"seed={seed}", *overrides, *extra) for word in ("--set", one)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{name}, seed {seed}: {done.stderr.strip()}")
    print(f"seed {seed}: {name}", file=sys.stderr, flush=True)


def run_seed(names: Sequence[str], seed: int, out: Path, threads: int, extra: Sequence[str]) -> None:
    for name in names:
        run_arm(name, seed, out, threads, extra)


def take(run: Path, seed: int, out: Path) -> None:
    """Links the stages of a finished run that the arms of `seed` begin with. Raises UserError when it has none."""
    if not (run / "sft_preference" / "stage.json").exists():
        raise UserError(f"--from {run}: has no finished stage sft_preference")
    share(out / f"seed-{seed}" / "start", Arm((), "", None, START), run)


def table(asked: dict[str, list[Ablation]], seeds: Sequence[int], out: Path) -> str:
    """What came out, as Markdown."""
    chosen = [one for ablations in asked.values() for one in ablations]
    places = {name: [out / f"seed-{seed}" / name for seed in seeds] for name in needed(chosen) if name != "start"}
    found = {name: [of_run(run, ARMS[name].model) for run in runs] for name, runs in places.items()}
    rows = list(dict.fromkeys(row for name in asked for row in ROWS.get(name, ROWS_OF_ALL)))
    lines = ["## Arms\n", f"| arm | {' | '.join(rows)} |", "|---|" + "---|" * len(rows)]
    for name, runs in places.items():
        results = summarise(answers(runs, ARMS[name].model), 0.95)
        scores = {**results["suites"], **results["groups"]}
        lines.append(f"| {name} | {' | '.join(_shown(row, scores[row]['score'], '') for row in rows)} |")
    lines += ["", f"| arm | {' | '.join(FIGURES)} |", "|---|" + "---|" * len(FIGURES)]
    for name, figures in found.items():
        means = [sum(one[f] for one in figures) / len(figures) if f in figures[0] else None for f in FIGURES]
        lines.append(f"| {name} | {' | '.join('' if mean is None else f'{mean:.4g}' for mean in means)} |")
    lines += ["", *(f"- {name}: {about}" for name, about in FIGURES.items())]
    lines += ["\n## Differences, points or counts\n", "| question | row | difference | 95 % interval |"]
    lines.append("|---|---|---|---|")
    for name, ablations in asked.items():
        for one in ablations:
            arm, control = ARMS[one.arm], ARMS[one.control]
            apart = against(places[one.arm], arm.model, places[one.control], control.model)
            lines += [
                f"| {one.question} | {row} | {_shown(row, apart[row]['score'], '+')} | "
                f"{_shown(row, apart[row]['low'], '+')} to {_shown(row, apart[row]['high'], '+')} |"
                for row in ROWS.get(name, ROWS_OF_ALL)
            ]
            for figure in FIGURES:
                mine, theirs = ([run[figure] for run in found[arm] if figure in run] for arm in (one.arm, one.control))
                if mine and len(mine) == len(theirs):
                    lines.append(f"| {one.question} | {figure}, by seed | {_interval(paired(mine, theirs))} |")
    return "\n".join(lines) + "\n"


def _shown(row: str, value: float, sign: str) -> str:
    return f"{value:{sign}.2f}" if row in IN_POINTS else f"{100 * value:{sign}.1f}"


def _interval(found: Difference) -> str:
    return f"{found.mean:+.4g} | {found.low:+.4g} to {found.high:+.4g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the runs go")
    parser.add_argument("--only", default=",".join(ABLATIONS), help=f"of {', '.join(ABLATIONS)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at once; each has its share of the cores")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of all arms")
    parser.add_argument("--from", type=Path, dest="begin", help="a finished run of the recipe, for the first seed")
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name]
    if strange := sorted(set(only) - ABLATIONS.keys()):
        parser.error(f"--only {strange[0]}: one of {', '.join(ABLATIONS)}")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    try:
        left_out = unknown(needed([one for name in only for one in ABLATIONS[name]]), options.set)
        asked = {
            name: kept
            for name in only
            if (kept := [one for one in ABLATIONS[name] if not {one.arm, one.control} & left_out.keys()])
        }
        told = [f"- arm {name} is left out: this version has no such option ({why})" for name, why in left_out.items()]
        print("\n".join(told), file=sys.stderr)
        if not asked:
            parser.error("no ablation is left")
        if options.begin:
            take(options.begin, seeds[0], options.out)
    except UserError as error:
        parser.error(str(error))
    names = needed([one for ablations in asked.values() for one in ablations])
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        extra = tuple(options.set)
        for done in [pool.submit(run_seed, names, seed, options.out, threads, extra) for seed in seeds]:
            done.result()
    text = f"# Ablations of RL, seeds {options.seeds}\n\n{machine()}"
    text += "\n".join(["", *told, "", table(asked, seeds, options.out)])
    print(text)
    print(write("ablations-rl", text), file=sys.stderr)


if __name__ == "__main__":
    main()
