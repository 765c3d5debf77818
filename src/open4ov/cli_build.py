"""The command `open4ov data build`; parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer()


@app.command()
def build(
    recipe: Annotated[Path, typer.Option(metavar="FILE", help="the YAML file of the run")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="the run directory; the same command goes on")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="images, or an import; the recipe's images.vertical if not given")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override an option")] = None,
    json_: Annotated[bool, typer.Option("--json", help="events as JSON lines on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
    retry_unanswered: Annotated[
        bool, typer.Option("--retry-unanswered", help="ask again what got no answer in a finished stage")
    ] = False,
) -> None:
    """Make judged samples of a folder of images: the stages `images` and `data` of a recipe, and no training.

    `open4ov run` with the same recipe, --set images.vertical=DIR and the same --out goes on from there.
    """
    from open4ov import pipeline
    from open4ov.errors import UserError
    from open4ov.progress import JsonLines, Quiet, Terminal
    from open4ov.recipe import load

    if json_ and quiet:
        raise UserError("--json and --quiet contradict each other; give one of them")
    given = list(set_ or ())
    if images is not None:
        if any(one.partition("=")[0].strip() == "images.vertical" for one in given):
            raise UserError("--images and --set images.vertical name the images twice; give one of them")
        if not images.is_dir():
            raise UserError(f"--images {images}: is not a folder; name a folder of images, or one that import made")
        given.append(f"images.vertical={json.dumps(str(images), ensure_ascii=False)}")
    reporter = JsonLines() if json_ else Quiet() if quiet else Terminal()
    pipeline.run(load(recipe, given), out, reporter, until="data", retry=retry_unanswered)
    if not json_:
        print(json.dumps(_told(out / "data" / "report.json"), ensure_ascii=False, indent=1))


def _told(path: Path) -> dict[str, Any]:
    """Counts, why what fell out did so, and what it took, out of a report."""
    from open4ov.data.report import fallen_out

    report = json.loads(path.read_text(encoding="utf-8"))
    told = {**report["counts"], "left_out": fallen_out(report)}
    if "costs" in report:
        told |= {"costs": report["costs"]["total"], "cost_per_kept": report["cost_per_kept"]["money"]}
    return told
