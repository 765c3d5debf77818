"""What came out: of each claim its conditions, effects, verdict and cost, as data for the table and for programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from open4ov import changes, functions
from open4ov.ablate import figures, reach, verdict
from open4ov.ablate.claims import ClaimSection
from open4ov.ablate.effects import Measured, effect, unit
from open4ov.ablate.plan import Plan, Run
from open4ov.ablate.running import Failures
from open4ov.ablate.sharing import begun
from open4ov.ablate.verdict import Verdict
from open4ov.errors import UserError
from open4ov.evaluate.compare import answers
from open4ov.evaluate.scores import GROUPS, per_item
from open4ov.evaluate.statistics import holm
from open4ov.run_dir import Place, read_json

SCHEMA = 1
Measure = Callable[[str, int], Measured | str]
"""(arm, seed) -> what its run has, or why it has nothing"""


@dataclass(frozen=True)
class Finding:
    """One condition and what was found. Values in the row's own `unit`; `kind` `sooner`: the share of the control's
    tokens that the arm needs. `p` is None where there is no test."""

    row: str
    kind: str
    unit: str
    margin: float
    value: float
    low: float
    high: float
    p: float | None
    questions: int
    verdict: Verdict
    small: bool = False

    def data(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in self.__dict__.items()}


@dataclass(frozen=True)
class Outcome:
    """A claim. `reason`: why it was not run, or why it stays undecided whatever the intervals say; else empty. `cost`:
    what a run of each arm spent, the mean over seeds."""

    name: str
    claim: ClaimSection
    verdict: Verdict
    reason: str = ""
    findings: list[Finding] = field(default_factory=list[Finding])
    seeds: tuple[int, ...] = ()
    cost: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])

    def data(self) -> dict[str, Any]:
        told = self.claim.model_dump(mode="json", exclude={"not_run"})
        findings = [finding.data() for finding in self.findings]
        return {"name": self.name, "verdict": self.verdict, "reason": self.reason, "seeds": list(self.seeds), **told,
                "conditions": findings, "cost": self.cost}  # fmt: skip


@dataclass(frozen=True)
class Report:
    """All claims, in the file's order. `arms`: of each that was run its mean scores over seeds, by row. `adjusted`:
    (claim, row) -> p by Holm's method over all tests. `notes`: what a reader must know of the runs."""

    name: str
    recipe: str
    confidence: float
    outcomes: list[Outcome]
    arms: dict[str, dict[str, float]]
    adjusted: dict[tuple[str, str], float]
    notes: list[str]

    def data(self) -> dict[str, Any]:
        """claims.json."""
        adjusted = [{"claim": claim, "row": row, "p": round(p, 6)} for (claim, row), p in self.adjusted.items()]
        return {"schema": SCHEMA, "name": self.name, "recipe": self.recipe, "confidence": self.confidence,
                "claims": [one.data() for one in self.outcomes], "arms": self.arms, "holm": adjusted,
                "notes": self.notes}  # fmt: skip


def report(plan: Plan, failures: Failures) -> Report:
    """The table's content out of what the runs have left. Claims whose runs are not there are `not run`."""
    notes: dict[str, None] = {}

    @cache
    def measured(name: str, seed: int) -> Measured | str:
        """What a run has, or why it has nothing."""
        run = plan.of(name, seed)
        if message := failures.get((name, seed)):
            return f"{name} failed with seed {seed} ({message.splitlines()[0]})"
        place = _where(run)
        if place is None:
            return f"{name} has not been run with seed {seed}"
        commit = (read_json(place / "run.json") or {}).get("commit")
        notes[f"runs begun at commit {str(commit)[:12]}" if commit else "runs of no known commit"] = None
        if other := _other(run, place):
            notes[other] = None
        try:
            return measure(run, place)
        except UserError as error:
            return f"{name}, seed {seed}: {error}"

    outcomes = [_outcome(plan, name, claim, measured) for name, claim in plan.chosen.items()]
    tests = {
        (one.name, found.row): found.p
        for one in outcomes
        for found in one.findings
        if found.p is not None and len(one.seeds) >= verdict.LEAST
    }
    adjusted = holm({f"{claim}\n{row}": p for (claim, row), p in tests.items()})
    told = plan.claims.told
    return Report(
        told.name,
        told.recipe,
        told.confidence,
        outcomes,
        _arms(plan, measured),
        {key: adjusted["\n".join(key)] for key in tests},
        list(notes),
    )


def _where(run: Run) -> Path | None:
    """The folder with the evaluation: the run's own, else a neighbour's that has made the very same; None without."""
    if (run.place / run.arm.until / "answers.parquet").exists():
        return run.place
    stages = run.graph.needed(run.arm.until)
    others = begun(run.place.parent)
    return next((one for one in others if len(run.graph.finished(stages, run.arm.recipe, one)) == len(stages)), None)


def measure(run: Run, place: Path) -> Measured:
    """What `place` has of a run. Raises UserError for an evaluation that is damaged."""
    same = functions.function(run.arm.recipe.evaluate.equivalence, "evaluate.equivalence")
    stages = [stage.name for stage in run.graph.needed(run.arm.until)]
    return Measured(
        run.arm.seed,
        per_item(answers([place], run.arm.model), same),
        figures.of_run(place, run.arm.model, stages),
        figures.spent(place, stages),
    )


