"""Checkpoints of a training on many processes, by torch.distributed.checkpoint: each rank writes what it holds, and a
training on any other mesh reads what it needs.

A checkpoint is a folder `step-N`: `model/` and `optimizer/` (safetensors, a file for each rank, nothing pickled),
`record.json` (what `checkpoints.Checkpoint` holds) and `manifest.json` (SHA-256 of all of these). The state is copied
to the CPU, and a thread writes it while the training goes on: into a folder beside, flushed to the disk, renamed when
every rank is done; only then older ones go. So a rank that is killed at any moment leaves one that is whole, and what
goes wrong on one rank is told on all. Hashes are compared before anything of a checkpoint is read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import save

from open4ov.checkpoints import Checkpoint
from open4ov.errors import UserError
from open4ov.parallel import checkpoint_plain, manifest
from open4ov.parallel.checkpoint_files import (
    MODEL,
    OPTIMIZER,
    PART,
    RECORD,
    Named,
    State,
    from_all,
    read,
    state_of,
    steps,
    to_twins,
    verify,
)
from open4ov.run_dir import read_json
from open4ov.store import is_disk_full
from open4ov.training import Optimizer

T = TypeVar("T")


class Writer:
    """Writes the checkpoints of one training into `folder`, which all ranks see. All of them make the same calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._group: Any = dist.new_group(backend="gloo")  # its own: the thread speaks while the training does
        self._stager = DefaultStager(StagingOptions(False, False, False, False))
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def save(self, model: Named, optimizer: Optimizer, checkpoint: Checkpoint) -> None:
        """Returns as soon as the state is copied; the one before is written first. Raises what went wrong with that:
        UserError when the disk is full, and the older ones are there still."""
        self.wait()
        weights, states, numbers = state_of(model, optimizer)
        for word, named in checkpoint.tensors.items():
            states |= {f"{word}.{name}": value for name, value in named.items()}
        copied = self._stager.stage({MODEL: weights, OPTIMIZER: states})
        assert isinstance(copied, dict)  # it waits for the copy
        record = {
            "done": checkpoint.done,
            "identity": checkpoint.identity,
            "curve": list(checkpoint.curve),
            "notes": json.loads(json.dumps(checkpoint.notes)),
            "tensors": sorted(checkpoint.tensors),
        }
        self._writing = self._thread.submit(self._write, record, copied, numbers)

    def wait(self) -> None:
        """Until the last checkpoint is whole. Raises what went wrong."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """Waits, and gives thread and group back."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._stager.close()
            dist.destroy_process_group(self._group)

    def _write(self, record: dict[str, Any], state: dict[str, State], numbers: dict[str, dict[str, float]]) -> None:
        rank, done = dist.get_rank(), record["done"]
        part, final = self.folder / f"{PART}{done}", self.folder / f"step-{done}"
        leads, written = rank == 0, f"the checkpoint of step {done} could not be written"

        def begin() -> None:
            for left in self.folder.glob(f"{PART}*") if leads else ():  # by a kill, at this step or another
                shutil.rmtree(left, ignore_errors=True)
            for name in (MODEL, OPTIMIZER) if leads else ():
                (part / name).mkdir(parents=True)

        def write() -> dict[str, Any]:
            for name, tensors in state.items():
                writer = HuggingFaceStorageWriter(str(part / name), save_distributed=True)
                save(tensors, storage_writer=writer, process_group=self._group)
            mine = [path for name in state for path in (part / name).glob(f"shard-{rank + 1:05}-*")]
            own = {path.relative_to(part).as_posix(): manifest.entry(path) for path in mine}
            return {"files": own, "numbers": numbers, "held": _about(state)}

        def publish() -> None:
            if not leads:
                return
            whole = {**record, "numbers": _joined(told, "numbers"), "held": _joined(told, "held")}
            (part / RECORD).write_text(json.dumps(whole))
            files = {name: entry for one in told for name, entry in one["files"].items()}
            manifest.write(part, {**files, RECORD: manifest.entry(part / RECORD)})
            shutil.rmtree(final, ignore_errors=True)
            part.rename(final)
            manifest.sync(self.folder)

        def clear() -> None:
            for old in self.folder.glob("step-*") if leads else ():
                if old != final:
                    shutil.rmtree(old)

        self._on_all(begin, done, written)
        told = self._on_all(write, done, written)
        self._on_all(publish, done, written)
        self._on_all(clear, done, f"the checkpoint of step {done} is whole, but those before it could not be deleted")

    def _on_all(self, what: Callable[[], T], done: int, said: str) -> list[T]:
        """What `what` gives on each rank. Where it raises on one, all raise, and none of them goes on or waits; what
        there was of the step goes."""
        own: T | None = None
        fault: BaseException | None = None
        try:
            own = what()
        except (Exception, CheckpointException) as error:
            fault = error
        told: list[Any] = [None] * dist.get_world_size()
        text = None if fault is None else str(fault) or repr(fault)  # that of a MemoryError is empty
        dist.all_gather_object(told, (own, text, is_disk_full(fault)), self._group)
        text = next((text for _, text, _ in told if text is not None), None)
        if text is None:
            return [one for one, _, _ in told]
        if dist.get_rank() == 0:
            shutil.rmtree(self.folder / f"{PART}{done}", ignore_errors=True)
        if not any(full for _, _, full in told):
            raise RuntimeError(f"{said}: {text}") from fault
        before = steps(self.folder)
        kept = f"the one of step {before[0]} is whole and kept" if before else "there is none before it"
        raise UserError(
            f"{self.folder}: the disk is full (at the checkpoint of step {done}); {kept}. Free some space and give the "
            "same command again"
        ) from fault


