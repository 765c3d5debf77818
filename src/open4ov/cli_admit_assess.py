"""`open4ov admit assess`: a short training on new data, and whether they may be trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from open4ov.errors import UserError


def assess(
    recipe: Annotated[Path, typer.Argument(help="the YAML file of a run: admission.assess, sft and the base model")],
    new: Annotated[
        Path, typer.Option(metavar="DATA", help="the new data: an import, a run directory, a stage's folder")
    ],
    out: Annotated[Path, typer.Option(help="where verdict, page and feedback go; the same command goes on there")],
    probe: Annotated[
        Path | None, typer.Option(metavar="DATA", help="a trusted set with questions of the vertical")
    ] = None,
    general: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="the general set, to replay and (split val) to ask; else a run's, or drawn"),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override an option")] = None,
    json_: Annotated[bool, typer.Option("--json", help="the verdict as JSON on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Assess new data: train the base on a few of them, and ask both models the same held-out questions.

    Leaves verdict.json, failures.html, feedback.yaml and answers.jsonl. Exit code 0: admit, 1: undecided or reject.
    """
    from open4ov.formats.convert import located
    from open4ov.graph import seed_everything
    from open4ov.progress import Quiet, Terminal
    from open4ov.recipe import load
    from open4ov.run_dir import alone
    from open4ov.stages.assess import assess, draw_general, gather
    from open4ov.store import ImageStore, read_samples
    from open4ov.versions import Stores

    overrides = [*(set_ or ()), *([f"admission.assess.probe={json.dumps(str(probe))}"] if probe else ())]
    chosen = load(recipe, overrides)
    if not chosen.admission.assess.tokens:
        raise UserError("admission.assess.tokens is 0, which turns the assessment off; give it with --set")
    file, store = located(new)
    samples = read_samples(file)
    stores = [store]
    if general is None and (file.parent / "general.parquet").is_file():
        others = read_samples(file.parent / "general.parquet")
    elif general is not None:
        path, theirs = located(general)
        others, stores = read_samples(path), [*stores, theirs]
    else:
        others = None
    reporter = Quiet() if quiet or json_ else Terminal()

    def progress(what: str, done: float, total: float) -> None:
        reporter.progress("assess", what, done, total)

    with alone(out):
        seed_everything(chosen)
        pictures = Stores(ImageStore(out / "image-store"), *stores)
        try:
            reporter.started("assess", 1, 1)
            if others is None:
                others = draw_general(chosen, pictures, progress)
            given = gather(chosen, samples, others, pictures, chosen.seed, new.name or str(new), progress=progress)
            for line in given.warnings:
                reporter.note("assess", line)
            told = assess(chosen, given, out, out / ".work", chosen.seed, progress)
            for line in told["warnings"][len(given.warnings) :]:
                reporter.note("assess", line)
            shutil.rmtree(out / ".work")
        finally:
            reporter.close()
    if json_:
        print(json.dumps(told, ensure_ascii=False))
    else:
        print(told["why"])
        print(out / "failures.html")
    raise typer.Exit(0 if told["verdict"] == "admit" else 1)
