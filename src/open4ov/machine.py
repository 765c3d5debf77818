"""What a recipe asks of this machine, told before any stage runs: a card that is not there, an option that only a card
can do anything with. And where models answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from open4ov.errors import UserError
from open4ov.recipe import DpoSection, EvaluateSection, RlSection

if TYPE_CHECKING:
    import torch


def online(section: RlSection) -> None:
    """Raises UserError, naming the key, where online RL could not begin here."""
    rollout = section.rollout
    if not section.steps or (section.device != "cuda" and rollout.weights == "same" and not rollout.offload):
        return
    from open4ov import training  # torch takes a second: only where it is asked for

    device = training.device(section.device, "rl.device")
    if rollout.offload and device.type != "cuda":
        raise UserError(
            "rl.rollout.offload: makes room on a GPU, and there is no CUDA device here (for rl.device: auto); "
            "take it out"
        )
    if rollout.backend == "own" and rollout.weights != "same":
        from open4ov.engine.quantize import check_machine

        try:
            check_machine(rollout.weights, device)
        except UserError as error:
            raise UserError(f"rl.rollout.weights: {error}") from None


def offline(section: DpoSection) -> None:
    """Raises UserError, naming the key, where offline RL could not begin here."""
    if section.pairs and section.device == "cuda":
        from open4ov import training

        training.device(section.device, "dpo.device")


def evaluation(section: EvaluateSection) -> None:
    """Raises UserError, naming the key, where models could not answer here."""
    if section.weights != "same" or section.device == "cuda":
        answering(section.weights, section.device, "evaluate.device", "evaluate.weights")


def answering(kind: str | None, choice: str, key: str, kind_key: str) -> torch.device:
    """Where a model answers whose weights are of that kind (None and `same`: as they are): int8 on the CPU, fp8 on a
    GPU, others on the device of that choice (`training.device`). Raises UserError, naming the key, where it cannot."""
    from open4ov import training

    needed = {"int8": "cpu", "fp8": "cuda"}.get(kind or "")
    if kind is None or needed is None:  # of a kind that is none `quantize` tells
        return training.device(choice, key)
    import torch

    from open4ov.engine.quantize import check_machine

    if choice not in ("auto", needed):
        raise UserError(f"{key}: {kind} ({kind_key}) is computed on {needed}, not on {choice}; leave one of them out")
    place = torch.device(needed)
    try:
        check_machine(kind, place)
    except UserError as error:
        raise UserError(f"{kind_key}: {error}") from None
    return place
