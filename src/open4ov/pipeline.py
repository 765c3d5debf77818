"""The run of a recipe: which stages there are, what each is made from, and which options it reads.

images → data → sets → preference_set → sft_knowledge → sft_ability → sft_preference → rl → dpo, an evaluation of the
base and of each model, and the report over all of them. Where the recipe asks for it, `assess` judges the data before
anything is trained on them, `ration` looks for the share of the vertical, and `probe_base` and `deficit` measure what
stage 1 has lost, for stage 2 to mend. `graph.py` has the machinery; the stages themselves are imported when they run.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Callable
from functools import cache
from importlib import import_module, metadata
from itertools import chain
from pathlib import Path
from typing import Any, cast

from open4ov import assets
from open4ov.commit import commit
from open4ov.errors import UserError
from open4ov.functions import function
from open4ov.graph import Graph, Outcome, Stage, StageRun
from open4ov.progress import Reporter
from open4ov.recipe import Recipe
from open4ov.run_dir import disk_full, fingerprint, locked, read_json
from open4ov.store import is_disk_full, write_json

__all__ = ["Graph", "Outcome", "Stage", "StageRun", "finished_model", "graph", "run"]

SFT = ("sft_knowledge", "sft_ability", "sft_preference")
MODELS = (*SFT, "rl", "dpo")
"""The stages that leave a `model/`, in the order in which each goes on from the one before."""


def graph(recipe: Recipe) -> Graph:
    """The stages of a recipe."""
    stages = [
        Stage("images", (), _images, _call("open4ov.data.construct:collect_images"), section="images"),
        Stage(
            "data", ("images",), _data, _call("open4ov.data.construct:construct"), _unanswered, _ready, section="data"
        ),
    ]
    assessed = ("assess",) if recipe.admission.assess.tokens else ()
    if assessed:
        stages.append(Stage("assess", ("images", "data"), _assess, _call("open4ov.stage_assess:run")))
    stages.append(Stage("sets", ("data",), _sets, _call("open4ov.stages:sets"), section="sft"))
    sft = _sft_inputs(recipe)
    if "preference_set" in chain(*sft.values()):
        stages.append(
            Stage(
                "preference_set", ("sets",), _preference_set, _call("open4ov.sft.sets:build_preference"), section="sft"
            )
        )
    if "deficit" in chain(*sft.values()):  # before any training: a set without questions is found at once
        stages.append(Stage("probe_base", ("sets",), _probe, _call("open4ov.sft.deficit:ask_base")))
    if "ration" in chain(*sft.values()):
        stages.append(Stage("ration", ("sets",), _ration, _call("open4ov.rationing:run")))
    models = [*sft, "rl", "dpo"]
    before: tuple[str, ...] = assessed  # nothing is trained on data that were refused
    for name in models:
        made_from = sft.get(name, ("images", "data"))
        if "deficit" in made_from:
            asked = ("sets", "probe_base", *before)
            stages.append(Stage("deficit", asked, _deficit, _call("open4ov.sft.deficit:measure_stage")))
        section = name.partition("_")[0]
        stages.append(Stage(name, (*made_from, *before), _training(name), _trainer(name), section=section))
        before = (name,)
    earlier: tuple[str, ...] = ()
    for name in ("base", *models):  # an evaluation reads the earlier ones, for the differences from them
        made_from = earlier if name == "base" else (name, *earlier)
        work = _call("open4ov.evaluate.suites:run", name)
        stages.append(Stage(f"evaluate_{name}", made_from, _evaluation, work, section="evaluate"))
        earlier = (*earlier, f"evaluate_{name}")
    everything = tuple(stage.name for stage in stages)
    stages.append(Stage("report", everything, lambda recipe: recipe, _call("open4ov.report.page:run")))
    return Graph(stages)


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
) -> list[Outcome]:
    """Brings the run directory `root` up to date with the recipe, as far as the stage `until`.

    Raises UserError when the directory belongs to another recipe or to a running process, holds something else, cannot
    be written, or the disk is full. `stages` replaces the standard graph. `retry`: finished stages that have questions
    without an answer, which may come now, are made anew.
    """
    chosen = stages or graph(recipe)
    for stage in chosen.needed(until):  # a misspelt name, or a base model that is not there, before anything is written
        stage.config(recipe)
    try:
        try:
            _claim(recipe, root)
        except OSError as error:
            if is_disk_full(error):
                raise
            raise _unwritable(root, error) from None
        with locked(root):
            write_json(root / "run.json", _about(recipe))
            return chosen.run(recipe, root, reporter, until, retry)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(root, "at the start of the run") from error
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) or error.errno == errno.EROFS:
            raise _unwritable(root, error) from None
        raise
    finally:
        reporter.close()


def estimate(recipe: Recipe, root: Path, reporter: Reporter) -> dict[str, Any]:
    """What data construction would ask of endpoints: brings the stage `images` up to date, and sends nothing."""
    from open4ov.data.construct import estimate
    from open4ov.store import ImageStore, read_samples

    run(recipe, root, reporter, until="images")
    images = read_samples(root / "images" / "samples.parquet")
    return estimate(images, recipe.data, ImageStore(root / "image-store"), recipe.seed, root)


def _unwritable(root: Path, error: OSError) -> UserError:
    return UserError(f"{error.filename or root}: cannot be written: {error.strerror}; give another --out")


def finished_model(root: Path) -> Path | None:
    """The `model/` of the last finished model stage of a run directory; None when there is none."""
    for name in reversed(MODELS):
        if (root / name / "stage.json").exists():
            return root / name / "model"
    return None


def _claim(recipe: Recipe, root: Path) -> None:
    """Makes the run directory, or refuses one that holds something else."""
    root.mkdir(parents=True, exist_ok=True)
    record = root / "run.json"
    if record.exists():
        about = read_json(record)
        told = (about or {}).get("recipe")
        name = cast("dict[str, object]", told).get("name") if isinstance(told, dict) else None
        if name is None:
            raise UserError(f"{record}: damaged; delete {root} or give another --out")
        if name != recipe.name:
            raise UserError(
                f"{root}: holds a run of the recipe '{name}', and this recipe is '{recipe.name}'; give another --out"
            )
        return
    foreign = [path.name for path in root.iterdir() if path.name != ".lock" and not path.name.startswith(".part-")]
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
    from open4ov.data import density, labels, wishes
    from open4ov.mllm import ready

    tree = labels.load(recipe.data.labels)
    density.check_scenarios(recipe.data, tree)
    if recipe.data.feedback:
        wishes.read(recipe.data.feedback, tree)
    ready.check(recipe.data)


def _trainer(name: str) -> Callable[[StageRun], None]:
    if name in SFT:
        return _call("open4ov.stages:sft", name.removeprefix("sft_"))
    return _call(f"open4ov.rl.{'dpo' if name == 'dpo' else 'trainer'}:run")


def _images(recipe: Recipe) -> dict[str, Any]:
    section = recipe.images
    for key, name, corpus in (("vertical", section.vertical, "in_car"), ("general", section.general, "general")):
        if name.startswith("corpus:") and name != f"corpus:{corpus}":
            raise UserError(f"images.{key}: no corpus {name!r}; use corpus:{corpus}, or a folder of images")
        if not name.startswith("corpus:") and not Path(name).is_dir():
            raise UserError(f"images.{key}: {name} is not a folder; name a folder of images, or corpus:{corpus}")
    folders = [Path(name) for name in (section.vertical, section.general) if not name.startswith("corpus:")]
    return {**section.model_dump(mode="json"), "files": [_folder(folder) for folder in folders], "corpora": _corpora()}


@cache
def _corpora() -> str:
    """A digest of the shipped corpora: pictures, fonts, words and the in-car knowledge."""
    from open4ov.corpora import in_car

    knowledge = Path(in_car.__file__).parent
    files = [path for path in (Path(assets.__file__).parent / "corpora").rglob("*") if path.is_file()]
    return fingerprint([*files, *knowledge.glob("*.yaml")])


def _folder(folder: Path) -> str:
    """A digest of a folder of images and annotations: samples name their files by where these lie below it."""
    return fingerprint((path for path in folder.rglob("*") if path.is_file()), folder)


def _data(recipe: Recipe) -> dict[str, Any]:
    from open4ov.mllm.embedders import identity

    embedder = identity(recipe.data.embedder)
    labels = Path(recipe.data.labels) if recipe.data.labels else None
    if labels and not labels.is_file():
        raise UserError(f"data.labels: no such file: {labels}")
    digest = fingerprint([labels]) if labels else ""
    feedback = Path(recipe.data.feedback) if recipe.data.feedback else None
    if feedback and not feedback.is_file():
        raise UserError(f"data.feedback: no such file: {feedback}")
    evaluation = _evaluation_files(recipe)
    providers = recipe.data.providers.values()
    models = [_model(one.model) for one in providers if one.kind == "engine" and one.model]
    section = recipe.data.model_dump(mode="json", exclude=_PACE)
    wished = fingerprint([feedback]) if feedback else ""
    found = (("models", models), ("embedder_files", embedder), ("feedback_file", wished))
    rest = {name: value for name, value in found if value}
    return {**section, "labels_file": digest, **evaluation, **rest}


def _evaluation_files(recipe: Recipe) -> dict[str, Any]:
    """A digest of the evaluation sets that data are kept clean of, and of the pictures that they name by path: one that
    is put where it was missing makes the data anew."""
    hygiene = recipe.data.hygiene
    if hygiene.burned_in:
        function(hygiene.burned_in, "data.hygiene.burned_in")
    if hygiene.question_embedder:
        function(hygiene.question_embedder, "data.hygiene.question_embedder")
    paths = [Path(name) for name in hygiene.decontaminate]
    for path in paths:
        if not path.is_file():
            raise UserError(f"data.hygiene.decontaminate: no such file: {path}")
    if not paths:
        return {}
    found: dict[str, Any] = {"evaluation_files": fingerprint(paths)}
    named = _pictures_of(paths, [Path(name) for name in hygiene.decontaminate_images])
    if named:
        found["evaluation_pictures"] = fingerprint({file for _, file in named if file is not None})
        found["evaluation_pictures_missing"] = sorted({name for name, file in named if file is None})
    return found


def _pictures_of(paths: list[Path], folders: list[Path]) -> list[tuple[str, Path | None]]:
    from open4ov.data import evaluation_tsv

    return [item for path in paths for item in evaluation_tsv.named(path, folders).items()]


def _assess(recipe: Recipe) -> dict[str, Any]:
    """The short training is stage 1's, with another number of tokens and nothing graded."""
    function(recipe.sft.verifier, "sft.verifier")
    section = recipe.admission.assess
    unread = {"ability", "preference", "schedule", "difficulty_noise", "lora_rank", "compile", "checkpoint_every"}
    knowledge = recipe.sft.knowledge.model_dump(mode="json", exclude={"tokens"})
    trained = {**recipe.sft.model_dump(mode="json", exclude=unread), "knowledge": knowledge}
    corpora = recipe.images.model_dump(mode="json", include={"vertical", "general"})
    about = {"base": _base(recipe), "threads": recipe.threads, "corpora": _corpora()}
    probe: dict[str, Any] = {}
    if section.probe:
        path = Path(section.probe)
        if not path.exists():
            raise UserError(f"admission.assess.probe: no such file or folder: {path}")
        files = [path] if path.is_file() else [f for f in path.rglob("*.parquet") if f.is_file()]
        probe = {"probe_files": fingerprint(files)}
    return {**section.model_dump(mode="json"), **probe, **corpora, "sft": trained, **about}


