"""What each stage's output depends on: the options that it reads, and digests of the files outside of the run.

A stage is made anew when this changes (`graph.py`). What cannot be read, or a function that is not there, is told here,
before any stage runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from open4ov import assets
from open4ov.errors import UserError
from open4ov.functions import function
from open4ov.recipe import Recipe
from open4ov.run_dir import fingerprint

SFT = ("sft_knowledge", "sft_ability", "sft_preference")


def images(recipe: Recipe) -> dict[str, Any]:
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


def data(recipe: Recipe) -> dict[str, Any]:
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


def assess(recipe: Recipe) -> dict[str, Any]:
    """The short training is stage 1's, with another number of tokens and nothing graded."""
    function(recipe.sft.verifier, "sft.verifier")
    section = recipe.admission.assess
    unread = {"ability", "preference", "schedule", "difficulty_noise", "compile", "checkpoint_every"}
    knowledge = recipe.sft.knowledge.model_dump(mode="json", exclude={"tokens"})
    trained = {**recipe.sft.model_dump(mode="json", exclude=unread), "knowledge": knowledge}
    corpora = recipe.images.model_dump(mode="json", include={"vertical", "general"})
    about = {"base": _base(recipe), "threads": recipe.threads, "corpora": _corpora(), **_patience(recipe)}
    probed: dict[str, Any] = {}
    if section.probe:
        path = Path(section.probe)
        if not path.exists():
            raise UserError(f"admission.assess.probe: no such file or folder: {path}")
        files = [path] if path.is_file() else [f for f in path.rglob("*.parquet") if f.is_file()]
        probed = {"probe_files": fingerprint(files)}
    return {**section.model_dump(mode="json"), **probed, **corpora, "sft": trained, **about}


# How fast, for how much and by which process an answer comes does not change it: a run goes on with a larger budget.
_ASKING = {"concurrency", "timeout", "retries", "price", "image_tokens", "api_key_env"}
_PACE: dict[str, Any] = {
    **dict.fromkeys(("cache", "budget", "local_only", "local_hosts", "executor"), True),
    "embedder": {"batch": True, "endpoint": _ASKING | {"batch"}},
    "providers": {"__all__": _ASKING | {"cache_as"}},
}


def sets(recipe: Recipe) -> dict[str, Any]:
    """Which pictures are kept apart, the label tree that samples are held against, and the shares of its labels."""
    labels = Path(recipe.data.labels) if recipe.data.labels else None
    found = {"held_out": recipe.sft.held_out, "labels": fingerprint([labels]) if labels else ""}
    balance = recipe.admission.balance
    if not balance.samples:
        return found
    from open4ov.mllm.embedders import identity

    section = balance.model_dump(mode="json", exclude={"embedder": {"batch": True, "endpoint": _ASKING | {"batch"}}})
    return {**found, "balance": section, "embedder_files": identity(balance.embedder) if balance.max_clusters else ""}


def probe(recipe: Recipe) -> dict[str, Any]:
    """Which questions are asked of the base, and what counts as right."""
    function(recipe.sft.verifier, "sft.verifier")
    asked = {"probe": recipe.sft.ability.probe, "verifier": recipe.sft.verifier, "precision": recipe.sft.precision}
    asked["device"] = recipe.sft.device
    return {**asked, "base": _base(recipe), "threads": recipe.threads, **_patience(recipe)}


def _patience(recipe: Recipe) -> dict[str, Any]:
    """A verifier that has more time may say of more answers whether they are right."""
    return {"admission.mastery.verifier_seconds": recipe.admission.mastery.verifier_seconds}


def deficit(recipe: Recipe) -> dict[str, Any]:
    return {**probe(recipe), "floor": recipe.sft.ability.blend_floor}


_TOLD = {"checkpoint_every", "peak_tflops", "tensorboard", "wandb"}
"""What a training of SFT tells and keeps on its way; the model is the same."""


def training(name: str) -> Callable[[Recipe], dict[str, Any]]:
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


def ration_of_run(recipe: Recipe) -> dict[str, Any]:
    for ratio in recipe.admission.ration.ratios:
        if isinstance(ratio, dict) and (unknown := sorted(ratio.keys() - {"vertical"})):
            raise UserError(
                f"admission.ration.ratios: '{unknown[0]}' is no new set of a run, which has one: vertical; "
                "`open4ov admit ration` takes several"
            )
    return ration(recipe)


def preference_set(recipe: Recipe) -> dict[str, Any]:
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
        **_patience(recipe),
    }


def evaluation(recipe: Recipe) -> dict[str, Any]:
    evaluate = recipe.evaluate.model_dump(mode="json")
    return {**evaluate, "model": _base(recipe), "threads": recipe.threads, "corpora": _corpora()}


def _base(recipe: Recipe) -> str:
    return _model(recipe.model)


def _model(name: str) -> str:
    """A digest of a model's files."""
    folder = assets.base_dir(name)
    return fingerprint(path for path in folder.iterdir() if path.is_file())
