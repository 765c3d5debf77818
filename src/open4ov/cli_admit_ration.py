"""The command `open4ov admit ration`; parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from open4ov.errors import UserError


def ration(
    recipe: Annotated[Path, typer.Argument(help="the YAML file with the model, `sft` and `admission.ration`")],
    stable: Annotated[
        Path, typer.Option(metavar="DIR", help="the stable version (open4ov data version), or an import")
    ],
    new: Annotated[list[Path], typer.Option(metavar="DIR", help="new data; may be given several times")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="where ratio, page and new version go; the same command goes on there")
    ],
    verdict: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="what `open4ov admit assess` wrote of the new data; one for each of them"),
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="new data that was not admitted too")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override an option")] = None,
    json_: Annotated[bool, typer.Option("--json", help="events as JSON lines on stdout, ratio.json last")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Find how much new data the next training cycle takes, and make the next stable version of both."""
    from open4ov import pipeline
    from open4ov.progress import JsonLines, Quiet, Terminal
    from open4ov.recipe import load
    from open4ov.run_dir import read_json
    from open4ov.stages.ration import admit

    if json_ and quiet:
        raise UserError("--json and --quiet contradict each other; give one of them")
    if verdict and anyway:
        raise UserError("--verdict has no effect with --anyway; give one of them")
    chosen = load(recipe, set_ or ())
    reporter = JsonLines() if json_ else Quiet() if quiet else Terminal()
    pipeline.run(chosen, out, reporter, stages=admit(chosen, stable, new, verdict or (), anyway))
    found = read_json(out / "ration" / "ratio.json") or {}
    if json_:
        print(json.dumps({"event": "ratio", **found}, ensure_ascii=False))
        return
    print(f"ratio {found['name']}: {found['ended']}; {found['tokens']['used']:,} of {found['tokens']['grid']:,} tokens")
    print(out / "ration" / "ration.html")
    print(out / "ration" / "stable")
