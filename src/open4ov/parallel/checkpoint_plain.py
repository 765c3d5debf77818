"""Checkpoints that one process has written (`checkpoints.py`), read by a training on many."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from open4ov.checkpoints import WEIGHT, Checkpoint
from open4ov.errors import UserError
from open4ov.parallel.checkpoint_files import Named, State, read, to_twins
from open4ov.training import Optimizer

RECORD, TENSORS = "curve.json", "state.safetensors"


def load(path: Path, model: Named, optimizer: Optimizer) -> Checkpoint:
    """Puts the checkpoint `path` (a `step-N`) into model and optimizer: what is trained; the rest was never written.

    Raises UserError, on all ranks alike, for one that is damaged or of another model.
    """
    names = dict(model.named_parameters())
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    states: dict[str, State] = {}
    own: dict[Tensor, dict[str, Tensor]] = {}
    try:
        record = json.loads((path / RECORD).read_text())
        with safe_open(path / TENSORS, framework="pt") as file:
            stored = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
            for full, shape in stored.items():
                key, _, name = full.partition(".")
                if name not in names:
                    continue
                if not shape:
                    value = file.get_tensor(full)
                    # a fused optimizer counts its steps where the parameter is
                    own.setdefault(names[name], {})[key] = value.to(names[name].device)
                elif list(names[name].shape) != list(shape):
                    raise UserError(f"{path}: of another model: {name} has shape {shape} there")
                elif key == WEIGHT:
                    states.setdefault(key, {})[name] = names[name].detach()
                else:
                    states.setdefault(key, {})[name] = torch.zeros_like(names[name].detach())
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: damaged ({error}); delete it, and the training begins anew") from error
    lacking = [name for name, p in names.items() if id(p) in trained and f"{WEIGHT}.{name}" not in stored]
    if lacking:
        raise UserError(f"{path}: of another model: no tensor {lacking[0]}")
    read(path, {f"{key}.{name}": t for key, named in states.items() for name, t in named.items()})
    states.pop(WEIGHT)
    tensors = {word: states.pop(word, {}) for word in record["tensors"]}
    for key, named in states.items():
        for name, value in named.items():
            own.setdefault(names[name], {})[key] = value
    to_twins(model, own)
    optimizer.restore(own)
    done = int(path.name.removeprefix("step-"))
    return Checkpoint(done, record["identity"], record["curve"], record["notes"], tensors)
