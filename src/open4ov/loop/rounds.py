"""Runs the rounds: `open4ov run RECIPE --out DIR --iterations N` (paper Fig. 1: evaluation feeds back into the data).

DIR holds

    loop.json        the recipe's options and the kind of plan that the rounds were begun with
    image-store/     the pictures of all rounds; asked/, the answers of endpoints to all rounds
    round-R/         a run directory each, with the stages `development` (questions.py) and `weaknesses` (weaknesses.py)
                     beside those of a run; from round 2 on with plan.json, plan.md and feedback.yaml
    rounds.json, rounds.md   what became of the rounds so far (result.py)

After round N the plan of round N + 1 is written too, to be read and edited; the same command with N + 1 goes on. Every
file is written whole or not at all and every round is resumed as a run is, so a kill at any moment loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel

from open4ov import changes, key_files, keys, pipeline
from open4ov.data import labels
from open4ov.errors import UserError
from open4ov.formats.convert import located
from open4ov.graph import Graph, Stage
from open4ov.loop import applied, found, plan, planning, questions, result, weaknesses
from open4ov.loop.plan import Kind, Plan
from open4ov.loop.questions import Look
from open4ov.progress import Reporter
from open4ov.recipe import Recipe
from open4ov.run_dir import Place, fingerprint, hash_json, locked, read_json
from open4ov.store import is_disk_full, sweep, write_json

if TYPE_CHECKING:
    from open4ov.parallel.crew import Crew

RECORD = result.LOOP
DEVELOPMENT, WEAKNESSES = "development", "weaknesses"
Config = Callable[[Recipe], "BaseModel | dict[str, Any]"]


def run(
    recipe: Recipe,
    root: Path,
    iterations: int,
    kind: Kind,
    reporter: Reporter,
    retry: bool = False,
    crew: Crew | None = None,
) -> None:
    """Brings `iterations` rounds up to date, and writes the plan of the one after them.

    Raises UserError for less than one round, a folder that holds something else, rounds that were begun with another
    recipe or kind of plan, and a plan that was edited and cannot be followed.
    """
    check(recipe, iterations)
    try:
        _claim(recipe, root, kind)
        with locked(root):
            sweep(root / applied.STORE)
            for number in range(1, iterations + 2):
                planned = _plan(recipe, root, number, kind, reporter) if number > 1 else None
                if number > iterations:
                    return
                here = _prepare(recipe, root, number, planned)
                reporter.note("loop", f"round {number} of {iterations}: {here}")
                chosen = applied.recipe_of(recipe, root, planned)
                stages = graph(recipe, chosen, root, number, planned)
                pipeline.run(chosen, here, reporter, stages=stages, retry=retry, crew=crew)
                result.write(recipe, root, number, kind)
    except OSError as error:
        if is_disk_full(error):
            raise UserError(f"{root}: the disk is full; free some space and give the same command again") from error
        raise


def check(recipe: Recipe, iterations: int) -> None:
    """Raises UserError for what can be seen before anything is written."""
    if iterations < 1:
        raise UserError(f"--iterations {iterations}: there is no such number of rounds; give 1 or more")
    if recipe.loop.probe:
        located(Path(recipe.loop.probe))


def graph(recipe: Recipe, chosen: Recipe, root: Path, number: int, planned: Plan | None) -> Graph:
    """The stages of a round: those of a run, the development questions before any training, and the weaknesses at the
    end. `chosen`: the round's recipe. Keys hold no path below `root`: a loop may be moved."""
    stages = list(pipeline.graph(chosen).stages.values())
    look = Look(recipe, number, planned.level if planned else None)

    def choose(_: Recipe) -> dict[str, Any]:
        return _development(look)

    def measure(_: Recipe) -> dict[str, Any]:
        asked = keys.probe(recipe)
        return {"loop": {"round": number, "level": look.level}, **asked}

    first = Stage(DEVELOPMENT, ("data", "sets"), choose, lambda run: questions.choose(run, look))
    names = {stage.name for stage in stages}
    read = tuple(name for name in ("assess", "ration", "rl") if name in names)
    last = Stage(
        WEAKNESSES, ("data", "sets", DEVELOPMENT, *read, "dpo"), measure, lambda run: weaknesses.measure(run, look)
    )
    at = next(place for place, stage in enumerate(stages, 1) if stage.name == "sets")
    ordered = [*stages[:at], first, *stages[at:], last]
    return Graph([replace(stage, config=_portable(stage.config, root)) for stage in ordered])


def _development(look: Look) -> dict[str, Any]:
    recipe = look.recipe
    files = {keys.SHIPPED: key_files.corpora()}
    if recipe.loop.probe:
        files["loop.probe"] = fingerprint([located(Path(recipe.loop.probe))[0]])
    return {
        "loop": {**recipe.loop.model_dump(include={"questions", "general_questions", "probe"}), "seed": look.seed},
        "images": recipe.images.model_dump(mode="json", include={"vertical", "general"}),
        changes.FILES: files,
    }


def _portable(config: Config, root: Path) -> Config:
    """The same options, with paths below `root` as they lie there."""

    def shown(recipe: Recipe) -> dict[str, Any]:
        told = config(recipe)
        told = told.model_dump(mode="json") if isinstance(told, BaseModel) else told
        return cast("dict[str, Any]", _relative(told, f"{root}/"))

    return shown


