"""`open4ov sft`: the stages of curriculum SFT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from open4ov.errors import UserError, nearest

app = typer.Typer()


@app.command()
def sft(
    recipe: Annotated[Path, typer.Option(help="the YAML file of the run")],
    out: Annotated[Path, typer.Option(help="the run directory; the same command goes on where a run has stopped")],
    stage: Annotated[str, typer.Option(help="knowledge, ability or preference: go no further")] = "preference",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override an option")] = None,
    json_: Annotated[bool, typer.Option("--json", help="events as JSON lines on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Train the stages of curriculum SFT, with what they are made from."""
    from open4ov import pipeline
    from open4ov.progress import JsonLines, Quiet, Terminal
    from open4ov.recipe import load
    from open4ov.recipe_blend import ONE_STAGE
    from open4ov.recipe_sft import STAGES

    if stage not in STAGES:
        raise UserError(f"--stage {stage}: there is no such stage{nearest(stage, STAGES)}")
    if json_ and quiet:
        raise UserError("--json and --quiet contradict each other; give one of them")
    chosen = load(recipe, set_ or ())
    if (schedule := chosen.sft.schedule) in ONE_STAGE and stage != STAGES[0]:
        raise UserError(f"--stage {stage}: sft.schedule is {schedule}, which has one stage; give --stage {STAGES[0]}")
    reporter = JsonLines() if json_ else Quiet() if quiet else Terminal()
    pipeline.run(chosen, out, reporter, f"sft_{stage}")
    if not json_:
        print(out / f"sft_{stage}" / "model")
