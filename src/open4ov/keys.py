"""What each stage's output depends on: the options that it reads, and digests of the files outside of the run.

A stage is made anew when this changes (`graph.py`). What cannot be read, or a function that is not there, is told here,
before any stage runs.

A config is shaped as the recipe is, so that what has changed can be told by its place there (`changes.py`); options
that change nothing of a stage's output are left out. `FILES` maps an option to the digest of the files that it names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from open4ov import assets, machine, recipe_dpo
from open4ov.changes import FILES
from open4ov.errors import UserError
from open4ov.functions import foreign
from open4ov.recipe import Recipe
from open4ov.recipe_rl import UNREAD
from open4ov.run_dir import fingerprint, hash_json

SFT = ("sft_knowledge", "sft_ability", "sft_preference")
SHIPPED = "the shipped corpora"
"""A key of `FILES` that no option names"""


def images(recipe: Recipe) -> dict[str, Any]:
    section = recipe.images
    for key, name, corpus in (("vertical", section.vertical, "in_car"), ("general", section.general, "general")):
        if name.startswith("corpus:") and name != f"corpus:{corpus}":
            raise UserError(f"images.{key}: no corpus {name!r}; use corpus:{corpus}, or a folder of images")
        if not name.startswith("corpus:") and not Path(name).is_dir():
            raise UserError(f"images.{key}: {name} is not a folder; name a folder of images, or corpus:{corpus}")
    named = {"images.vertical": section.vertical, "images.general": section.general}
    folders = {key: _folder(Path(name)) for key, name in named.items() if not name.startswith("corpus:")}
    return {"images": section.model_dump(mode="json"), FILES: {**folders, SHIPPED: _corpora()}}


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
    feedback = Path(recipe.data.feedback) if recipe.data.feedback else None
    if feedback and not feedback.is_file():
        raise UserError(f"data.feedback: no such file: {feedback}")
    files = {
        "data.labels": fingerprint([labels]) if labels else "",
        "data.feedback": fingerprint([feedback]) if feedback else "",
        "data.embedder": embedder,
        **_evaluation_files(recipe),
        **{
            f"data.providers.{name}.model": _model(one.model)
            for name, one in recipe.data.providers.items()
            if one.kind == "engine" and one.model
        },
    }
    return {"data": recipe.data.model_dump(mode="json", exclude=_PACE), FILES: _there(files)}


def _functions(named: Mapping[str, str | None]) -> dict[str, str]:
    """Digests of the user's own functions, by the option that names one: with another text a stage is made anew. Raises
    UserError for a name that leads nowhere."""
    return _there({key: foreign(path, key) for key, path in named.items() if path})


def _there(files: dict[str, str]) -> dict[str, str]:
    return {key: digest for key, digest in files.items() if digest}


def _evaluation_files(recipe: Recipe) -> dict[str, str]:
    """A digest of the evaluation sets that data are kept clean of, and of the pictures that they name by path: one that
    is put where it was missing makes the data anew."""
    hygiene = recipe.data.hygiene
    paths = [Path(name) for name in hygiene.decontaminate]
    for path in paths:
        if not path.is_file():
            raise UserError(f"data.hygiene.decontaminate: no such file: {path}")
    own = {"burned_in": hygiene.burned_in, "question_embedder": hygiene.question_embedder}
    found = _functions({f"data.hygiene.{key}": path for key, path in own.items()})
    if not paths:
        return found
    found["data.hygiene.decontaminate"] = fingerprint(paths)
    named = _pictures_of(paths, [Path(name) for name in hygiene.decontaminate_images])
    if named:
        there = fingerprint({file for _, file in named if file is not None})
        missing = sorted({name for name, file in named if file is None})
        found["data.hygiene.decontaminate_images"] = hash_json([there, missing])
    return found


def _pictures_of(paths: list[Path], folders: list[Path]) -> list[tuple[str, Path | None]]:
    from open4ov.data import evaluation_tsv

    return [item for path in paths for item in evaluation_tsv.named(path, folders).items()]


def assess(recipe: Recipe) -> dict[str, Any]:
    """The short training is stage 1's, with another number of tokens and nothing graded."""
    section = recipe.admission.assess
    files = {"model": _base(recipe), SHIPPED: _corpora(), **_verifier(recipe)}
    if section.probe:
        path = Path(section.probe)
        if not path.exists():
            raise UserError(f"admission.assess.probe: no such file or folder: {path}")
        files["admission.assess.probe"] = fingerprint(
            [path] if path.is_file() else [f for f in path.rglob("*.parquet") if f.is_file()]
        )
    return {
        "admission": {"assess": section.model_dump(mode="json"), **_patience(recipe)},
        "images": recipe.images.model_dump(mode="json", include={"vertical", "general"}),
        "sft": _short_training(recipe),
        "threads": recipe.threads,
        FILES: files,
    }


