"""The model that is trained, made ready by the recipe, and saved afterwards: one way for the stages of SFT and for
admission's short trainings."""

from __future__ import annotations

from pathlib import Path

import torch

from open4ov import training
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, lora
from open4ov.parallel import pretrained, recompute
from open4ov.recipe import SftSection
from open4ov.sft.encoding import Encoder
from open4ov.sft.features import Features
from open4ov.store import ImageStore


def encoder(
    section: SftSection,
    processor: Processor,
    pictures: ImageStore,
    scratch: Path | None = None,
    device: torch.device | None = None,
) -> Encoder:
    """Encodes for a model that is trained by `section`. `scratch`: a folder of its own for features on disk; without
    one there are none there. `device`: where patches are cut, that of this process where there are many (None: what
    `sft.device` says). Raises UserError for a device that is not there."""
    return Encoder(
        processor,
        pictures,
        device or training.device(section.device, "sft.device"),
        limit=section.pack_tokens if section.too_long == "cut" else None,
        features=Features(round(section.vision_cache_gib * 2**30), scratch, round(section.vision_disk_gib * 2**30)),
        share=section.share_prefix,
    )


def load(start: Path, section: SftSection, seed: int) -> Qwen3VL:
    """The model of a folder on `sft.device`, with what is computed again in its backward pass, and with new adapters
    where `sft.lora_rank` asks for them. Raises UserError for options that cannot go together there."""
    device = training.device(section.device, "sft.device")
    return _made_ready(Qwen3VL.from_pretrained(start, device=device), section, seed, device)


def skeleton(start: Path, section: SftSection, seed: int) -> Qwen3VL:
    """The same without its weights, on the meta device, for who spreads it over many processes."""
    return _made_ready(pretrained.skeleton(start), section, seed, training.device(section.device, "sft.device"))


def _made_ready(model: Qwen3VL, section: SftSection, seed: int, device: torch.device) -> Qwen3VL:
    if section.compile and training.kind(section.precision, device) == "fp32" and model.config.text.num_experts:
        raise UserError("sft.compile: compiled experts need sft.precision bf16; change one of the two")
    recompute.apply(model, section.recompute, section.recompute_vision)
    if section.lora_rank:
        lora.add(model, section.lora_rank, seed=seed)
    return model


def save(model: Qwen3VL, processor: Processor, folder: Path, adapter: Path | None = None) -> None:
    """Writes the model, adapters merged into it, with its processor. `adapter`: a file for the adapters as they are."""
    if any(lora.is_adapter(key) for key, _ in model.named_parameters()):
        if adapter is not None:
            lora.save(model, adapter)
        lora.merge(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
