"""The commands of the label tree: `labels check`, `review`, `apply` and `coverage`; parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from open4ov.errors import UserError
from open4ov.run_dir import writing

app = typer.Typer(help="The label tree: check it, have a model extend it, review it, see its coverage.",
                  no_args_is_help=True)  # fmt: skip

Labels = Annotated[Path | None, typer.Option(metavar="FILE", help="the label tree; the shipped one if not given")]


@app.command()
def check(
    labels: Annotated[Path | None, typer.Argument(metavar="FILE", help="a label tree; the shipped one if none")] = None,
    against: Annotated[Path | None, typer.Option(metavar="FILE", help="the tree that it follows")] = None,
) -> None:
    """Check a label tree, and that its ids changed only with its version."""
    from open4ov.data.labels import AXES, check_successor, load

    tree = load(labels)
    if against is not None:
        check_successor(load(against), tree, str(labels or "labels.yaml"))
    for axis in AXES:
        print(f"{axis}: {len(tree.axis(axis))} L1, {sum(len(l1.l2) for l1 in tree.axis(axis))} L2")
    print(f"version {tree.version}, ids {tree.digest()}")


@app.command()
def review(
    out: Annotated[Path, typer.Option(metavar="DIR", help="where review.csv and review.html go")],
    labels: Labels = None,
    recipe: Annotated[
        Path | None, typer.Option(help="have the role `labels` of this recipe propose L2 labels; none if not given")
    ] = None,
    under: Annotated[
        list[str] | None, typer.Option(metavar="AXIS:ID", help="propose under this L1 only; may be given several times")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="most proposals for an L1")] = 12,
    like: Annotated[float, typer.Option(min=0, max=1, help="cosine of names from which proposals are merged")] = 0.85,
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="show the coverage of this run beside it")] = None,
) -> None:
    """Write the label review: a page to look at, and a CSV in which to keep, drop, merge, rename or move."""
    from open4ov.data import labels_expand, labels_review
    from open4ov.data.labels import AXES, load

    tree = load(labels)
    with writing(out):  # told before a model is asked
        out.mkdir(parents=True, exist_ok=True)
    expanded = labels_expand.Expanded()
    if recipe is not None:
        from open4ov.mllm.ask import Asker
        from open4ov.recipe import load as load_recipe

        known = [f"{axis}:{l1.id}" for axis in AXES for l1 in tree.axis(axis)]
        for name in under or ():
            if name not in known:
                raise UserError(f"--under {name}: no such L1; known: {', '.join(known)}")
        section = load_recipe(recipe).data
        asker = Asker(section, place=out)
        expanded = labels_expand.expand(asker, tree, asker.embedder.texts, under or (), limit, like)
    elif under:
        raise UserError("--under has no effect without --recipe, which names who proposes")
    covered = _coverage(run) if run else None
    with writing(out):
        file = labels_review.write(out, tree, expanded, covered)
    print(f"{len(expanded.proposed)} proposed, {len(expanded.merged)} merged, {len(expanded.refused)} not usable")
    if file.name != "review.csv":
        print(f"{out / 'review.csv'} is another review, and stays as it is")
    print(f"look at {file.with_suffix('.html')}, edit {file}, then: open4ov labels apply {file}")


@app.command()
def apply(
    reviewed: Annotated[Path, typer.Argument(metavar="CSV", help="a reviewed review.csv")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="where the new tree goes")],
    labels: Labels = None,
) -> None:
    """Make the next label tree of a reviewed CSV; contradictory edits are refused, naming their rows."""
    from open4ov.data import labels_import
    from open4ov.data.labels import dump, load
    from open4ov.store import atomic

    tree = load(labels)
    new = labels_import.apply(tree, reviewed)
    with writing(out), atomic(out) as path:
        path.write_text(dump(new), encoding="utf-8")
    print(f"{out}: version {new.version} (was {tree.version}), {len(new.ids())} ids (were {len(tree.ids())})")


@app.command()
def coverage(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run directory, or the folder of its stage `data`")],
    json_: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Which labels have how many images, topics and samples; which images fell to Others."""
    from open4ov.data.coverage import text

    found = _coverage(run)
    print(json.dumps(found, ensure_ascii=False) if json_ else text(found))


def _coverage(run: Path) -> dict[str, Any]:
    files = [file for file in (run / "data" / "report.json", run / "report.json") if file.is_file()]
    try:
        return cast("dict[str, Any]", json.loads(files[0].read_text("utf-8"))["coverage"])
    except (IndexError, OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{run}: holds no finished stage `data` with a coverage report; run its recipe first") from None
