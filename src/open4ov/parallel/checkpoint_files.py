"""What checkpoints of many processes consist of, and how tensors of a model on any mesh are read from files; by one
process, too."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from open4ov.errors import UserError
from open4ov.model.checkpoint import hf_name
from open4ov.model.lora import is_adapter
from open4ov.parallel import manifest
from open4ov.training import Optimizer

MODEL, OPTIMIZER, RECORD = "model", "optimizer", "record.json"
PART = ".part-"
State = dict[str, Tensor]


class Named(Protocol):
    """A model, whole or spread: parameters by the names that they have in the whole one. A rank that has the first and
    the last stage of a pipeline has tied words twice, under one name."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


def disk_name(name: str) -> str:
    """Hugging Face's name of a parameter; adapters, which have none there, keep theirs."""
    return name if is_adapter(name) else hf_name(name)


def state_of(model: Named, optimizer: Optimizer) -> tuple[State, State, dict[str, dict[str, float]]]:
    """Weights by their names on the disk, in our shapes; the optimizer's tensors and its plain numbers by key and
    parameter."""
    named = list(model.named_parameters())
    weights = {disk_name(name): p.detach() for name, p in named}
    names = {id(p): name for name, p in named}
    states: State = {}
    numbers: dict[str, dict[str, float]] = {}
    for parameter, state in optimizer.state.items():
        name = names[id(parameter)]
        for key, value in state.items():
            if value.ndim:
                states[f"{key}.{name}"] = value
            else:
                numbers.setdefault(key, {})[name] = value.item()
    return weights, states, numbers


def to_twins(model: Named, states: dict[Tensor, dict[str, Tensor]]) -> None:
    """Gives copies of tied words what was read for one of them: the weights, and what `states` has of the optimizer."""
    read_into = dict(model.named_parameters())
    for name, parameter in model.named_parameters():
        source = read_into[name]
        if parameter is not source:
            with torch.no_grad():
                parameter.copy_(source)
            if source in states:
                states[parameter] = {key: value.clone() for key, value in states[source].items()}


def read(folder: Path, tensors: State) -> None:
    """Fills tensors, sharded or not, from safetensors files that hold them whole or in parts."""
    try:
        reader = HuggingFaceStorageReader(str(folder))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process: so it shall be
            state_dict_loader.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
    except CheckpointException as error:  # is no Exception
        raise RuntimeError(f"{folder}: {error}") from error


def verify(path: Path) -> None:
    """Raises UserError, on all ranks alike, unless all files of a checkpoint are as they were written. Each rank reads
    its share of them."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    found: list[str] = []
    try:
        files = manifest.read(path)
        found = manifest.faults(path, files, sorted(files)[rank::size])
        unknown = sorted(
            name.relative_to(path).as_posix()
            for name in path.rglob("*")
            if name.is_file() and name.name != manifest.NAME and name.relative_to(path).as_posix() not in files
        )
        found += [f"{path / name}: is none of this checkpoint's files" for name in unknown if rank == 0]
    except UserError as error:
        found = [str(error)]
    if all_faults := list(dict.fromkeys(fault for one in from_all(found) for fault in one)):
        raise manifest.refused(path, all_faults)


def shapes(path: Path) -> dict[str, tuple[list[int], str]]:
    """The weights of a checkpoint that was verified: their names on the disk, with shape and type."""
    return json.loads((path / RECORD).read_text())["held"][MODEL]


def steps(folder: Path) -> list[int]:
    """The steps that have a whole checkpoint, the newest first."""
    return sorted((int(path.name[5:]) for path in folder.glob("step-*") if path.name[5:].isdigit()), reverse=True)


def from_all(value: Any) -> list[Any]:
    """What each rank gives, by rank."""
    if not dist.is_initialized():
        return [value]
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, value)
    return told