def load(folder: Path, model: Named, optimizer: Optimizer, belongs: Callable[[str], bool]) -> Checkpoint | None:
    """Puts the newest checkpoint whose identity `belongs` here into model and optimizer, whatever mesh it was written
    on, or by one process (`checkpoints.py`); None when there is none. All ranks call it.

    Raises UserError, on all ranks alike, for files that are missing or are not those that were written (each is named),
    and for a checkpoint of another model or optimizer.
    """
    alone = not dist.is_initialized()
    found = from_all(_newest(folder, belongs) if alone or dist.get_rank() == 0 else None)[0]
    if found is None:
        return None
    if isinstance(found, str):
        raise UserError(found)
    done: int = found
    path = folder / f"step-{done}"
    if not (path / RECORD).exists():
        return checkpoint_plain.load(path, model, optimizer)
    verify(path)
    record = json.loads((path / RECORD).read_text())
    weights, shapes = state_of(model, optimizer)[0], record["held"]
    _fits(path, weights, shapes[MODEL])
    read(path / MODEL, weights)
    names = dict(model.named_parameters())
    states, own = _prepared(names, optimizer, record)
    read(path / OPTIMIZER, {f"{key}.{name}": t for key, named in states.items() for name, t in named.items()})
    tensors = {word: states.pop(word, {}) for word in record["tensors"]}
    for key, named in states.items():
        for name, value in named.items():
            own.setdefault(names[name], {})[key] = value
    to_twins(model, own)
    optimizer.restore(own)
    return Checkpoint(done, record["identity"], record["curve"], record["notes"], tensors)


def _newest(folder: Path, belongs: Callable[[str], bool]) -> int | str | None:
    """The step, or what is wrong."""
    for done in steps(folder):
        path = folder / f"step-{done}"
        record = read_json(path / RECORD) if (path / RECORD).exists() else read_json(path / checkpoint_plain.RECORD)
        if record is None or not isinstance(record.get("identity"), str):
            return str(manifest.refused(path, [f"{path / RECORD}: is missing or damaged"]))
        if belongs(record["identity"]):
            return done
    return None


def _prepared(
    names: Mapping[str, nn.Parameter], optimizer: Optimizer, record: dict[str, Any]
) -> tuple[dict[str, State], dict[Tensor, dict[str, Tensor]]]:
    """Room for the optimizer's tensors and those of the training's own words, by key and name, as this rank holds its
    parameters; and the optimizer's plain numbers."""
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    states: dict[str, State] = {}
    for full, (shape, kind) in record["held"][OPTIMIZER].items():
        key, _, name = full.partition(".")
        parameter = names.get(name)
        if parameter is None:
            continue
        if list(parameter.shape) != shape:
            own_shape = list(parameter.shape)
            raise UserError(f"{key} of {name} has shape {shape} in the checkpoint; the parameter has {own_shape}")
        if key in record["tensors"] or id(parameter) in stepped:
            states.setdefault(key, {})[name] = torch.zeros_like(parameter.detach(), dtype=getattr(torch, kind))
    own: dict[Tensor, dict[str, Tensor]] = {}
    for key, named in record["numbers"].items():
        for name, value in named.items():
            if name in names:
                # a fused optimizer counts its steps where the parameter is
                own.setdefault(names[name], {})[key] = torch.tensor(value, device=names[name].device)
    return states, own


def _about(state: dict[str, State]) -> dict[str, dict[str, tuple[list[int], str]]]:
    """The whole shape and the type of every tensor."""
    return {
        part: {name: (list(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
        for part, tensors in state.items()
    }


def _joined(told: list[dict[str, Any]], what: str) -> dict[str, dict[str, Any]]:
    whole: dict[str, dict[str, Any]] = {}
    for one in told:
        for key, named in one[what].items():
            whole[key] = {**whole.get(key, {}), **named}
    return whole


def _fits(path: Path, weights: State, stored: dict[str, list[Any]]) -> None:
    """Raises UserError, on all ranks alike, unless the checkpoint has exactly this model's tensors."""
    mine = {name: list(t.shape) for name, t in weights.items()}
    wanted = {name: shape for one in from_all(mine) for name, shape in one.items()}
    faults = [f"no tensor {name}" for name in wanted if name not in stored]
    faults += [f"tensor {name}, which this model does not have" for name in stored if name not in wanted]
    faults += [
        f"{name} has shape {stored[name][0]}; this model's is {shape}"
        for name, shape in wanted.items()
        if name in stored and stored[name][0] != shape
    ]
    if faults:
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise UserError(f"{path}: of another model: {'; '.join(faults[:8])}{more}")
