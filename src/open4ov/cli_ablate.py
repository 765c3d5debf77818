"""The command `open4ov ablate`; parse, call, print."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from open4ov.errors import UserError

if TYPE_CHECKING:
    from open4ov.ablate.claims import Claims

app = typer.Typer()


@app.command()
def ablate(
    context: typer.Context,
    claims: Annotated[Path, typer.Argument(metavar="FILE", help="the claims (recipes/claims.yaml)")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="where the runs go, and the table; out/NAME if not given")
    ] = None,
    only: Annotated[str | None, typer.Option(metavar="NAME,NAME", help="these claims; all if not given")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="0,1,2", help="the file's if not given")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="seeds at once; as many as there are cores for, if not given")
    ] = None,
    scale: Annotated[
        float, typer.Option(min=0.001, help="multiplies the tokens of SFT, the steps of RL and the pairs of DPO")
    ] = 1.0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override an option of all arms")
    ] = None,
    begin: Annotated[
        list[Path] | None, typer.Option("--from", metavar="DIR", help="a run whose finished stages may be taken")
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(metavar="FILE[#NAME]", help="a document whose part between the two markers (NAME's) is replaced"),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="say what is claimed and how it is checked; run nothing")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="count runs and stages; change nothing")] = False,
    table: Annotated[bool, typer.Option("--table", help="run nothing; the table of what is there, as it is")] = False,
    json_: Annotated[bool, typer.Option("--json", help="the figures as JSON on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Check the paper's claims: each by runs with a part of the paradigm and without it, several seeds, paired.

    The same command goes on where it was. Stages that several runs have in common are made once.
    """
    from open4ov.ablate import claims as reading
    from open4ov.ablate import plan as planning
    from open4ov.ablate import table as writing
    from open4ov.ablate.arms import check_extra

    if list_ + dry_run + table > 1:
        raise UserError("--list, --dry-run and --table exclude one another; give one of them")
    _check_read(context, "list_" if list_ else "dry_run" if dry_run else "table" if table else "")
    read = reading.read(claims)
    names = [name for name in (only or "").split(",") if name]
    if list_:
        rows = planning.listed(read.chosen(names))
        print(json.dumps(rows, ensure_ascii=False, indent=1) if json_ else _listing(rows))
        return
    check_extra(set_ or ())
    place, given = out or Path("out") / read.told.name, _given(begin)
    wanted = _seeds(seeds)
    if into is not None:
        writing.check_place(into)
    options: dict[str, Any] = {"only": names, "seeds": wanted, "scale": scale, "extra": set_ or ()}
    if dry_run:
        _count(read, place, given, options, json_)
        return
    planning.prepared(read, read.chosen(names), place / planning.SETS)
    plan = planning.plan(read, place, **options)
    failures = {} if table else _run(plan, jobs, given, quiet or json_)

    from open4ov.ablate import outcome
    from open4ov.about import in_words
    from open4ov.run_dir import writing as writable
    from open4ov.store import atomic, write_json

    found = outcome.report(plan, failures)
    made_by = in_words(shlex.join(["open4ov", *sys.argv[1:]]))
    text = writing.to_markdown(found, made_by)
    with writable(place):
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / "claims.json", found.data())
        with atomic(place / "claims.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
    if into is not None:
        if not any(one.findings for one in found.outcomes):
            raise UserError(f"--into {into}: none of these claims has been run in {place}; the document stays as it is")
        writing.put(into, text)
    print(json.dumps(found.data(), ensure_ascii=False, indent=1) if json_ else text)
    if not (quiet or json_):
        told = ", ".join(f"{count} {name}" for name, count in writing.counts(found).items())
        print(f"open4ov: {told}; {place / 'claims.md'}", file=sys.stderr)
    if failures:
        raise UserError(f"{len(failures)} runs failed; the same command tries them again:\n" + "\n".join(
            f"  {name}, seed {seed}: {message}" for (name, seed), message in failures.items()))  # fmt: skip


UNREAD = {
    "list_": ("which runs nothing", ("out", "seeds", "jobs", "scale", "set_", "begin", "into")),
    "dry_run": ("which counts and trains nothing", ("jobs", "into")),
    "table": ("which runs nothing and links no stages", ("jobs", "begin")),
}
"""Of each mode: what it is, and the options that it does not read"""


def _check_read(context: typer.Context, mode: str) -> None:
    """Raises UserError for options that have no effect in a mode (none: a run)."""
    if not mode:
        return
    flags = {one.name: one.opts[0] for one in context.command.params}
    why, unread = UNREAD[mode]
    given = [name for name in unread if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if given:
        first, last = ", ".join(flags[name] for name in given[:-1]), flags[given[-1]]
        said, them = (f"{first} and {last} have", "them") if first else (f"{last} has", "it")
        raise UserError(f"{said} no effect with {flags[mode]}, {why}; leave {them} out, or {flags[mode]}")


def _run(plan: Any, jobs: int | None, given: list[Path], silent: bool) -> dict[tuple[str, int], str]:
    from open4ov.ablate.running import Runner
    from open4ov.run_dir import alone

    threads = max((run.arm.recipe.threads or 1 for run in plan.runs), default=1)
    count = jobs or max(1, min(len(plan.seeds), (os.cpu_count() or 1) // threads))

    def tell(text: str) -> None:
        if not silent:
            print(f"open4ov: {text}", file=sys.stderr, flush=True)

    try:
        with alone(plan.out):
            return Runner(plan, count, tell, given).run()
    except KeyboardInterrupt:
        print(f"open4ov: stopped; the same command goes on from here ({plan.out})", file=sys.stderr)
        raise


def _count(claims: Claims, place: Path, given: list[Path], options: dict[str, Any], json_: bool) -> None:
    """What a command would do. Sets that are not there yet are made in a temporary folder."""
    from open4ov.ablate import plan as planning

    with tempfile.TemporaryDirectory(prefix="open4ov-") as elsewhere:
        sets = place / planning.SETS
        if claims.told.prepare and not sets.is_dir():
            sets = Path(elsewhere)
            planning.prepared(claims, claims.chosen(options["only"]), sets)
        plan = planning.plan(claims, place, **options, sets=sets)
        found = planning.counted(plan, given)
    names = list(dict.fromkeys(run.arm.name for run in plan.runs))
    if json_:
        print(json.dumps({"event": "dry_run", "seeds": list(plan.seeds), "arms": names, **found.data()}))
        return
    print(f"{found.text()}. Nothing was changed.\narms: {', '.join(names)}\nseeds: {', '.join(map(str, plan.seeds))}")


def _listing(rows: list[dict[str, Any]]) -> str:
    lines: list[str] = []
    for row in rows:
        how = f"not run: {row['not_run']}"
        if row["not_run"] is None:
            against = f"{', '.join(row['arms'])} against {', '.join(row['controls'])}"
            wants = [*row["better"], *(f"{name} not worse by {by:g}" for name, by in row["kept"].items())]
            wants += [f"{row['sooner']} with fewer tokens"] if row["sooner"] else []
            how = f"{against}: {', '.join(wants)}"
        elif row["measured_by"]:
            how += f" (measured by {row['measured_by']})"
        lines.append(f"{row['name']}  {row['section']}\n  {row['claim']}\n  {how}")
    return "\n\n".join(lines)


def _seeds(text: str | None) -> list[int]:
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise UserError(f"--seeds {text}: expected whole numbers, each once, such as 0,1,2")
    return [int(part) for part in parts]


def _given(runs: list[Path] | None) -> list[Path]:
    for run in runs or ():
        if not (run / "run.json").is_file():
            raise UserError(f"--from {run}: is no run directory (no run.json)")
    return list(runs or ())