def _short_training(recipe: Recipe, *unread: str) -> dict[str, Any]:
    """What admission's trainings read of `sft`, which are as stage 1's but for their tokens: nothing is graded, watched
    or kept for later. `unread`: other options of `sft.knowledge` that one does not read."""
    left_out: dict[str, Any] = {
        **dict.fromkeys((*_TOLD, "held_out", "validation", "preference_set", "schedule", "difficulty_noise"), True),
        **dict.fromkeys(("ability", "preference", "compile"), True),
        "knowledge": {"tokens", "iterations", *unread},
    }
    return recipe.sft.model_dump(mode="json", exclude=left_out)


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
    found: dict[str, Any] = {"sft": {"held_out": recipe.sft.held_out}}
    files = {"data.labels": fingerprint([labels]) if labels else ""}
    balance = recipe.admission.balance
    if balance.samples:
        from open4ov.mllm.embedders import identity

        pace = {"embedder": {"batch": True, "endpoint": _ASKING | {"batch"}}}
        found["admission"] = {"balance": balance.model_dump(mode="json", exclude=pace)}
        files["admission.balance.embedder"] = identity(balance.embedder) if balance.max_clusters else ""
    return {**found, FILES: _there(files)}


def probe(recipe: Recipe) -> dict[str, Any]:
    """Which questions are asked of the base, and what counts as right."""
    asked = {"ability": {"probe": recipe.sft.ability.probe}}
    asked |= recipe.sft.model_dump(mode="json", include={"verifier", "precision", "device"})
    return {
        "sft": asked,
        "admission": _patience(recipe),
        "threads": recipe.threads,
        FILES: {"model": _base(recipe), **_verifier(recipe)},
    }


def _verifier(recipe: Recipe) -> dict[str, str]:
    return _functions({"sft.verifier": recipe.sft.verifier})


def _patience(recipe: Recipe) -> dict[str, Any]:
    """A verifier that has more time may say of more answers whether they are right."""
    return {"mastery": {"verifier_seconds": recipe.admission.mastery.verifier_seconds}}


def deficit(recipe: Recipe) -> dict[str, Any]:
    found = probe(recipe)
    found["sft"]["ability"]["blend_floor"] = recipe.sft.ability.blend_floor
    return found


_TOLD = {"checkpoint_every", "peak_tflops", "tensorboard", "wandb"}
"""What a training of SFT tells and keeps on its way; the model is the same."""


def training(name: str) -> Callable[[Recipe], dict[str, Any]]:
    """The options a training reads: of its own stage only, so that a change later in the recipe leaves it as it is.

    Functions that the recipe names are looked up here: a name that leads nowhere stops the run before it begins.
    """

    def config(recipe: Recipe) -> dict[str, Any]:
        base: dict[str, Any] = {"threads": recipe.threads, FILES: {"model": _base(recipe)}}
        if name == "rl":
            base[FILES] |= _functions({"rl.reward": recipe.rl.reward})
            machine.online(recipe.rl)
            base[FILES] |= _there({"rl.embedder": _encoder(recipe)})
        elif name in SFT:
            base[FILES] |= _verifier(recipe)
        if name == "dpo":
            machine.offline(recipe.dpo)
            return _offline(recipe, base)
        if name not in SFT:
            left_out = UNREAD if name == "rl" else None
            return {name: getattr(recipe, name).model_dump(mode="json", exclude=left_out), **base}
        elsewhere: dict[str, Any] = {
            **dict.fromkeys(("held_out", "preference_set", *_TOLD), True),
            "ability": {"blend_floor", "probe"},
        }  # the stages before read them, or they change nothing of the model
        section = recipe.sft.model_dump(mode="json", exclude=elsewhere)
        if recipe.sft.schedule == "curriculum":
            for other in SFT:
                if other != name:
                    del section[other.removeprefix("sft_")]
        mastery = recipe.admission.mastery.model_dump(mode="json")
        return {"sft": section, "admission": {"mastery": mastery}, **base}

    return config


