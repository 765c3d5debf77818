"""A short training on a small batch, for admission to look at what comes of it (paper §3.2.2, rapid assessment)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import Recipe
from open4ov.sample import Sample
from open4ov.sft import curriculum
from open4ov.sft.encoding import Encoder
from open4ov.sft.fit import fit
from open4ov.store import ImageStore, write_json

Progress = Callable[[str, float, float], None]


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
    into a pack.
    """
    model_dir, record = folder / "model", folder / "trained.json"
    if record.exists():
        return model_dir
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
    torch.set_flush_denormal(True)
    section, options = recipe.sft, recipe.sft.knowledge
    model, processor = Qwen3VL.from_pretrained(start), Processor.from_pretrained(start)
    limit = section.pack_tokens if section.too_long == "cut" else None
    encoder = Encoder(processor, store, model.device, limit, round(section.vision_cache_gib * 2**30))
    plan = curriculum.order(
        curriculum.Material(list(own), list(replay)),
        tokens=recipe.admission.assess.tokens,
        replay=options.replay,
        turns=options.turns,
        noise=1.0,
        length=encoder.length,
        longest=section.pack_tokens,
        seed=seed,
    )
    if not plan.samples:
        raise UserError(
            f"admission.assess: none of {len(own)} samples fits into a pack of {section.pack_tokens} tokens "
            "(sft.pack_tokens)"
        )
    plain = section.model_copy(update={"lora_rank": 0, "compile": False})
    done = fit(model, encoder, plan.samples, plain, options, folder / "checkpoints", progress=progress)
    model.save_pretrained(model_dir)
    processor.save_pretrained(model_dir)
    write_json(record, {**done.summary, "too_long": plan.too_long, "epochs": round(plan.epochs, 3)})
    return model_dir