# How fast, for how much and by which process an answer comes does not change it: a run goes on with a larger budget.
_ASKING = {"concurrency", "timeout", "retries", "price", "image_tokens", "api_key_env"}
_PACE: dict[str, Any] = {
    **dict.fromkeys(("cache", "budget", "local_only", "local_hosts", "executor"), True),
    "embedder": {"batch": True, "endpoint": _ASKING | {"batch"}},
    "providers": {"__all__": _ASKING | {"cache_as"}},
}


def _sets(recipe: Recipe) -> dict[str, Any]:
    """Which pictures are kept apart, the label tree that samples are held against, and the shares of its labels."""
    labels = Path(recipe.data.labels) if recipe.data.labels else None
    found = {"held_out": recipe.sft.held_out, "labels": fingerprint([labels]) if labels else ""}
    balance = recipe.admission.balance
    if not balance.samples:
        return found
    from open4ov.mllm.embedders import identity

    section = balance.model_dump(mode="json", exclude={"embedder": {"batch": True, "endpoint": _ASKING | {"batch"}}})
    return {**found, "balance": section, "embedder_files": identity(balance.embedder) if balance.max_clusters else ""}


def _probe(recipe: Recipe) -> dict[str, Any]:
    """Which questions are asked of the base, and what counts as right."""
    function(recipe.sft.verifier, "sft.verifier")
    asked = {"probe": recipe.sft.ability.probe, "verifier": recipe.sft.verifier, "precision": recipe.sft.precision}
    return {**asked, "base": _base(recipe), "threads": recipe.threads}


