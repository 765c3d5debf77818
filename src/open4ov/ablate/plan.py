"""Which runs the claims need, which stages these have in common, and what of it is there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open4ov import pipeline
from open4ov.ablate.arms import Arm, Options, arm
from open4ov.ablate.claims import Claims, ClaimSection
from open4ov.ablate.sharing import begun
from open4ov.errors import UserError
from open4ov.functions import function
from open4ov.graph import Graph
from open4ov.run_dir import read_json

SETS = "sets"
"""The folder, beside those of the seeds, of what `prepare` makes"""


@dataclass(frozen=True)
class Run:
    """One arm of one seed, its folder, its stages, and what each of these will be (`Graph.identities`)."""

    arm: Arm
    place: Path
    graph: Graph
    identities: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """All runs in the order in which they are made: seed after seed, each arm after those whose stages it shares."""

    claims: Claims
    chosen: dict[str, ClaimSection]
    out: Path
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]

    def of(self, name: str, seed: int) -> Run:
        return next(run for run in self.runs if run.arm.name == name and run.arm.seed == seed)

    def of_seed(self, seed: int) -> list[Run]:
        return [run for run in self.runs if run.arm.seed == seed]


@dataclass(frozen=True)
class Counted:
    """How many stages the runs have: in all, made once because several runs share them, and there already."""

    runs: int
    stages: int
    shared: int
    finished: int
    seconds: float
    """What the missing ones would take, one after another, by the mean time of those of their name that are there"""
    untimed: int
    """Missing ones of which none of their name is there"""

    @property
    def missing(self) -> int:
        return self.stages - self.shared - self.finished

    def text(self) -> str:
        text = (
            f"{self.runs} runs of {self.stages} stages, {self.shared} of them shared with another run; "
            f"{self.finished} are there, {self.missing} are to be made"
        )
        if not self.seconds:
            return text
        left_out = f", without {self.untimed} stages that were never timed" if self.untimed else ""
        return f"{text}: {self.seconds / 3600:.1f} hours one after another{left_out}"

    def data(self) -> dict[str, int]:
        return {**self.__dict__, "missing": self.missing}


def plan(
    claims: Claims,
    out: Path,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    scale: float = 1.0,
    extra: Sequence[str] = (),
    sets: Path | None = None,
) -> Plan:
    """The runs of the claims. What their `prepare` makes must be in `sets` (see `prepared`). Raises UserError for a
    claim that is none, and for an arm that makes no recipe."""
    chosen, wanted = claims.chosen(only), tuple(seeds) or tuple(claims.told.seeds)
    folders = {name: (sets or out / SETS) / name for name in claims.told.prepare}
    options = Options(scale, tuple(extra), folders)
    names = needed(claims, chosen)
    runs: list[Run] = []
    for seed in wanted:
        for name in names:
            one = arm(claims, name, seed, options)
            graph = pipeline.graph(one.recipe)
            try:
                stages = graph.needed(one.until)
                identities = graph.identities(stages, one.recipe)
            except UserError as error:
                raise UserError(f"{claims.where(('arms', name))}: {error}") from None
            runs.append(Run(one, place_of(out, seed, name), graph, identities))
    return Plan(claims, chosen, out, wanted, tuple(runs))


def place_of(out: Path, seed: int, name: str) -> Path:
    """Where an arm of a seed lies."""
    return out / f"seed-{seed}" / name


def needed(claims: Claims, chosen: Mapping[str, ClaimSection]) -> list[str]:
    """The arms of the claims that are run, in the order of the file."""
    asked = {name for claim in chosen.values() if not claim.not_run for name in (*claim.arms, *claim.controls)}
    return [name for name in claims.told.arms if name in asked]


def prepared(claims: Claims, chosen: Mapping[str, ClaimSection], sets: Path) -> None:
    """Makes what the arms of the claims name in braces, where it is not there yet: each folder whole or not at all."""
    arms = [each for name in needed(claims, chosen) for each in claims.lineage(name)]
    said = str([claims.told.arms[name].set for name in arms] + [claims.told.set])
    for name, path in claims.told.prepare.items():
        if f"{{{name}}}" not in said or (sets / name).exists():
            continue
        make = function(path, claims.where(("prepare", name)))
        sets.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=sets) as folder:
            made = Path(folder) / name
            make(made)
            shutil.move(made, sets / name)


def counted(plan: Plan, donors: Sequence[Path] = ()) -> Counted:
    """Looks at what is there, and changes nothing. `donors`: further runs that stages may be linked from."""
    known: set[str] = set()
    took: dict[str, list[float]] = {}
    for run in plan.runs:
        stages = run.graph.needed(run.arm.until)
        for root in (run.place, *donors):
            for name in run.graph.finished(stages, run.arm.recipe, root):
                known.add(run.identities[name])
                took.setdefault(name, []).append(float((read_json(root / name / "stage.json") or {})["seconds"]))
    stages = [stage for run in plan.runs for stage in run.identities.items()]
    every = {identity: name for name, identity in stages}
    missing = [name for identity, name in every.items() if identity not in known]
    seconds = sum(sum(took[name]) / len(took[name]) for name in missing if name in took)
    untimed = sum(name not in took for name in missing)
    finished = len(every) - len(missing)
    return Counted(len(plan.runs), len(stages), len(stages) - len(every), finished, seconds, untimed)


def donors_of(out: Path, seed: int, given: Sequence[Path]) -> list[Path]:
    """Runs that the arms of a seed may take stages from: their neighbours', and those that the user names."""
    return [*begun(out / f"seed-{seed}"), *given]


def listed(chosen: Mapping[str, ClaimSection]) -> list[dict[str, Any]]:
    """Every claim with what it is checked by, for `--list`."""
    return [
        {
            "name": name,
            "claim": one.claim,
            "section": one.section,
            "arms": one.arms,
            "controls": one.controls,
            "better": one.better,
            "kept": one.kept,
            "sooner": one.sooner,
            "not_run": one.not_run,
            "measured_by": one.measured_by,
        }
        for name, one in chosen.items()
    ]
