"""What each stage's output depends on: the options that it reads, and digests of the files outside of the run.

A stage is made anew when this changes (`graph.py`). What cannot be read, or a function that is not there, is told here,
before any stage runs.

A config is shaped as the recipe is, so that what has changed can be told by its place there (`changes.py`); options
that change nothing of a stage's output are left out: so is all of `parallel`, which spreads the same computation over
processes, and whose results differ by rounding only. `FILES` maps an option to the digest of the files that it names.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from open4ov import key_files, machine, recipe_dpo
from open4ov.changes import FILES
from open4ov.errors import UserError
from open4ov.recipe import LabelsSection, Recipe
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
    folders = {key: key_files.folder(Path(name)) for key, name in named.items() if not name.startswith("corpus:")}
    unread = {"title"} if section.questions else {"title", "questions"}
    return {"images": section.model_dump(mode="json", exclude=unread), FILES: {**folders, SHIPPED: key_files.corpora()}}


def data(recipe: Recipe) -> dict[str, Any]:
    from open4ov.mllm.embedders import identity

    embedder = identity(recipe.data.embedder)
    labels = _label_file(recipe)
    if labels and not labels.is_file():
        raise UserError(f"data.labels: no such file: {labels}")
    if recipe.data.labels and not labels:
        from open4ov.data.labels import load

        load(recipe.data.labels)  # what it adds may not fit the tree
    feedback = Path(recipe.data.feedback) if recipe.data.feedback else None
    if feedback and not feedback.is_file():
        raise UserError(f"data.feedback: no such file: {feedback}")
    files = {
        "data.labels": fingerprint([labels]) if labels else "",
        "data.feedback": fingerprint([feedback]) if feedback else "",
        "data.embedder": embedder,
        **key_files.evaluation_sets(recipe),
        **{
            f"data.providers.{name}.model": key_files.model(one.model)
            for name, one in recipe.data.providers.items()
            if one.kind == "engine" and one.model
        },
    }
    unread = _PACE if recipe.data.admit_all else {**_PACE, "admit_all": True}  # as sets before there was a choice
    return {"data": recipe.data.model_dump(mode="json", exclude=unread), FILES: key_files.there(files)}


def _label_file(recipe: Recipe) -> Path | None:
    labels = recipe.data.labels
    return Path(labels) if isinstance(labels, str) and labels else None


def assess(recipe: Recipe) -> dict[str, Any]:
    """The short training is stage 1's, with another number of tokens and nothing graded."""
    section = recipe.admission.assess
    files = {"model": key_files.base(recipe), SHIPPED: key_files.corpora(), **_verifier(recipe)}
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
    labels = _label_file(recipe)
    found: dict[str, Any] = {"sft": {"held_out": recipe.sft.held_out}}
    files = {"data.labels": fingerprint([labels]) if labels else ""}
    if isinstance(recipe.data.labels, LabelsSection):
        found["data"] = {"labels": recipe.data.labels.model_dump(mode="json")}
    balance = recipe.admission.balance
    if balance.samples:
        from open4ov.mllm.embedders import identity

        pace = {"embedder": {"batch": True, "endpoint": _ASKING | {"batch"}}}
        found["admission"] = {"balance": balance.model_dump(mode="json", exclude=pace)}
        files["admission.balance.embedder"] = identity(balance.embedder) if balance.max_clusters else ""
    return {**found, FILES: key_files.there(files)}


def probe(recipe: Recipe) -> dict[str, Any]:
    """Which questions are asked of the base, and what counts as right."""
    asked = {"ability": {"probe": recipe.sft.ability.probe}}
    asked |= recipe.sft.model_dump(mode="json", include={"verifier", "precision", "device"})
    return {
        "sft": asked,
        "admission": _patience(recipe),
        "threads": recipe.threads,
        FILES: {"model": key_files.base(recipe), **_verifier(recipe)},
    }


def _verifier(recipe: Recipe) -> dict[str, str]:
    return key_files.functions({"sft.verifier": recipe.sft.verifier})


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
        base: dict[str, Any] = {"threads": recipe.threads, FILES: {"model": key_files.base(recipe)}}
        if name == "rl":
            base[FILES] |= key_files.functions({"rl.reward": recipe.rl.reward})
            machine.online(recipe.rl)
            base[FILES] |= key_files.there({"rl.embedder": _encoder(recipe)})
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
    files = {SHIPPED: key_files.corpora()} if "corpora" in kinds else {}
    files |= key_files.functions({"rl.reward": rl.reward})
    if kinds != {"corpora"}:
        files |= key_files.evaluation_sets(recipe)
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
    return {**found, FILES: key_files.there(files)}


def _encoder(recipe: Recipe) -> str:
    """A digest of the encoder's files; "" for a function of this package."""
    from open4ov.rl.distance.encoders import identity

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
    found: dict[str, Any] = {"sft": made, FILES: {"model": key_files.base(recipe)}}
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
    found = key_files.there({"dpo.preferences": fingerprint(files) if files else ""})
    found |= key_files.functions({"dpo.mined": dpo.mined})
    unread = {"most"} if dpo.most is None else set[str]()  # what was made before there was the option stays
    base["dpo"] = dpo.model_dump(mode="json", exclude=recipe_dpo.TOLD | unread)
    if dpo.mix.get(recipe_dpo.VERIFIED, 0) > 0:
        found |= key_files.functions({"rl.reward": recipe.rl.reward})
        base["rl"] = {"reward": recipe.rl.reward, "max_tokens": recipe.rl.max_tokens}
    return {**base, FILES: {**base[FILES], **found}}


def ration(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe the search for the ratio reads, beside the sets."""
    return {
        "admission": {"ration": recipe.admission.ration.model_dump(mode="json"), **_patience(recipe)},
        "sft": _short_training(recipe, "replay"),
        "evaluate": {"max_tokens": recipe.evaluate.max_tokens},
        "threads": recipe.threads,
        FILES: {"model": key_files.base(recipe), **_verifier(recipe)},
    }


def evaluation(recipe: Recipe) -> dict[str, Any]:
    files = {"model": key_files.base(recipe), SHIPPED: key_files.corpora()}
    files |= key_files.functions({"evaluate.equivalence": recipe.evaluate.equivalence})
    machine.evaluation(recipe.evaluate)
    usual = {"weights": "same", "device": "auto"}  # not named in keys, as before there was a choice
    unread = {"min_items", *(name for name, value in usual.items() if getattr(recipe.evaluate, name) == value)}
    found = {"evaluate": recipe.evaluate.model_dump(mode="json", exclude=unread), "threads": recipe.threads}
    if recipe.images.own:  # with another vertical another set is asked
        found["images"] = {"title": recipe.images.called}
    return {**found, FILES: files}


def held_out(recipe: Recipe) -> dict[str, Any]:
    """Which are asked is decided by the data; here only when there are too few."""
    return {"evaluate": {"min_items": recipe.evaluate.min_items}}
