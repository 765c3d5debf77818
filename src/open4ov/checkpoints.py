"""Checkpoints of a training on one machine: what is trained, the optimizer's state, and what else the training holds.

One is written beside the one before it, flushed to the disk and renamed; only then the older one goes. So a kill, a
power cut or a full disk at any moment leaves one that is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from open4ov.errors import UserError
from open4ov.store import is_disk_full
from open4ov.training import Optimizer

WEIGHT = "weight"


@dataclass
class Checkpoint:
    """`done`: steps; `identity`: what it is a training of; `curve`: a point for each step. `notes`: anything else that
    JSON can hold. `tensors`: anything else, by a word of the training's own, then by the parameter's name."""

    done: int
    identity: str
    curve: list[dict[str, Any]]
    notes: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def save(folder: Path, model: nn.Module, optimizer: Optimizer, checkpoint: Checkpoint) -> None:
    """Writes `folder/step-N` whole or not at all, and drops older ones. Raises UserError when the disk is full: the
    older ones are there still."""
    names = {id(p): name for name, p in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        tensors |= {f"{WEIGHT}.{names[id(p)]}": p.detach() for p in group["params"]}
    for parameter, state in optimizer.state.items():
        tensors |= {f"{key}.{names[id(parameter)]}": value for key, value in state.items()}
    for word, named in checkpoint.tensors.items():
        tensors |= {f"{word}.{name}": value for name, value in named.items()}
    temporary, final = folder / f".part-{checkpoint.done}", folder / f"step-{checkpoint.done}"
    record = {
        "identity": checkpoint.identity,
        "curve": checkpoint.curve,
        "notes": checkpoint.notes,
        "tensors": sorted(checkpoint.tensors),
    }
    for left in folder.glob(".part-*"):  # by a kill, at this step or another
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        save_file({key: value.contiguous() for key, value in tensors.items()}, temporary / "state.safetensors")
        (temporary / "curve.json").write_text(json.dumps(record))
        for path in (temporary / "state.safetensors", temporary / "curve.json", temporary):
            sync(path)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_disk_full(error):
            raise _full(folder, checkpoint.done) from error
        raise
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    sync(folder)
    for old in folder.glob("step-*"):
        if old != final:
            shutil.rmtree(old)


def load(folder: Path, model: nn.Module, optimizer: Optimizer, belongs: Callable[[str], bool]) -> Checkpoint | None:
    """Puts the newest checkpoint whose identity `belongs` here into model and optimizer; None when there is none.

    A training that was on many processes goes on in one. Raises UserError for a checkpoint that cannot be read: it was
    whole when it was written.
    """
    for done in _steps(folder):
        path = folder / f"step-{done}"
        if (path / "manifest.json").exists():  # of many processes
            from open4ov.parallel import checkpoint  # brings much in

            return checkpoint.load(folder, model, optimizer, belongs)
        try:
            record = json.loads((path / "curve.json").read_text())
            if not belongs(record["identity"]):
                continue
            tensors = _tensors(path / "state.safetensors")
        except Exception as error:
            raise UserError(f"{path}: damaged ({error}); delete it, and the training begins anew") from error
        own = {word: tensors.pop(word) for word in record["tensors"]}
        put(model, tensors.pop(WEIGHT))
        _restore(model, optimizer, tensors)
        return Checkpoint(done, record["identity"], record["curve"], record["notes"], own)
    return None


def _restore(model: nn.Module, optimizer: Optimizer, tensors: dict[str, dict[str, Tensor]]) -> None:
    parameters = dict(model.named_parameters())
    state: dict[Tensor, dict[str, Tensor]] = {}
    for key, named in tensors.items():
        for name, value in named.items():  # a fused optimizer counts its steps where the parameter is
            state.setdefault(parameters[name], {})[key] = value.to(parameters[name].device)
    optimizer.restore(state)


def put(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies weights into the model's parameters of those names."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)


def _tensors(path: Path) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        for full in file.keys():  # noqa: SIM118
            word, _, name = full.partition(".")
            found.setdefault(word, {})[name] = file.get_tensor(full)
    return found


def _steps(folder: Path) -> list[int]:
    return sorted((int(path.name[5:]) for path in folder.glob("step-*") if path.name[5:].isdigit()), reverse=True)


def _full(folder: Path, done: int) -> UserError:
    before = _steps(folder)
    kept = f"the one of step {before[0]} is whole and kept" if before else "there is none before it"
    return UserError(
        f"{folder}: the disk is full (at the checkpoint of step {done}); {kept}. Free some space and give the same "
        "command again"
    )


def sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
