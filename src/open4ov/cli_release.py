"""The command `open4ov export`; parse, call, print."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from open4ov.errors import UserError, nearest

app = typer.Typer()


@app.command("export")
def export_(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run directory")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="where to write the release; new or empty")],
    precision: Annotated[
        str, typer.Option(help="of the weights: bf16, fp32, or int8 and fp8 as vLLM reads them (compressed-tensors)")
    ] = "bf16",
    model: Annotated[
        str | None, typer.Option(metavar="STAGE", help="whose model (the last of the run, if not given)")
    ] = None,
    data: Annotated[bool, typer.Option("--data/--no-data", help="with the data sets it was trained on")] = True,
    name: Annotated[str | None, typer.Option(help="what the cards call it; else by the recipe")] = None,
    licence: Annotated[
        str | None, typer.Option(help="of the weights, as the Hugging Face hub names it; else the base's")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="the base's id on the hub, for the card")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="the record as JSON on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="say nothing but errors")] = False,
) -> None:
    """Write what one would publish of a run: weights, model card, data sets with cards, checksums."""
    from open4ov.release.export import export, summary
    from open4ov.release.model_card import Told
    from open4ov.release.weights import PRECISIONS

    for chosen in PRECISIONS:
        if chosen == precision:
            break
    else:
        raise UserError(f"--precision {precision}: no such precision{nearest(precision, PRECISIONS)}")
    if base_model is not None and not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", base_model):
        raise UserError(f"--base-model {base_model}: give OWNER/NAME, as on the Hugging Face hub")
    if licence is not None and not re.fullmatch(r"[a-z0-9.-]{1,40}", licence):
        raise UserError(f"--licence {licence}: give a name of the hub's list, such as apache-2.0 or other")
    called = name or _name(run)
    if not called.isprintable() or len(called) > 100:
        raise UserError(f"--name {called[:100]!r}: give at most 100 letters that can be printed")
    told = Told(called, chosen, licence, base_model)
    record = export(
        run,
        out,
        told,
        model=model,
        with_data=data,
        tell=lambda text: None if json_ or quiet else print(f"open4ov: {text}", file=sys.stderr, flush=True),
    )
    if json_:
        print(json.dumps(record, ensure_ascii=False))
    elif not quiet:
        print(summary(record, out))
    if not json_:
        for line in record["missing"]:
            print(f"open4ov: not in this release: {line}", file=sys.stderr)


def _name(run: Path) -> str:
    from open4ov.release.source import Source

    return f"open4ov-{Source(run).name}"
