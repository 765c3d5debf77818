"""`open4ov run --iterations`: several rounds of a recipe, each planned by the one before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from open4ov.errors import UserError
from open4ov.recipe_loop import LEANING

if TYPE_CHECKING:
    from open4ov.loop.plan import Kind
    from open4ov.progress import Reporter
    from open4ov.recipe import Recipe

Given = Literal["adaptive", "fixed"]


def kind_of(iterations: int | None, plan: str | None, until: str | None, recipe: Recipe) -> Kind | None:
    """The kind of plan, None for a run without rounds. Raises UserError for options that contradict one another or have
    no effect."""
    if iterations is None:
        if plan is not None:
            raise UserError("--plan has no effect without --iterations; give both, or neither")
        if recipe.loop.model_fields_set:
            key = min(recipe.loop.model_fields_set)
            raise UserError(f"loop.{key}: has no effect without --iterations; give it, or remove the section loop")
        return None
    if until is not None:
        raise UserError("--until has no effect with --iterations: a round that is not whole says nothing for a plan")
    if plan not in (None, "adaptive", "fixed"):
        raise UserError(f"--plan {plan}: there is no such kind of plan; known: adaptive, fixed")
    if plan == "fixed" and (idle := [f"loop.{key}" for key in LEANING if key in recipe.loop.model_fields_set]):
        have, them = ("have", "them") if len(idle) > 1 else ("has", "it")
        raise UserError(
            f"{', '.join(idle)}: {have} no effect with --plan fixed, which leans on nothing; leave {them} out here "
            f"(--set gives {them} to the adaptive rounds alone)"
        )
    return "fixed" if plan == "fixed" else "adaptive"


def go(recipe: Recipe, out: Path, iterations: int, kind: Kind, reporter: Reporter, retry: bool) -> bool:
    """Runs the rounds, on as many processes as there are; whether this is the one that speaks."""
    from open4ov import together
    from open4ov.loop import rounds

    rounds.check(recipe, iterations)
    return together.run(
        recipe,
        out,
        reporter,
        retry=retry,
        work=lambda crew: rounds.run(recipe, out, iterations, kind, reporter, retry, crew),
    )


def dry_run(recipe: Recipe, out: Path, iterations: int, kind: Kind, json_: bool) -> None:
    """Prints what would be done in each round that has a plan already, and changes nothing."""
    from open4ov import dry_run
    from open4ov.loop import applied, plan, rounds

    rounds.check(recipe, iterations)
    for number in range(1, iterations + 1):
        here = applied.place(out, number)
        planned = None
        if number > 1:
            if not (here / plan.FILE).exists():
                told = f"round {number}: planned when round {number - 1} is finished"
                print(json.dumps({"event": "dry_run", "round": number, "planned": False}) if json_ else told)
                continue
            planned, _ = plan.read(here / plan.FILE)
        chosen = applied.recipe_of(recipe, out, planned)
        found = dry_run.look(chosen, here, graph=rounds.graph(recipe, chosen, out, number, planned))
        if json_:
            print(json.dumps({"event": "dry_run", "round": number, "plan": kind, **found.data()}, ensure_ascii=False))
        else:
            print(f"round {number}:\n{found.text()}\n")


def show(out: Path) -> None:
    """The rounds so far."""
    print((out / "rounds.md").read_text(encoding="utf-8"))
