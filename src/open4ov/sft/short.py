"""Short trainings on small batches, for admission to look at what comes of them (paper §3.2.2): as stage 1 trains, on
other samples and fewer tokens."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from open4ov.errors import UserError
from open4ov.model import Processor
from open4ov.recipe import Recipe, SftSection
from open4ov.recipe_sft import ValidationSection
from open4ov.sample import Sample
from open4ov.sft import curriculum, pupil
from open4ov.sft.encoding import Encoder
from open4ov.sft.fit import fit
from open4ov.sft.planning import longest_of
from open4ov.store import ImageStore, write_json

Progress = Callable[[str, float, float], None]


def section_of(recipe: Recipe) -> SftSection:
    """The options of stage 1; nothing is compiled, which pays in long trainings only, and nothing is watched: what
    comes of it is asked questions."""
    return recipe.sft.of("knowledge").model_copy(update={"compile": False, "validation": ValidationSection()})


def run(
    start: Path,
    samples: list[Sample],
    section: SftSection,
    encoder: Encoder,
    seed: int,
    folder: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains the model of `start` on the samples in their order, and saves it in `folder`, whole or not at all. Gives
    what `fit` sums up. A training that was interrupted goes on from the checkpoints beside it.

    `section`: of `section_of`; `encoder`: of `pupil.encoder` for it. Raises UserError as `fit` does.
    """
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
    torch.set_flush_denormal(True)
    model = pupil.load(start, section, seed)
    checkpoints = folder.with_name(f"{folder.name}.checkpoints")
    done = fit(model, encoder, samples, section, section.knowledge, checkpoints, progress=progress)
    part = folder.with_name(f".{folder.name}")
    for old in (part, folder):
        shutil.rmtree(old, ignore_errors=True)
    pupil.save(model, encoder.processor, part)
    part.rename(folder)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return done.summary


def train(
    recipe: Recipe,
    start: Path,
    own: Sequence[Sample],
    replay: Sequence[Sample],
    store: ImageStore,
    seed: int,
    folder: Path,
    progress: Progress | None = None,
) -> Path:
    """Trains `start` as stage 1 would, for `admission.assess.tokens` tokens, and gives the folder of the model.

    The samples are blended with the replay of `sft.knowledge.replay`, in random order (nothing is graded). A model that
    is finished in `folder` is not trained again; one that was interrupted goes on. Raises UserError when no sample fits
    into a pack, and for samples that the recipe refuses.
    """
    model_dir, record = folder / "model", folder / "trained.json"
    if record.exists():
        return model_dir
    section = section_of(recipe)
    encoder = pupil.encoder(section, Processor.from_pretrained(start), store)
    plan = curriculum.order(
        curriculum.Material(list(own), list(replay)),
        tokens=recipe.admission.assess.tokens,
        replay=section.knowledge.replay,
        turns=section.knowledge.turns,
        noise=1.0,
        length=encoder.length,
        longest=longest_of(section),
        seed=seed,
    )
    if not plan.samples:
        raise UserError(
            f"admission.assess: none of {len(own)} samples fits into a pack of {section.pack_tokens} tokens "
            "(sft.pack_tokens)"
        )
    summary = run(start, plan.samples, section, encoder, seed, model_dir, progress)
    too_long = sorted({*plan.too_long, *summary["too_long"]})
    write_json(record, {**summary, "too_long": too_long, "epochs": round(plan.epochs, 3)})
    return model_dir
