"""What a recipe's trainings ask of this machine, told before any stage runs: a card that is not there, an option that
only a card can do anything with."""

from __future__ import annotations

from open4ov.errors import UserError
from open4ov.recipe import DpoSection, EvaluateSection, RlSection


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
    """Raises UserError, naming the key, where models could not answer here. They are asked on the CPU."""
    if section.weights != "same":
        import torch

        from open4ov.engine.quantize import check_machine

        try:
            check_machine(section.weights, torch.device("cpu"))
        except UserError as error:
            raise UserError(f"evaluate.weights: {error}") from None
