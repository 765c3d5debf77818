"""New weights for a model: all of them, or none.

`load_state_dict` copies tensor after tensor and complains at the end. By then the model is neither the old nor the new
one, and an engine would go on with whatever it has become. So names, shapes and types are looked at beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from open4ov.engine.quantize import QuantisedLinear, QuantisedMoE
from open4ov.errors import UserError

_TOLD = 5


def check(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raises UserError for a state dict that the model would not take as a whole: names that it lacks or that the model
    has not, other shapes, what are no real numbers, and what cannot be quantised where the model is."""
    wanted, quantised = _shapes(model)
    wrong = [f"{name} is missing" for name in wanted if name not in state]
    for name, value in state.items():
        if name not in wanted:
            wrong.append(f"{name} is unknown")
        elif value.shape != wanted[name]:
            wrong.append(f"{name} has shape {list(value.shape)}, not {list(wanted[name])}")
        elif value.is_complex() or value.is_quantized or value.is_meta or value.is_sparse:
            wrong.append(f"{name} holds no plain real numbers")
        elif name in quantised and not bool(value.isfinite().all()):
            wrong.append(f"{name} has numbers that are not finite")
    if wrong:
        more = f", and {len(wrong) - _TOLD} more" if len(wrong) > _TOLD else ""
        raise UserError(f"these weights are not this model's: {'; '.join(wrong[:_TOLD])}{more}; nothing was changed")


@torch.no_grad()
def load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Takes over a state dict that `check` lets through. Raises UserError, and then nothing has changed; any other
    error may come half-way."""
    check(model, state)
    model.load_state_dict(state)


def _shapes(model: nn.Module) -> tuple[dict[str, torch.Size], set[str]]:
    """Of all that a state dict must hold, by name, and which of it is quantised on the way in."""
    shapes, quantised = dict[str, torch.Size](), set[str]()
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        held = {**module._parameters, **_kept_buffers(module)}
        if isinstance(module, QuantisedLinear | QuantisedMoE):
            held.pop("revision")
            shapes |= {prefix + name: shape for name, shape in module.shapes.items()}
            quantised |= {prefix + name for name in module.shapes}
        shapes |= {prefix + name: tensor.shape for name, tensor in held.items() if tensor is not None}
    return shapes, quantised


def _kept_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: one for name, one in module._buffers.items() if name not in module._non_persistent_buffers_set}
