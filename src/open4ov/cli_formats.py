"""The commands `open4ov data import`, `export` and `trace`; parse, call, print."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from open4ov.errors import UserError
from open4ov.images import MAX_PIXELS

app = typer.Typer()
_EVERY = 2.0
"""Seconds between two lines of progress."""


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="a file, or a folder of files or images")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="where to write the set; new or empty")],
    format: Annotated[
        str,
        typer.Option(
            help="auto, folder, parquet, messages, llava, sharegpt, webdataset, vlmevalkit; preference pairs: trl, "
            "openrlhf, llamafactory or swift"
        ),
    ] = "auto",
    name: Annotated[str | None, typer.Option(help="what the set is called in `source`; else by the file")] = None,
    images: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="a folder with images that rows name; several times")
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="COLUMN=FIELD", help="a column as question, answer, image, messages, ..."),
    ] = None,
    split: Annotated[
        Literal["train", "val", "test"] | None, typer.Option(help="of rows that do not say; else by the file's name")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="of rows that do not say")] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="larger images are refused")] = MAX_PIXELS,
    keep_files: Annotated[
        bool, typer.Option("--keep-files", help="keep PNG, JPEG and WebP files, metadata and all, for exports")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="stop at the first row that cannot be used")] = False,
    json_: Annotated[bool, typer.Option("--json", help="the counts as JSON on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="say nothing but errors")] = False,
) -> None:
    """Read a data set of another format into samples and an image store."""
    from open4ov.formats.convert import SKIPPED, import_set

    done = import_set(
        source,
        out,
        format,
        name=name,
        images=images or (),
        columns=dict(map(_pair, map_ or ())),
        split=split,
        licence=licence,
        max_pixels=max_pixels,
        keep_files=keep_files,
        strict=strict,
        progress=None if json_ or quiet else _progress("read"),
    )
    if json_:
        print(json.dumps({"format": done.format, "samples": done.samples, "refused": dict(done.left_out)}))
    elif not quiet:
        print(f"{out}: {done.samples} samples; format {done.format}, by {done.told_by}")
    if done.refused and not (json_ or quiet):
        some = "; ".join(done.examples) + ("; ..." if done.refused > len(done.examples) else "")
        print(f"open4ov: {done.refused} refused, all listed in {out / SKIPPED}: {some}", file=sys.stderr)


@app.command("export")
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="an import, or a run directory")],
    format: Annotated[
        str,
        typer.Option(
            help="parquet, messages, llava, sharegpt, webdataset, vlmevalkit; preference pairs: trl, openrlhf, "
            "llamafactory or swift"
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="where to write it; new or empty")],
    stage: Annotated[str | None, typer.Option(help="of a run directory: whose samples; else those of `data`")] = None,
    split: Annotated[Literal["train", "val", "test"] | None, typer.Option(help="only this one")] = None,
    name: Annotated[str | None, typer.Option(help="what the card, and a TSV, are called; else by the folder")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="stop at a sample that the format cannot hold")] = False,
    json_: Annotated[bool, typer.Option("--json", help="the counts as JSON on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="say nothing but errors")] = False,
) -> None:
    """Write samples in another format, with a dataset card."""
    from open4ov.formats.convert import export_set

    told = None if json_ or quiet else _progress("written")
    done = export_set(folder, out, format, stage=stage, split=split, name=name, strict=strict, progress=told)
    if json_:
        print(json.dumps({"format": done.format, "samples": done.samples, "left_out": dict(done.left_out)}))
    elif not quiet:
        print(f"{out}: {done.samples} samples as {done.format}, with a card (README.md)")
        for reason, count in done.left_out.items():
            print(f"open4ov: {count} left out: {reason}", file=sys.stderr)


@app.command("trace")
def trace_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a run directory, or an import")],
    id: Annotated[str, typer.Argument(metavar="ID", help="the sample's id, or enough of its beginning")],
    json_: Annotated[bool, typer.Option("--json", help="the events as JSON lines")] = False,
) -> None:
    """Tell every step of a sample's life: where it came from, labels, votes with reasons, costs, rejection."""
    from open4ov.trace import lines, trace

    events = trace(folder, id)
    for line in (json.dumps(event, ensure_ascii=False) for event in events) if json_ else lines(events):
        print(line)


def _pair(text: str) -> tuple[str, str]:
    column, equals, field = text.rpartition("=")
    if not equals or not column:
        raise UserError(f"--map {text}: write COLUMN=FIELD")
    return column, field


def _progress(word: str) -> Callable[[int], None]:
    """Says how many, not more often than every two seconds."""
    last = time.monotonic()

    def tell(count: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            print(f"{count} samples {word}", file=sys.stderr, flush=True)

    return tell
