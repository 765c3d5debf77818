"""`open4ov sft`, `open4ov rl`, `open4ov dpo`: the training stages of a run, each with what it is made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from open4ov.errors import UserError, nearest

app = typer.Typer()

RecipeFile = Annotated[Path, typer.Option(help="the YAML file of the run")]
Out = Annotated[Path, typer.Option(help="the run directory; the same command goes on where a run has stopped")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override an option")]
Json = Annotated[bool, typer.Option("--json", help="events as JSON lines on stdout")]
Quietly = Annotated[bool, typer.Option("--quiet", help="no progress")]


@app.command()
def sft(
    recipe: RecipeFile,
    out: Out,
    stage: Annotated[str, typer.Option(help="knowledge, ability or preference: go no further")] = "preference",
    set_: Set = None,
    json_: Json = False,
    quiet: Quietly = False,
) -> None:
    """Train the stages of curriculum SFT, with what they are made from."""
    from open4ov.recipe import load
    from open4ov.recipe_blend import ONE_STAGE
    from open4ov.recipe_sft import STAGES

    if stage not in STAGES:
        raise UserError(f"--stage {stage}: there is no such stage{nearest(stage, STAGES)}")
    _check(json_, quiet)
    if (schedule := load(recipe, set_ or ()).sft.schedule) in ONE_STAGE and stage != STAGES[0]:
        raise UserError(f"--stage {stage}: sft.schedule is {schedule}, which has one stage; give --stage {STAGES[0]}")
    _train(recipe, out, f"sft_{stage}", set_, json_, quiet)


@app.command()
def rl(recipe: RecipeFile, out: Out, set_: Set = None, json_: Json = False, quiet: Quietly = False) -> None:
    """Train by online RL (GSPO; Pass@k, then diversity), with what it is made from."""
    _train(recipe, out, "rl", set_, json_, quiet)


@app.command()
def dpo(recipe: RecipeFile, out: Out, set_: Set = None, json_: Json = False, quiet: Quietly = False) -> None:
    """Train by offline RL (reference-free DPO), with what it is made from."""
    _train(recipe, out, "dpo", set_, json_, quiet)


def _check(json_: bool, quiet: bool) -> None:
    if json_ and quiet:
        raise UserError("--json and --quiet contradict each other; give one of them")


def _train(recipe: Path, out: Path, stage: str, set_: list[str] | None, json_: bool, quiet: bool) -> None:
    """Brings the run up to that stage and prints where its model lies."""
    from open4ov import together
    from open4ov.progress import JsonLines, Quiet, Terminal
    from open4ov.recipe import load

    _check(json_, quiet)
    reporter = JsonLines() if json_ else Quiet() if quiet else Terminal()
    speaks = together.run(load(recipe, set_ or ()), out, reporter, stage)
    if speaks and not json_:
        print(out / stage / "model")