def _deficit(recipe: Recipe) -> dict[str, Any]:
    return {**_probe(recipe), "floor": recipe.sft.ability.blend_floor}


_TOLD = {"checkpoint_every", "peak_tflops", "tensorboard", "wandb"}
"""What a training of SFT tells and keeps on its way; the model is the same."""


def _training(name: str) -> Callable[[Recipe], dict[str, Any]]:
    """The options a training reads: of its own stage only, so that a change later in the recipe leaves it as it is.

    Functions that the recipe names are looked up here: a name that leads nowhere stops the run before it begins.
    """

    def config(recipe: Recipe) -> dict[str, Any]:
        base = {"model": _base(recipe), "threads": recipe.threads}
        if name == "rl":
            function(recipe.rl.reward, "rl.reward")
            function(recipe.rl.embedder, "rl.embedder")
        elif name in SFT:
            function(recipe.sft.verifier, "sft.verifier")
        if name not in SFT:
            return {**getattr(recipe, name).model_dump(mode="json"), **base}
        elsewhere: dict[str, Any] = {
            **dict.fromkeys(("held_out", "preference_set", *_TOLD), True),
            "ability": {"blend_floor", "probe"},
        }  # the stages before read them, or they change nothing of the model
        section = {
            **recipe.sft.model_dump(mode="json", exclude=elsewhere),
            "admission": {"mastery": recipe.admission.mastery.model_dump(mode="json")},
        }
        if recipe.sft.schedule == "curriculum":
            for other in SFT:
                if other != name:
                    del section[other.removeprefix("sft_")]
        return {**section, **base}

    return config


