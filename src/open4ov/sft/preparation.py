"""A model made ready for a training: which parts learn and how fast, its optimizer, what is held of its tower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from open4ov import training
from open4ov.averaging import Average
from open4ov.model import Batch, Trainable
from open4ov.recipe import SftSection, SftStage
from open4ov.recipe_sft import PARTS
from open4ov.sample import Sample
from open4ov.sft import validation as held_out
from open4ov.sft.carry import Carry
from open4ov.sft.encoding import SampleEncoder
from open4ov.training_pass import told

B = TypeVar("B", bound=Batch)
V = TypeVar("V")


def parts(model: Trainable[Any, Any], section: SftSection, options: SftStage) -> dict[int, float]:
    """Freezes the parts of the model that the stage leaves alone; the others' shares of its learning rate."""
    if options.still_vision:  # together, where they cannot be told apart too
        training.freeze_vision(model)
    factors: dict[int, float] = {}
    for part in PARTS:
        if part in options.frozen and not (options.still_vision and part != "language"):
            for parameter in model.part_parameters(part):
                parameter.requires_grad_(False)
        rate = getattr(options.parts, part).learning_rate
        if rate is not None and part not in options.frozen:
            factors |= {id(p): rate / options.learning_rate for p in model.part_parameters(part)}
    return factors


def fresh(model: Trainable[Any, Any], section: SftSection, options: SftStage, factors: training.Factors) -> Carry:
    build = training.muon if section.optimizer == "muon" else training.adamw
    return Carry(
        build(model, options.learning_rate, section.weight_decay, factors, section.embedding_eps),
        Average(model, section.ema) if section.ema else None,
        held_out.Watch(section.validation) if section.validation.every else None,
    )


def hold(
    model: Trainable[B, V],
    encoder: SampleEncoder[B, V],
    section: SftSection,
    samples: list[Sample],
    progress: Callable[[str, int, int], None] | None,
    compile: bool,
) -> None:
    """Holds the features of a tower that stays as it is, and compiles the blocks."""
    # which ranks without the tower cannot see for themselves: only a pipeline's first stage has it
    if not any(told(model, any(parameter.requires_grad for parameter in model.vision_parameters()))):
        with training.precision(section.precision, device(model)):
            encoder.freeze(model, samples, progress)
    else:
        encoder.thaw()
    if compile:
        for block in model.blocks():
            block.compile(dynamic=True)


def device(model: torch.nn.Module) -> torch.device:
    """Where the model's weights are."""
    return next(model.parameters()).device
