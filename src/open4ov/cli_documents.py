"""The command `open4ov data documents`; parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def documents(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="PDF...", help="PDF files, folders of them, or MinerU's content_list.json")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="the same command goes on where it has stopped")],
    recipe: Annotated[
        Path | None, typer.Option(help="whose data.providers play the role documents; no model is asked without one")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override an option")] = None,
    questions: Annotated[int, typer.Option(min=1, max=20, help="most questions a model writes about a figure")] = 3,
    max_pages: Annotated[int, typer.Option(min=0, help="pages of a document that are read; 0: all")] = 0,
    max_pixels: Annotated[int, typer.Option(min=100_000, max=40_000_000, help="of a page's picture")] = 8_000_000,
    ocr: Annotated[bool, typer.Option(help="read scanned pages")] = True,
    page_seconds: Annotated[float, typer.Option(min=1, help="a page that takes longer is passed over")] = 120.0,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Make image-question-answer samples from documents: figures, captions, printed questions (paper §4.1.1)."""
    from open4ov.documents.build import build
    from open4ov.documents.extract import Settings
    from open4ov.errors import UserError
    from open4ov.mllm.ask import Asker
    from open4ov.progress import Quiet, Terminal
    from open4ov.recipe import load
    from open4ov.run_dir import alone

    if set_ and recipe is None:
        raise UserError("--set has no effect without --recipe; give both, or neither")
    chosen = load(recipe, set_ or ()).data if recipe is not None else None
    settings = Settings(max_pages=max_pages, max_pixels=max_pixels, ocr=ocr, page_seconds=page_seconds)
    with alone(out):  # before the asker, whose budget takes over what a killed process had reserved
        asker = Asker(chosen, place=out) if chosen is not None else None
        report = build(inputs, out, settings, asker, questions, Quiet() if quiet else Terminal())
    if report["counts"]["left out"] == report["counts"]["documents"]:
        why = "; ".join(f"{one['file']}: {one['reason']}" for one in report["documents"][:3])
        more = (
            f"; ... (all are listed in {out / 'report.json'})"
            if len(report["documents"]) > 3
            else f" ({out / 'report.json'})"
        )
        raise UserError(f"no document could be read: {why}{more}")
    told = {**report["counts"], "rejected_for": report["rejected"]}
    if "costs" in report:
        told["costs"] = report["costs"]["total"]
    print(json.dumps(told, ensure_ascii=False, indent=1))
