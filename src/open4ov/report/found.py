"""What there is of a run, and what is not: folders of stages, their files, and a sentence for each fault.

The stage `report` of a whole run reads strictly: a fault is an error. A run directory that a user points at may be half
written, of an older version, or without its pictures: there the report is of what is there, and says what is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import jinja2

from open4ov.errors import UserError
from open4ov.report.pictures import Pictures
from open4ov.run_dir import read_json
from open4ov.store import ImageStore

FAULTS = (
    KeyError, TypeError, ValueError, AttributeError, IndexError, OSError, ZeroDivisionError, jinja2.UndefinedError
)  # fmt: skip
"""What files of another shape raise when they are read or shown (pyarrow's and JSON's own errors are ValueErrors or
OSErrors)"""
FOLDERS = {"report", "rollouts", "image-store"}
"""Folders of a run directory that no section of the report is made from"""

Made = TypeVar("Made")


@dataclass
class Found:
    """A run as the report finds it. `problems`: what makes the report partial, a sentence each."""

    name: str
    recipe: Mapping[str, Any]
    inputs: dict[str, Path]
    pictures: Pictures
    strict: bool = True
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """run.json: versions, machine, commit; empty in the stage, whose bytes do not depend on them"""
    problems: list[str] = field(default_factory=list[str])

    def json(self, stage: str, file: str) -> Any:
        """The content of a stage's JSON file; None where there is no such stage, or (not strict) no sound file."""
        if stage not in self.inputs:
            return None
        return self.part(f"{stage}/{file}", lambda: json.loads((self.inputs[stage] / file).read_text("utf-8")), stage)

    def part(self, title: str, make: Callable[[], Made], stage: str | None = None) -> Made | None:
        """What `make` gives; where that fails and this is not strict, None, and a sentence about it. `stage`: the one
        whose file it only reads, so that a fault is the file's."""
        if self.strict:
            return make()
        try:
            return make()
        except FileNotFoundError as error:
            missing = Path(str(error.filename)) if error.filename else Path("a file")
            told = f"{missing.parent.name}/{missing.name}: missing"
            if told not in self.problems:
                self.problems.append(
                    told if told.startswith(f"{title}:") else f"{title}: left out, {missing.name} is missing"
                )
        except FAULTS as error:
            told = " ".join(str(error).split()) or "nothing is said"
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            anew = "run the recipe into a new --out"
            if stage is not None:
                anew = f"delete the folder {stage}/, and `open4ov run` with the same recipe and --out makes it again"
            self.problems.append(f"{title}: left out, damaged or of another version ({kind}{told}); {anew}")
        return None

    def finish(self) -> None:
        """Notes what came to light while the report was made."""
        if missing := len(self.pictures.missing):
            pictures = "picture is" if missing == 1 else "pictures are"
            self.problems.append(
                f"{missing} {pictures} not in image-store, or changed since; the questions are shown without"
            )


def of_directory(root: Path, expected: Sequence[str] | None, version: str) -> Found:
    """A run directory in whatever state. `expected`: the stages of its recipe (None: not known, as the recipe is of
    another version); `version`: of open4ov. Raises UserError for a folder that is no run directory."""
    if not (root / "run.json").is_file():
        raise UserError(f"{root}: is no run directory (no run.json); give the folder that `open4ov run` wrote (--out)")
    about = read_json(root / "run.json")
    told: Any = (about or {}).get("recipe")
    recipe = cast("dict[str, Any]", told) if isinstance(told, dict) else {}
    name = str(recipe.get("name") or root.resolve().name)
    inputs = {
        folder.name: folder
        for folder in sorted(root.iterdir())
        if folder.is_dir() and folder.name not in FOLDERS and not folder.name.startswith(".")
        and not folder.name.endswith(".failed") and (folder / "stage.json").is_file()
    }  # fmt: skip
    inputs = _in_order(inputs, expected or ())
    pictures = Pictures(ImageStore(root / "image-store"))
    found = Found(name, recipe, inputs, pictures, strict=False, about=about or {})
    if not recipe:
        found.problems.append(
            "run.json is damaged: recipe, versions and machine are not known, nor which stages are missing; "
            "`open4ov run` with the recipe into a new --out makes the run anew"
        )
    found.problems += _unfinished(root, inputs, [] if not recipe else expected)
    found.problems += _versions(inputs, version)
    for stage, folder in inputs.items():
        found.problems += _files(stage, folder)
    return found


def _in_order(inputs: Mapping[str, Path], expected: Sequence[str]) -> dict[str, Path]:
    """As the run made them: as its recipe has them, and those that it does not name each after what it is made from."""
    made_from: dict[str, set[str]] = {}
    for stage, folder in inputs.items():
        told: Any = (read_json(folder / "stage.json") or {}).get("inputs")
        made_from[stage] = set(cast("dict[str, Any]", told)) if isinstance(told, dict) else set()
    placed = [stage for stage in expected if stage in inputs]
    rest = [stage for stage in inputs if stage not in placed]
    while rest:
        ready = (stage for stage in rest if not made_from[stage] & set(rest))
        placed.append(next(ready, rest[0]))
        rest.remove(placed[-1])
    return {stage: inputs[stage] for stage in placed}


def _unfinished(root: Path, inputs: Mapping[str, Path], expected: Sequence[str] | None) -> list[str]:
    told: list[str] = []
    if expected is None:
        told.append(
            "the recipe in run.json is of another version of open4ov: which stages are missing cannot be said; "
            "`open4ov run` with the recipe, as this version has it, into a new --out makes the run anew"
        )
    missing = [name for name in expected or () if name not in inputs and name not in FOLDERS]
    for folder in sorted(root.glob("*.failed")):
        failed = folder.name.removesuffix(".failed")
        reason = (read_json(folder / "failed.json") or {}).get("reason", "it does not say why")
        told.append(f"{failed}: refused to go on ({reason}); what it made is in {folder.name}")
    if missing:
        told.append(
            f"not finished: {', '.join(missing)}; `open4ov run` with the same recipe and --out goes on from there"
        )
    return told


def _versions(inputs: Mapping[str, Path], version: str) -> list[str]:
    made_by: dict[str, list[str]] = {}
    told: list[str] = []
    for stage, folder in inputs.items():
        record = read_json(folder / "stage.json")
        if record is None:
            told.append(f"{stage}/stage.json: damaged; time and memory of the stage are not known")
        elif (maker := str(record.get("open4ov", "an unnamed version"))) != version:
            made_by.setdefault(maker, []).append(stage)
    for maker, stages in made_by.items():
        told.append(
            f"made by open4ov {maker}, this is {version}: {', '.join(stages)}; what has another shape is left out. "
            "`open4ov run` with its recipe into a new --out makes the run anew"
        )
    return told


def _files(stage: str, folder: Path) -> list[str]:
    """Files that stage.json names and that are gone or have another size. Weights are no part of a report."""
    listed: Any = (read_json(folder / "stage.json") or {}).get("files")
    told: list[str] = []
    for name, facts in cast("dict[str, Any]", listed).items() if isinstance(listed, dict) else ():
        if name.partition("/")[0] == "model":
            continue
        try:
            size = (folder / name).stat().st_size
        except OSError:
            told.append(f"{stage}/{name}: missing")
            continue
        if isinstance(facts, dict) and size != cast("dict[str, Any]", facts).get("bytes"):
            told.append(f"{stage}/{name}: has another size than when the stage ended")
    return told
