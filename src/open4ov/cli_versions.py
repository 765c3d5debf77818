"""The commands `open4ov data version` and `data diff`; parse, call, print."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from open4ov.errors import UserError

if TYPE_CHECKING:
    from open4ov.sample import Sample

app = typer.Typer()


@app.command("version")
def version_(
    folder: Annotated[Path, typer.Argument(metavar="DATA", help="an import, a run directory, or a folder of samples")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="where to write it; new or empty")],
    name: Annotated[str | None, typer.Option(help="what the version is called; else by the folder")] = None,
    stage: Annotated[str | None, typer.Option(help="of a run directory: whose samples; else those of `data`")] = None,
    split: Annotated[Literal["train", "val", "test"] | None, typer.Option(help="only this one")] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the label tree of its labels; of a run, its own if not given")
    ] = None,
    note: Annotated[str, typer.Option(help="a line for the card")] = "",
    json_: Annotated[bool, typer.Option("--json", help="version.json on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="say nothing but errors")] = False,
) -> None:
    """Write a versioned data set: samples, pictures, what it is made from, and a card. It is never changed again."""
    from open4ov import versions
    from open4ov.commit import commit
    from open4ov.data.labels import load
    from open4ov.formats.convert import located

    path, pictures = located(folder, stage)
    if (path.parent / versions.RECORD).exists():
        parent = versions.check(path.parent)
        made_from = versions.Parent(name=parent.name, id=parent.id, samples=parent.samples)
        tree = parent.tree
    else:
        told = versions.describe(versions.Stored(path), folder.resolve().name or "set")
        made_from = versions.Parent(name=told.name, id=told.id, samples=told.samples)
        tree = ""
    if labels is not None:
        tree = load(labels).named
    elif not tree and (folder / "run.json").exists():
        tree = load(_labels_of(folder)).named
    wanted = (sample for sample in versions.Stored(path) if split in (None, sample.split))
    about = versions.Version(
        name=name or folder.resolve().name or "set", parents=[made_from], tree=tree, commit=commit() or "", note=note
    )
    made = versions.write(out, _some(wanted, path, split), about, pictures)
    if json_:
        print(json.dumps(made.model_dump(), ensure_ascii=False))
    elif not quiet:
        print(f"{out}: version {made.id} of {made.name}, {made.samples:,} samples, {made.images:,} pictures")


@app.command("diff")
def diff_(
    old: Annotated[Path, typer.Argument(metavar="A", help="a version, an import, or a run directory")],
    new: Annotated[Path, typer.Argument(metavar="B", help="the one that it is compared with")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="write diff.json and a page with examples (diff.html) there")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="the diff as JSON on stdout")] = False,
) -> None:
    """Tell what has changed between two data sets: by task, label, language and source."""
    from open4ov import version_diff, versions
    from open4ov.formats.convert import located
    from open4ov.run_dir import writing
    from open4ov.store import atomic, write_json

    (before, earlier), (after, later) = located(old), located(new)
    for path in (before, after):
        if (path.parent / versions.RECORD).exists():
            versions.check(path.parent)
    found = version_diff.diff(versions.Stored(before), versions.Stored(after))
    if out is not None:
        html = version_diff.page(found, _called(before), _called(after), versions.Stores(later, earlier))
        with writing(out):
            write_json(out / "diff.json", found)
            with atomic(out / "diff.html") as temporary:
                temporary.write_text(html, encoding="utf-8")
        print(f"open4ov: {out / 'diff.html'}", file=sys.stderr)
    print(json.dumps(found, ensure_ascii=False) if json_ else version_diff.to_text(found))


def _some(items: Iterable[Sample], path: Path, split: str | None) -> Iterator[Sample]:
    """The items. Raises UserError when there are none: an empty set is a mistake, told before it is written."""
    empty = True
    for item in items:
        empty = False
        yield item
    if empty:
        raise UserError(
            f"{path}: holds no sample{f' of split {split}' if split else ''}; a version of nothing is no use"
        )


def _called(path: Path) -> str:
    """What a set is called on the page: name and id of a version, else its folder."""
    from open4ov import versions

    if (path.parent / versions.RECORD).exists():
        version = versions.read(path.parent)
        return f"{version.name} {version.id}"
    return path.parent.name


def _labels_of(run: Path) -> str | None:
    """The file of a run's label tree; None for the shipped one."""
    from open4ov.run_dir import read_json

    recipe = cast("dict[str, Any]", (read_json(run / "run.json") or {}).get("recipe") or {})
    return cast("dict[str, str | None]", recipe.get("data") or {}).get("labels")