def _arms(plan: Plan, measured: Measure) -> dict[str, dict[str, float]]:
    """Arm -> row, group or figure -> its value, the mean over the seeds that were run (and have the figure)."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(run.arm.name for run in plan.runs):
        told = [one for seed in plan.seeds if isinstance(one := measured(name, seed), Measured)]
        rows: dict[str, list[float]] = {}
        for one in told:
            means = {row: _mean(of.values()) for row, of in one.scores.items()}
            for row in [*means, *(group for group, of in GROUPS.items() if means.keys() >= set(of.of))]:
                value = means[row] if row in means else _mean(means[part] for part in GROUPS[row].of)
                rows.setdefault(row, []).append(value)
            for figure, value in one.figures.items():
                rows.setdefault(figure, []).append(value)
        if told:
            found[name] = {row: round(_mean(values), 6) for row, values in rows.items()}
    return found


def _outcome(plan: Plan, name: str, claim: ClaimSection, measured: Measure) -> Outcome:
    if claim.not_run is not None:
        return Outcome(name, claim, "not run", claim.not_run)
    arms = [*claim.arms, *claim.controls]
    lacking: list[str] = []
    seeds: list[int] = []
    for seed in plan.seeds:
        missing = [told for arm in arms if isinstance(told := measured(arm, seed), str)]
        lacking += missing
        if not missing:
            seeds.append(seed)
    why = "; ".join(dict.fromkeys(lacking))
    if not seeds:
        return Outcome(name, claim, "not run", why)
    runs = {arm: [one for seed in seeds if isinstance(one := measured(arm, seed), Measured)] for arm in arms}
    cost = {arm: {key: _mean(run.spent[key] for run in of) for key in figures.BUDGETS} for arm, of in runs.items()}
    try:
        findings = _sooner(claim, runs, plan) if claim.sooner else _compared(claim, runs, plan)
    except UserError as error:
        return Outcome(name, claim, "not run", str(error), [], tuple(seeds), cost)
    said, reason = verdict.together([finding.verdict for finding in findings]), why
    if len(seeds) < verdict.LEAST:
        reason = "; ".join(filter(None, [reason, f"{len(seeds)} seeds, and {verdict.LEAST} are needed"]))
    pairs = zip(claim.arms, claim.controls, strict=True)
    if apart := "; ".join(filter(None, (verdict.unequal(claim.equal, runs[a], runs[b]) for a, b in pairs))):
        said, reason = "undecided", "; ".join(filter(None, [reason, f"unequal budgets: {apart}"]))
    return Outcome(name, claim, said, reason, findings, tuple(seeds), cost)


def _compared(claim: ClaimSection, runs: Mapping[str, list[Measured]], plan: Plan) -> list[Finding]:
    mine, theirs = runs[claim.arms[0]], runs[claim.controls[0]]
    found: list[Finding] = []
    for one in verdict.conditions(claim.better, claim.kept, claim.margin):
        was = effect(one.row, mine, theirs, plan.claims.told.confidence, one.null)
        found.append(
            Finding(one.row, one.kind, unit(one.row), one.margin, was.value, was.low, was.high, was.p, was.questions,
                    verdict.decided(one, was), verdict.small(one, was))
        )  # fmt: skip
    return found


def _sooner(claim: ClaimSection, runs: Mapping[str, list[Measured]], plan: Plan) -> list[Finding]:
    group = str(claim.sooner)
    mine, theirs = (reach.scores([runs[name] for name in names], group) for names in (claim.arms, claim.controls))
    tokens = [_mean(run.spent["tokens"] for run in runs[name]) for name in claim.arms]
    was = reach.needed(mine, theirs, tokens, plan.claims.told.confidence)
    said = verdict.reached(was.low, was.high, len(runs[claim.arms[0]]))
    count = sum(suite.shape[1] for seed in mine for suite in seed)
    return [Finding(group, "sooner", "share of tokens", 0.0, was.share, was.low, was.high, None, count, said)]


def _other(run: Run, place: Path) -> str:
    """What is said of an evaluation that was made by other options than the run's; empty when it was not."""
    stages = run.graph.needed(run.arm.until)
    finished = run.graph.finished(stages, run.arm.recipe, place)
    first = next((stage for stage in stages if stage.name not in finished), None)
    if first is None:
        return ""
    record = read_json(Place(place, first.name).final / "stage.json")
    facts = {"open4ov": (record or {}).get("open4ov"), "seed": run.arm.seed, "inputs": (record or {}).get("inputs")}
    why = (
        changes.told(record, {**facts, "config": _config(run, first.name)}) if record else f"{first.name} is not there"
    )
    told = f": {why}" if why else ""
    return f"{run.arm.name}, seed {run.arm.seed}: was made by other options than these, from {first.name} on{told}"


def _config(run: Run, stage: str) -> dict[str, Any]:
    config = run.graph.stages[stage].config(run.arm.recipe)
    return config if isinstance(config, dict) else config.model_dump(mode="json")


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _plain(value: object) -> object:
    """For JSON, which has no infinity: None."""
    if not isinstance(value, float):
        return value
    return round(value, 6) if math.isfinite(value) else None