def rl_pool(recipe: Recipe) -> dict[str, Any]:
    """How many tasks RL draws, where from, what counts as right, and who judges; with the leakage screen also how RL's
    model is asked. The folders of sources and decisions are looked for here."""
    from open4ov.formats.convert import located

    rl = recipe.rl
    if not rl.steps:
        return {"rl": {"steps": 0}}
    read = {"pool", "text_share", "reward", "steps", "prompts", "filter"}  # the last three: `selection.candidates`
    screened = {"temperature", "max_tokens", "leakage", "precision", "device"} if rl.leakage.rollouts else set[str]()
    found: dict[str, Any] = {"rl": rl.model_dump(mode="json", include=read | screened)}
    if screened:
        found["threads"] = recipe.threads
        found["rl"]["rollout"] = rl.rollout.model_dump(mode="json", include={"backend", "weights", "stop_loops"})
    kinds = {source.kind for source in rl.pool.sources}
    files = {SHIPPED: _corpora()} if "corpora" in kinds else {}
    files |= _functions({"rl.reward": rl.reward})
    if kinds != {"corpora"}:
        files |= _evaluation_files(recipe)
    given: dict[str, str] = {}
    for source in rl.pool.sources:
        if source.path:
            try:
                given[source.title] = fingerprint([located(Path(source.path))[0]])
            except UserError as error:
                raise UserError(f"rl.pool.sources: '{source.title}': {error}") from None
    if given:
        files["rl.pool.sources"] = hash_json(given)
    if rl.pool.decisions:
        folder = Path(rl.pool.decisions)
        if not folder.exists():
            raise UserError(f"rl.pool.decisions: no such file or folder: {folder}")
        files["rl.pool.decisions"] = fingerprint(folder.glob("*.jsonl") if folder.is_dir() else [folder])
    if rl.pool.judged:
        name = recipe.data.roles["rl_pool"]
        provider = recipe.data.providers[name].model_dump(mode="json", exclude=_ASKING | {"cache_as"})
        found["data"] = {"roles": {"rl_pool": name}, "providers": {name: provider}}
    return {**found, FILES: _there(files)}


def _encoder(recipe: Recipe) -> str:
    """A digest of the encoder's files; "" for a function of this package."""
    from open4ov.rl.encoders import identity

    return identity(recipe.rl.embedder)


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
    made = {
        "preference_set": sft.preference_set.model_dump(mode="json"),
        "preference": {"tokens": sft.preference.tokens},
    }
    stage = "knowledge" if sft.schedule == "random_mix" else "preference"
    if own := getattr(sft, stage).pack_tokens:
        made.setdefault(stage, {})["pack_tokens"] = own
    else:
        made["pack_tokens"] = sft.pack_tokens
    found: dict[str, Any] = {"sft": made, FILES: {"model": _base(recipe)}}
    if sft.preference_set.hard:
        from open4ov.sft.preference.hard import file_of

        found[FILES]["sft.preference_set.hard"] = fingerprint([file_of(sft.preference_set.hard)])
    if name := recipe.data.roles.get("preference"):
        provider = recipe.data.providers[name].model_dump(mode="json", exclude=_ASKING | {"cache_as"})
        found["data"] = {"roles": {"preference": name}, "providers": {name: provider}}
    return found


def _offline(recipe: Recipe, base: dict[str, Any]) -> dict[str, Any]:
    """Offline RL: with the pairs that the recipe names by their files."""
    dpo = recipe.dpo
    files: list[Path] = []
    for name in dpo.preferences:
        path = Path(name)
        if not path.exists():
            raise UserError(f"dpo.preferences: no such file or folder: {path}")
        files += [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    found = _there({"dpo.preferences": fingerprint(files) if files else ""}) | _functions({"dpo.mined": dpo.mined})
    return {"dpo": dpo.model_dump(mode="json", exclude=recipe_dpo.TOLD), **base, FILES: {**base[FILES], **found}}


def ration(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe the search for the ratio reads, beside the sets."""
    return {
        "admission": {"ration": recipe.admission.ration.model_dump(mode="json"), **_patience(recipe)},
        "sft": _short_training(recipe, "replay"),
        "evaluate": {"max_tokens": recipe.evaluate.max_tokens},
        "threads": recipe.threads,
        FILES: {"model": _base(recipe), **_verifier(recipe)},
    }


def evaluation(recipe: Recipe) -> dict[str, Any]:
    files = {"model": _base(recipe), SHIPPED: _corpora()}
    return {"evaluate": recipe.evaluate.model_dump(mode="json"), "threads": recipe.threads, FILES: files}


def _base(recipe: Recipe) -> str:
    return _model(recipe.model)


def _model(name: str) -> str:
    """A digest of a model's files."""
    folder = assets.base_dir(name)
    return fingerprint(path for path in folder.iterdir() if path.is_file())
