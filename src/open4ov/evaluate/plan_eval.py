"""What the user wants evaluated, as sets to ask: built-in ones, official files by the registry, files of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from open4ov.errors import UserError, nearest
from open4ov.evaluate import built_in, tables
from open4ov.evaluate.benchmarks import Benchmark, Type, registry
from open4ov.evaluate.file_suite import FileSuite
from open4ov.evaluate.item import Suite
from open4ov.evaluate.set_eval import Plan
from open4ov.evaluate.tables import ENDINGS

SAMPLES = 8
"""Responses to an item of the built-in set `reasoning`, where --samples says nothing"""


@dataclass(frozen=True)
class Wanted:
    """The options of `open4ov eval` that say what is asked; see `cli_eval.py`."""

    suites: tuple[str, ...] = ()
    data: Path | None = None
    kind: str | None = None
    prompt: str | None = None
    folders: tuple[Path, ...] = field(default=())
    circular: bool = False
    items: int = 300
    limit: int | None = None
    samples: int = 1
    max_tokens: int | None = None
    frames: int = 16
    seed: int = 0
    confidence: float = 0.95


def plan(wanted: Wanted) -> Plan:
    """Raises UserError for names that are not known, files that cannot be asked, and options without effect."""
    if wanted.data is not None and not wanted.data.exists():
        raise UserError(f"--data {wanted.data}: no such file or folder")
    for folder in wanted.folders:
        if not folder.is_dir():
            raise UserError(f"--image-dir {folder}: is no folder")
    suites: list[Suite] = []
    not_run: dict[str, str] = {}
    own = wanted.data is not None and wanted.data.is_file()
    names = list(wanted.suites)
    if own:
        suites.append(_own(wanted, names))
    else:
        if wanted.kind is not None:
            raise UserError("--type has no effect without --data FILE")
        known = registry().benchmarks
        for name in names:
            if not built_in.expand([name]) and name not in known:
                raise UserError(f"--suite {name}: there is no such set; files of your own need --data FILE"
                                f"{nearest(name, [*built_in.MEMBERS, *built_in.NAMES, *known])}")  # fmt: skip
        if not names and wanted.data is None:
            names = ["general"]
        official = [name for name in names if name in known] or ([] if names else list(known))
        for name in official:
            found = _official(name, wanted)
            if isinstance(found, str):
                not_run[name] = found
            else:
                suites.append(found)
        samples = wanted.samples if wanted.samples > 1 else SAMPLES
        for name in built_in.expand([name for name in names if name not in known]):
            suites.append(built_in.BuiltIn(name, wanted.items, samples, wanted.seed, wanted.max_tokens))
    if not suites:
        first = "; ".join(f"{name}: {reason}" for name, reason in list(not_run.items())[:3])
        raise UserError(
            f"there is nothing to run ({first}{' ...' if len(not_run) > 3 else ''}); see open4ov eval --list"
        )
    groups = {name: members for name, members in built_in.MEMBERS.items() if name in names}
    return Plan(
        suites=suites,
        groups=groups,
        not_run=not_run,
        rotated=wanted.circular,
        confidence=wanted.confidence,
        settings=_settings(wanted),
    )


def check_vertical(plan: Plan, model: Path) -> None:
    """Raises UserError where the built-in vertical would be asked of a model whose run holds out questions of its own:
    it is another vertical's. `model`: a run directory, or a model's folder in one."""
    asked = [suite.name for suite in plan.suites if suite.name in built_in.MEMBERS["vertical"]]
    place = model.absolute()
    run = next(
        (one for one in (place, *list(place.parents)[:2]) if (one / "held_out" / "samples.parquet").is_file()), None
    )
    if asked and run is not None:
        raise UserError(
            f"--suite {asked[0]}: asks the in-car corpus, and {run} was trained on a folder's pictures; ask what it "
            f"holds out: open4ov data export {run} --stage held_out --format vlmevalkit --name own --out DIR, then "
            f"open4ov eval {model} --data DIR/own.tsv --suite own --type contains"
        )


def _own(wanted: Wanted, names: list[str]) -> FileSuite:
    path = cast(Path, wanted.data)
    if path.suffix not in ENDINGS:
        raise UserError(f"--data {path}: an evaluation file is a .tsv (VLMEvalKit's columns) or a .jsonl")
    if len(names) != 1:
        raise UserError(
            f"--data {path}: name the set with one --suite NAME: one of --list, or a name of your own with --type"
        )
    (name,) = names
    known = registry()
    if wanted.kind is None:
        if name not in known.benchmarks:
            raise UserError(
                f"--suite {name}: is not in the registry, so say what it is with --type ({', '.join(get_args(Type))}); "
                f"nothing is guessed from a file's name{nearest(name, known.benchmarks)}"
            )
        entry = known.benchmarks[name]
        if entry.not_run:
            raise UserError(f"--suite {name}: cannot be run here: {entry.not_run}")
        return _suite(name, entry, path, wanted)
    if wanted.kind not in get_args(Type):
        raise UserError(f"--type {wanted.kind}: there is no such type{nearest(wanted.kind, get_args(Type))}")
    if name in known.benchmarks or built_in.expand([name]):
        raise UserError(f"--suite {name}: has its type already; leave out --type, or give the file another name")
    return _suite(name, known.of_type(name, cast(Type, wanted.kind), path.suffix == ".jsonl"), path, wanted)


def _official(name: str, wanted: Wanted) -> FileSuite | str:
    """The set, or why it is not run."""
    entry = registry().get(name)
    if entry.not_run:
        return entry.not_run
    if wanted.data is None:
        return f"{entry.file} not there (name its folder with --data DIR)"
    path = wanted.data / entry.file
    if not path.is_file():
        return f"{entry.file} not there (in {wanted.data})"
    return _suite(name, entry, path, wanted)


def _suite(name: str, entry: Benchmark, path: Path, wanted: Wanted) -> FileSuite:
    template = wanted.prompt if wanted.prompt is not None else registry().prompt(entry.prompt)
    return FileSuite(
        name,
        entry,
        path,
        template,
        folders=wanted.folders,
        rotate=wanted.circular and entry.circular == "no",
        frames=wanted.frames,
        max_tokens=wanted.max_tokens,
        samples=wanted.samples,
        temperature=1.0 if wanted.samples > 1 else 0.0,
        seed=wanted.seed,
        limit=wanted.limit,
    )


def _settings(wanted: Wanted) -> dict[str, Any]:
    return {
        "items": wanted.items,
        "limit": wanted.limit,
        "samples": wanted.samples,
        "circular": wanted.circular,
        "seed": wanted.seed,
        "frames": wanted.frames,
    }


def _unlike(path: Path, columns: Sequence[str]) -> str:
    """Why a file is not that of its set, by its head and first row; empty where it may be."""
    try:
        next(tables.rows(path, columns), None)
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def listing(folder: Path | None) -> list[dict[str, str]]:
    """Every set of the registry, and the built-in ones: whether it can be run with the files in `folder`."""
    if folder is not None and not folder.is_dir():
        raise UserError(f"--data {folder}: is no folder; --list looks for the official files in one")
    rows: list[dict[str, str]] = []
    for name, entry in registry().benchmarks.items():
        if entry.not_run:
            state = f"not run: {entry.not_run}"
        elif folder is None:
            state = f"not run: {entry.file} not there (name its folder with --data DIR)"
        elif not (folder / entry.file).is_file():
            state = f"not run: {entry.file} not there"
        elif fault := _unlike(folder / entry.file, entry.columns):
            state = f"not run: {fault}"
        else:
            state = "can run with a judge" if entry.judged else "can run"
        rows.append(
            {
                "name": name,
                "row": entry.row,
                "table": str(entry.table or ""),
                "ability": entry.ability,
                "file": entry.file,
                "media": entry.media,
                "metric": entry.metric,
                "rule": entry.rule,
                "split": entry.split,
                "licence": entry.licence,
                "source": entry.source,
                "differs": entry.differs,
                "state": state,
            }
        )
    for group, members in built_in.MEMBERS.items():
        for name in members:
            rows.append({"name": name, "table": "", "ability": group, "file": "built in", "state": "can run"})
    return rows
