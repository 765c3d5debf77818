"""The run of a recipe: which stages there are, what each is made from, and which options it reads.

images → data → sets → preference_set → rl_pool → sft_knowledge → sft_ability → sft_preference → rl → dpo, an evaluation
of the base and of each model, and the report over all of them. `rl_pool` has RL's tasks, validated before anything is
trained; with the leakage screen, which asks the last model of SFT, it comes after that. Where the recipe asks for it,
`assess` judges the data before anything is trained on them, `ration` looks for the share of the vertical, and
`probe_base` and `deficit` measure what stage 1 has lost, for stage 2 to mend. `graph.py` has the machinery; the stages
themselves are imported when they run.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from importlib import import_module
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from open4ov import keys
from open4ov.about import about
from open4ov.errors import UserError
from open4ov.graph import Graph, Outcome, Stage, StageRun
from open4ov.keys import SFT
from open4ov.progress import Reporter
from open4ov.recipe import Recipe
from open4ov.recipe_dpo import VERIFIED
from open4ov.run_dir import disk_full, locked, read_json
from open4ov.store import is_disk_full, write_json

if TYPE_CHECKING:
    from open4ov.parallel.crew import Crew

__all__ = ["Graph", "Outcome", "Stage", "StageRun", "claim", "finished_model", "graph", "run"]

MODELS = (*SFT, "rl", "dpo")
"""The stages that leave a `model/`, in the order in which each goes on from the one before."""

BEFORE = {".lock", "image-store", "plan.json", "plan.md", "feedback.yaml"}
"""What may lie in a run directory before its run begins: a loop puts the plan of a round there (`loop/rounds.py`)"""


def graph(recipe: Recipe) -> Graph:
    """The stages of a recipe."""
    stages = [
        Stage("images", (), keys.images, _call("open4ov.data.construct:collect_images")),
        Stage(
            "data",
            ("images",),
            keys.data,
            _call("open4ov.data.construct:construct"),
            _unanswered,
            _ready,
        ),
    ]
    held_out: tuple[str, ...] = ()
    if recipe.images.own and recipe.data.hygiene.test:  # before any training: too few questions are found at once
        stages.append(Stage("held_out", ("data",), keys.held_out, _call("open4ov.evaluate.held_out:run")))
        held_out = ("held_out",)
    assessed = ("assess",) if recipe.admission.assess.tokens else ()
    if assessed:
        stages.append(Stage("assess", ("images", "data"), keys.assess, _call("open4ov.stages.assess:run")))
    stages.append(Stage("sets", ("data",), keys.sets, _call("open4ov.stages.sets:run")))
    sft = _sft_inputs(recipe)
    if "preference_set" in chain(*sft.values()):
        stages.append(
            Stage(
                "preference_set",
                ("sets",),
                keys.preference_set,
                _call("open4ov.sft.sets:build_preference"),
            )
        )
    if "deficit" in chain(*sft.values()):  # before any training: a set without questions is found at once
        stages.append(Stage("probe_base", ("sets",), keys.probe, _call("open4ov.sft.deficit:ask_base")))
    if "ration" in chain(*sft.values()):
        stages.append(Stage("ration", ("sets",), keys.ration_of_run, _call("open4ov.stages.ration:run")))
    models = [*sft, "rl", "dpo"]
    screened = bool(recipe.rl.leakage.rollouts and recipe.rl.steps)
    if not screened:  # a source that is refused is found out before any training
        stages.append(_rl_pool(recipe))
    before: tuple[str, ...] = assessed  # nothing is trained on data that were refused
    for name in models:
        if name == "rl" and screened:
            stages.append(_rl_pool(recipe, before))
        tasks = ("rl_pool",) if name == "rl" or (name == "dpo" and recipe.dpo.mix.get(VERIFIED, 0) > 0) else ()
        made_from = sft.get(name, ("images", "data", *tasks))
        if "deficit" in made_from:
            asked = ("sets", "probe_base", *before)
            stages.append(Stage("deficit", asked, keys.deficit, _call("open4ov.sft.deficit:measure_stage")))
        stages.append(Stage(name, (*made_from, *before), keys.training(name), _trainer(name)))
        before = (name,)
    earlier: tuple[str, ...] = ()
    for name in ("base", *models):  # an evaluation reads the earlier ones, for the differences from them
        made_from = (*held_out, *(() if name == "base" else (name,)), *earlier)
        work = _call("open4ov.evaluate.suites:run", name)
        stages.append(Stage(f"evaluate_{name}", made_from, keys.evaluation, work))
        earlier = (*earlier, f"evaluate_{name}")
    everything = tuple(stage.name for stage in stages)
    stages.append(Stage("report", everything, lambda recipe: recipe, _call("open4ov.report.page:run")))
    return Graph(stages)


def _rl_pool(recipe: Recipe, model: tuple[str, ...] = ()) -> Stage:
    """Made from what its sources read, and from the `model` that screens it."""
    read = {"data": "data", "sft": "sets"}
    kinds = [source.kind for source in recipe.rl.pool.sources] if recipe.rl.steps else []
    inputs = tuple(dict.fromkeys(read[kind] for kind in kinds if kind in read))
    return Stage("rl_pool", (*inputs, *model), keys.rl_pool, _call("open4ov.stages.rl_pool:run"), check=_pool_sources)


def _pool_sources(recipe: Recipe) -> None:
    import_module("open4ov.stages.rl_pool").check(recipe)


def _sft_inputs(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """The stages of SFT in their order, and what each is made from beside the model before it."""
    ratio = ("ration",) if recipe.admission.ration.on else ()
    if recipe.sft.schedule == "random_mix":
        return {"sft_knowledge": ("sets", "preference_set", *ratio)}
    if recipe.sft.schedule == "single_stage":
        return {"sft_knowledge": ("sets", *ratio)}
    measured = ("deficit",) if recipe.sft.ability.blend == "deficit" else ()
    return {
        "sft_knowledge": ("sets", *ratio),
        "sft_ability": ("sets", *measured),
        "sft_preference": ("sets", "preference_set"),
    }


def run(
    recipe: Recipe,
    root: Path,
    reporter: Reporter,
    until: str | None = None,
    stages: Graph | None = None,
    retry: bool = False,
    crew: Crew | None = None,
) -> list[Outcome]:
    """Brings the run directory `root` up to date with the recipe, as far as the stage `until`.

    Raises UserError when the directory belongs to another recipe or to a running process, holds something else, cannot
    be written, or the disk is full. `stages` replaces the standard graph. `retry`: finished stages that have questions
    without an answer, which may come now, are made anew. `crew`: the other processes of the run.
    """
    chosen = stages or graph(recipe)
    for stage in chosen.needed(until):  # a misspelt name, or a base model that is not there, before anything is written
        stage.config(recipe)
    try:
        try:
            claim(recipe, root)
        except OSError as error:
            if is_disk_full(error):
                raise
            raise _unwritable(root, error) from None
        with locked(root):
            write_json(root / "run.json", about(recipe))
            return chosen.run(recipe, root, reporter, until, retry, crew)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(root, "at the start of the run") from error
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) or error.errno == errno.EROFS:
            raise _unwritable(root, error) from None
        raise
    finally:
        reporter.close()


def estimate(recipe: Recipe, root: Path, reporter: Reporter) -> dict[str, Any]:
    """What data construction would ask of endpoints. Sends nothing, and changes nothing in `root`: where its images are
    not as the recipe has them, they are collected in a temporary folder."""
    from open4ov.data.construct import estimate
    from open4ov.store import ImageStore, read_samples

    chosen = graph(recipe)
    with TemporaryDirectory(prefix="open4ov-") as elsewhere:
        place = root
        if "images" not in chosen.finished(chosen.needed("images"), recipe, root):
            place = Path(elsewhere) / "run"
            run(recipe, place, reporter, until="images")
        images = read_samples(place / "images" / "samples.parquet")
        return estimate(images, recipe.data, ImageStore(place / "image-store"), recipe.seed, root)


def _unwritable(root: Path, error: OSError) -> UserError:
    return UserError(f"{error.filename or root}: cannot be written: {error.strerror}; give another --out")


def finished_model(root: Path) -> Path | None:
    """The `model/` of the last finished model stage of a run directory; None when there is none."""
    for name in reversed(MODELS):
        if (root / name / "stage.json").exists():
            return root / name / "model"
    return None


def claim(recipe: Recipe, root: Path) -> None:
    """Makes the run directory. Raises UserError for one that holds something else, or another recipe's run."""
    root.mkdir(parents=True, exist_ok=True)
    record = root / "run.json"
    if record.exists():
        told = (read_json(record) or {}).get("recipe")
        name = cast("dict[str, object]", told).get("name") if isinstance(told, dict) else None
        if name is None:
            raise UserError(f"{record}: damaged; delete {root} or give another --out")
        if name != recipe.name:
            raise UserError(
                f"{root}: holds a run of the recipe '{name}', and this recipe is '{recipe.name}'; give another --out"
            )
        return
    if (root / "loop.json").exists():
        raise UserError(f"{root}: holds rounds (loop.json); give --iterations, or another --out")
    foreign = [path.name for path in root.iterdir() if path.name not in BEFORE and not path.name.startswith(".part-")]
    if foreign:
        raise UserError(f"{root}: no run directory, yet not empty (holds {min(foreign)}); give a new or empty --out")


def _call(path: str, *arguments: str) -> Callable[[StageRun], None]:
    """`package.module:function` as a stage's work, imported when it starts."""

    def work(run: StageRun) -> None:
        module, _, function = path.partition(":")
        getattr(import_module(module), function)(run, *arguments)

    return work


def _unanswered(folder: Path) -> str:
    from open4ov.data.construct import unanswered

    return unanswered(folder)


def _ready(recipe: Recipe) -> None:
    from open4ov.data import annotation_questions, density, labels, wishes
    from open4ov.mllm import ready

    tree = labels.load(recipe.data.labels)
    density.check_scenarios(recipe.data, tree)
    annotation_questions.check_tasks(recipe.images.questions, recipe.data, tree)
    if recipe.data.feedback:
        wishes.read(recipe.data.feedback, tree)
    ready.check(recipe.data)


def _trainer(name: str) -> Callable[[StageRun], None]:
    if name in SFT:
        return _call("open4ov.stages.sft:run", name.removeprefix("sft_"))
    return _call("open4ov.stages.dpo:run" if name == "dpo" else "open4ov.stages.rl:run")