def _ration(recipe: Recipe) -> dict[str, Any]:
    for ratio in recipe.admission.ration.ratios:
        if isinstance(ratio, dict) and (unknown := sorted(ratio.keys() - {"vertical"})):
            raise UserError(
                f"admission.ration.ratios: '{unknown[0]}' is no new set of a run, which has one: vertical; "
                "`open4ov admit ration` takes several"
            )
    return ration(recipe)


def _preference_set(recipe: Recipe) -> dict[str, Any]:
    """How large the set is, its kinds, what of it fits into a pack by the base's tokenizer, an earlier run's failed
    tasks, and who writes."""
    sft = recipe.sft
    long = sft.pack_of("knowledge" if sft.schedule == "random_mix" else "preference")
    found: dict[str, Any] = {"tokens": sft.preference.tokens, "longest": long, "base": _base(recipe)}
    if sft.preference_set.hard:
        from open4ov.sft.preference.hard import file_of

        found["hard_file"] = fingerprint([file_of(sft.preference_set.hard)])
    if name := recipe.data.roles.get("preference"):
        provider = recipe.data.providers[name]
        found["writer"] = provider.model_dump(mode="json", exclude=_ASKING | {"cache_as"})
    return {**sft.preference_set.model_dump(mode="json"), **found}


def ration(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe the search for the ratio reads, beside the sets."""
    function(recipe.sft.verifier, "sft.verifier")
    aside = {
        "ability": True,
        "preference": True,
        "preference_set": True,
        "held_out": True,
        "schedule": True,
        "knowledge": {"tokens", "replay"},
    }
    return {
        "ration": recipe.admission.ration.model_dump(mode="json"),
        "sft": recipe.sft.model_dump(mode="json", exclude=aside),
        "max_tokens": recipe.evaluate.max_tokens,
        "base": _base(recipe),
        "threads": recipe.threads,
    }


def _evaluation(recipe: Recipe) -> dict[str, Any]:
    evaluate = recipe.evaluate.model_dump(mode="json")
    return {**evaluate, "model": _base(recipe), "threads": recipe.threads, "corpora": _corpora()}


def _base(recipe: Recipe) -> str:
    return _model(recipe.model)


def _model(name: str) -> str:
    """A digest of a model's files."""
    folder = assets.base_dir(name)
    return fingerprint(path for path in folder.iterdir() if path.is_file())


def _about(recipe: Recipe) -> dict[str, Any]:
    facts = {"versions": _versions(), "machine": _machine(), "commit": commit()}
    return {"recipe": recipe.model_dump(mode="json"), **facts}


@cache
def _versions() -> dict[str, str]:
    packages = ("open4ov", "torch", "numpy", "pillow", "pydantic", "pyarrow", "safetensors", "tokenizers")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def _machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "cpu": _proc("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory": _proc("/proc/meminfo", "MemTotal"),
    }


def _proc(file: str, key: str) -> str | None:
    """The value of `key : value` in a file of /proc; None on systems without it."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)
