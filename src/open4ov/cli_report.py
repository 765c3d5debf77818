"""`open4ov report`: the report of a run in whatever state, two runs side by side, and figures as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from open4ov.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from open4ov.report.comparison import Side
    from open4ov.report.found import Found

app = typer.Typer(help="Reports: of a run in whatever state, of two side by side, and figures.", no_args_is_help=True)
Run = Annotated[Path, typer.Argument(metavar="RUN", help="a run directory, finished or not")]


@app.command()
def make(
    run: Run,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="the page (RUN/report.html, if not given)")] = None,
) -> None:
    """Write the report of what there is of a run: half-written, of an older version, or without its pictures."""
    from open4ov.report import content, page

    found = _found(run)
    html = page.page(found, content.gather(found))
    path = out or run / "report.html"
    _write(path, html)
    for problem in found.problems:
        typer.echo(f"partial: {problem}", err=True)
    print(path)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="a run directory")],
    second: Annotated[Path, typer.Argument(metavar="B", help="another one, or the same with another --with")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="the page")] = Path("compare.html"),
    model: Annotated[str | None, typer.Option(help="which model of A (the last evaluated one, if not given)")] = None,
    other: Annotated[str | None, typer.Option("--with", help="which model of B (as --model, if not given)")] = None,
    json_: Annotated[bool, typer.Option("--json", help="the differences on stdout, for a program")] = False,
) -> None:
    """Two runs side by side: paired differences with intervals, and the cases where they part."""
    from open4ov.report import comparison
    from open4ov.report.table import difference_lines

    one, two = comparison.folders(first, second)
    a = comparison.side(_found(first), model, "A", one)
    b = comparison.side(_found(second), other or model, "B", two)
    told = comparison.compare(a, b, lambda both: _differences(a, b, both))
    _write(out, comparison.page(a, b, told))
    if json_:
        kept = ("titles", "direction", "confidence", "shared", "alone", "fixed", "broken", "rows", "spread", "options")
        print(json.dumps({key: told[key] for key in kept}, ensure_ascii=False))
        return
    found = {row["name"]: row["difference"] for row in told["rows"] if row["difference"]}
    print(*told["titles"], sep="\n")
    print(f"\n{told['direction']}, paired on {told['shared']} questions:\n")
    print(difference_lines(told["table"], found, told["direction"]))
    print(f"\n{out}")


@app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Option(metavar="DIR", help="where to write the figures")],
    format_: Annotated[Literal["both", "svg", "png"], typer.Option("--format", help="of the files")] = "both",
) -> None:
    """Write every figure of a report as files for a paper: SVG (text as outlines) and PNG (200 dots an inch)."""
    from open4ov.report import content
    from open4ov.report.drawing import FORMATS

    found = _found(run)
    figures = content.gather(found).figures
    if not figures:
        raise UserError(f"{run}: has nothing yet that a figure could show")
    try:
        out.mkdir(parents=True, exist_ok=True)
        made = [path for one in figures.values() for path in one.save(out, FORMATS if format_ == "both" else [format_])]
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}; give another --out") from None
    for problem in found.problems:
        typer.echo(f"partial: {problem}", err=True)
    for path in made:
        print(path)


def _found(root: Path) -> Found:
    from open4ov.graph import VERSION
    from open4ov.report.found import of_directory

    return of_directory(root, _expected(root), VERSION)


def _expected(root: Path) -> list[str] | None:
    """The stages of the recipe that a run was made with; None when this version does not understand it."""
    from pydantic import ValidationError

    from open4ov.pipeline import graph
    from open4ov.recipe import Recipe
    from open4ov.run_dir import read_json

    told: Any = (read_json(root / "run.json") or {}).get("recipe")
    try:
        return [stage.name for stage in graph(Recipe.model_validate(told)).needed(None)]
    except (ValidationError, UserError):
        return None


def _differences(first: Side, second: Side, both: Sequence[str]) -> dict[str, dict[str, float]]:
    """The second's scores minus the first's on the questions that both were asked."""
    from open4ov.evaluate.scores import differences, read_answers

    asked = set(both)
    mine, theirs = (
        [
            row
            for row in read_answers(side.found.inputs[f"evaluate_{side.model}"] / "answers.parquet")
            if row.id in asked
        ]
        for side in (second, first)
    )
    return differences(mine, theirs, first.results["confidence"])


def _write(path: Path, html: str) -> None:
    from open4ov.store import atomic

    try:
        with atomic(path) as temporary:
            temporary.write_text(html, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}; give another --out") from None
