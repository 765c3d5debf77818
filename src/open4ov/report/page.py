"""report.html: one self-contained page about a run, and what it shows as files (paper §6).

Reads the folders of the finished stages and nothing else. Writes report.html, table.json, and examples/ with three
test pictures and questions for `open4ov ask`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from open4ov import templates
from open4ov.report import gallery, plots, rollouts, training_sets
from open4ov.report.pool import pool
from open4ov.report.table import TITLES, build, row_named, shown, verdict
from open4ov.store import write_json

if TYPE_CHECKING:
    from open4ov.graph import StageRun

HEADLINES = ("vertical", "general", "text", "reasoning", "missing_image", "length")
TRAJECTORY = ("general", "vertical", "text", "reasoning", "reasoning_pass_k", "missing_image")
TRAININGS = {
    "sft_knowledge": "stage 1: knowledge",
    "sft_ability": "stage 2: ability remedy",
    "sft_preference": "stage 3: preference",
    "rl": "online RL",
    "dpo": "offline RL: DPO",
}


def run(run: StageRun) -> None:
    """The stage `report`: everything from the folders of its inputs."""
    results = {
        name.removeprefix("evaluate_"): read(folder / "results.json")
        for name, folder in run.inputs.items()
        if name.startswith("evaluate_")
    }
    table = build(results)
    run.progress("table", 1, 4)
    write_json(run.out / "table.json", table)
    first, *_, last = results
    pairs = gallery.pairs(run.inputs[f"evaluate_{first}"], run.inputs[f"evaluate_{last}"])
    gallery.write_examples(pairs, run.images, run.out / "examples")
    run.progress("plots", 2, 4)
    html = page(
        name=run.recipe.name,
        recipe=run.recipe.model_dump(mode="json"),
        results=results,
        table=table,
        curves={name: read(run.inputs[name] / "curve.json") for name in TRAININGS if name in run.inputs},
        data=read(run.inputs["data"] / "report.json") if "data" in run.inputs else None,
        left_out=read(run.inputs["images"] / "skipped.json") if "images" in run.inputs else (),
        stages={name: read(folder / "stage.json") for name, folder in run.inputs.items()},
        pictures=gallery.cards(pairs, run.images),
        sets=training_sets.sets(run.inputs),
        blend=training_sets.blend(run.inputs),
        rolled=rollouts.steps(run.inputs, run.images),
        tasks=pool(run.inputs),
    )
    run.progress("page", 3, 4)
    (run.out / "report.html").write_text(html)
    run.progress("done", 4, 4)


def page(
    name: str,
    recipe: Mapping[str, Any],
    results: Mapping[str, Mapping[str, Any]],
    table: Mapping[str, Any],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    data: Mapping[str, Any] | None,
    left_out: Sequence[Mapping[str, str]],
    stages: Mapping[str, Mapping[str, Any]],
    pictures: Sequence[gallery.Card],
    sets: Sequence[Mapping[str, Any]],
    blend: Mapping[str, Any] | None,
    rolled: Sequence[Mapping[str, Any]],
    tasks: Mapping[str, Any] | None = None,
) -> str:
    """The HTML of a report. Every text is escaped; pictures and plots are inside the page; it asks for nothing else."""
    environment = templates.environment("open4ov.report")
    environment.filters |= {"shown": shown, "verdict": verdict, "minutes": minutes, "gib": gib}  # pyright: ignore[reportUnknownMemberType]
    titles = {model["name"]: model["title"] for model in table["models"]}
    drawn = {stage: svg for stage, points in curves.items() if (svg := plots.curve(stage, points))}
    return environment.get_template("template.html.jinja").render(
        name=name,
        table=table,
        headlines=[row for each in HEADLINES if (row := row_named(table, each)) is not None],
        trajectory=Markup(plots.trajectory(table, TRAJECTORY)),
        abilities=Markup(plots.abilities(table)),
        lengths=Markup(plots.lengths(results, titles)) if any(r["lengths"] for r in results.values()) else None,
        length_rows=[(titles[key], result["lengths"]) for key, result in results.items() if result["lengths"]],
        curves=[(TRAININGS[stage], Markup(svg)) for stage, svg in drawn.items()],
        data=data,
        left_out=left_out,
        sampled=sampled["items"] if (sampled := row_named(table, "reasoning")) is not None else None,
        stages=[
            (stage, record["seconds"], record["peak_bytes"], record.get("resumed")) for stage, record in stages.items()
        ],
        recipe=json.dumps(recipe, indent=1, ensure_ascii=False),
        base=TITLES["base"],
        final=table["models"][-1]["title"],
        pictures=pictures,
        sets=sets,
        blend=blend,
        rolled=rolled,
        pool=tasks,
    )


def read(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text())


def minutes(seconds: float) -> str:
    """65.2 -> "1 min 05 s"; under a minute with one digit."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole, rest = divmod(round(seconds), 60)
    return f"{whole} min {rest:02d} s"


def gib(count: float) -> str:
    """1610612736 -> "1.50 GiB"."""
    return f"{count / 2**30:.2f} GiB"