def _relative(value: object, root: str) -> object:
    if isinstance(value, str):
        return value.removeprefix(root)
    if isinstance(value, Mapping):
        return {key: _relative(one, root) for key, one in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_relative(one, root) for one in cast("list[object]", value)]
    return value


def _claim(recipe: Recipe, root: Path, kind: Kind) -> None:
    """Makes the loop's folder, or refuses one that holds something else or was begun otherwise."""
    record = root / RECORD
    facts: dict[str, Any] = {"seed": recipe.seed, "config": _options(recipe)}
    if record.exists():
        told = read_json(record)
        if told is None or told.get("open4ov") != "loop-1" or not isinstance(told.get("facts"), dict):
            raise UserError(f"{record}: damaged; delete {root} or give another --out")
        if told.get("name") != recipe.name:
            raise UserError(f"{record}: name: holds rounds of the recipe '{told.get('name')}'; give another --out")
        if changed := changes.told(told["facts"], facts):
            raise UserError(
                f"{record}: the rounds were begun with another recipe: {changed}. Rounds of one loop have one recipe; "
                "put it back, or give another --out"
            )
        if told.get("plan") != kind:
            raise UserError(
                f"{record}: plan: the rounds were begun with --plan {told.get('plan')}, not {kind}; give it, or "
                "another --out"
            )
        return
    if (root / "run.json").exists():
        raise UserError(
            f"{root}: holds a run without rounds (run.json); give another --out, or leave --iterations out to go on "
            "with it"
        )
    if root.exists() and (not root.is_dir() or any(path.name != ".lock" for path in root.iterdir())):
        raise UserError(f"{root}: holds no rounds (no {RECORD}), yet is not empty; give a new or empty --out")
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_json(record, {"open4ov": "loop-1", "name": recipe.name, "plan": kind, "facts": facts})
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(f"{root}: cannot be written: {error.strerror}; give another --out") from None


def _options(recipe: Recipe) -> dict[str, Any]:
    """All that the stages read of the recipe, as they read it: what only paces a run may change between rounds."""
    merged: dict[str, Any] = {"loop": recipe.loop.model_dump(mode="json")}
    for stage in pipeline.graph(recipe).stages.values():
        if stage.name != "report":  # it shows the whole recipe
            told = stage.config(recipe)
            _merge(merged, told.model_dump(mode="json") if isinstance(told, BaseModel) else told)
    return merged


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        below = into.get(key)
        if isinstance(value, Mapping) and isinstance(below, dict):
            _merge(cast("dict[str, Any]", below), cast("Mapping[str, Any]", value))
        elif isinstance(value, Mapping):
            into[key] = {}
            _merge(into[key], cast("Mapping[str, Any]", value))
        else:
            into[key] = value


def _prepare(recipe: Recipe, root: Path, number: int, planned: Plan | None) -> Path:
    """The round's folder, with the common image store and what the plan asks of data construction."""
    here, store = applied.place(root, number), root / applied.STORE
    store.mkdir(exist_ok=True)
    here.mkdir(exist_ok=True)
    if not (here / applied.STORE).exists():
        (here / applied.STORE).unlink(missing_ok=True)
        (here / applied.STORE).symlink_to(Path("..") / applied.STORE, target_is_directory=True)
    if planned is not None:
        _ask(recipe, root, planned)
    return here


def _ask(recipe: Recipe, root: Path, planned: Plan) -> None:
    applied.write_feedback(recipe, root, planned, labels.load(recipe.data.labels).version)


def _plan(recipe: Recipe, root: Path, number: int, kind: Kind, reporter: Reporter) -> Plan:
    """The plan of a round, from what the one before it was weak in: the file that is there, if it was made from the
    same, or a new one. Raises UserError for an edited one that was made from something else, or is at fault."""
    before = _earlier(root, number - 1)
    last, path = applied.place(root, number - 1), applied.place(root, number) / plan.FILE
    looked = found.read(last / WEAKNESSES / "weaknesses.json")
    expected = planning.make(looked, recipe, kind, before)
    told = [Place(last, WEAKNESSES).lineage()["digest"], recipe.loop.model_dump(mode="json"), expected.digest]
    origin = hash_json(told)
    if path.exists():
        given, lines = plan.read(path)
        if given.made is not None and given.made.origin == origin:
            plan.check(given, path, lines, expected, planning.unread_keys(recipe, looked, kind))
            if given.edited:
                reporter.note("loop", f"{path} was edited by hand, and is followed as it is")
            given.write_page(path.parent)
            return given
        if given.edited:
            raise UserError(
                f"{path}: was edited by hand, but round {number - 1} has been made anew since; delete it to have a new "
                "plan"
            )
    made = expected.write(path.parent, origin)
    _ask(recipe, root, made)
    reporter.note("loop", f"plan of round {number}: {path}")
    return made


def _earlier(root: Path, number: int) -> Plan | None:
    """The plan that a finished round has followed."""
    return None if number == 1 else plan.read(applied.place(root, number) / plan.FILE)[0]
