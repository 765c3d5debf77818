"""Between a model on a mesh and Hugging Face's layout of one: each rank reads only what it holds, and a checkpoint of
many processes becomes a directory that everyone reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from open4ov.errors import UserError
from open4ov.model import Config, Qwen3VL
from open4ov.model.checkpoint import Region, examine, regions
from open4ov.model.lora import beginnings, is_adapter
from open4ov.parallel import checkpoint_files
from open4ov.parallel.checkpoint_files import Named, to_twins
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.model import Parallel
from open4ov.recipe_parallel import ParallelSection


def skeleton(directory: Path) -> Qwen3VL:
    """The model of a Hugging Face directory without its weights, on the meta device: to be frozen, adapted and then
    `opened`. Raises UserError as `Qwen3VL.from_pretrained` does."""
    with torch.device("meta"):
        return Qwen3VL(examine(directory).config)


def opened(
    model: Qwen3VL,
    directory: Path,
    mesh: Mesh,
    options: ParallelSection | None = None,
    seed: int = 0,
    half: bool = False,
) -> Parallel:
    """A `skeleton` on an opened mesh, with the weights of its directory: bit for bit what `Parallel.of` leaves of the
    model read whole, but no rank ever has more than its parts and what it reads at once of one tensor. seed: that of
    the adapters, where there are any (`lora.add`). half: see `Parallel.of`. All ranks call it.

    Raises UserError as `Parallel.of` and `fill` do.
    """
    adapters = {name: p.shape for name, p in model.named_parameters() if is_adapter(name)}
    parallel = Parallel.of(model, mesh, options, allocate=True, half=half)
    assert not any(True for stage in parallel.stages for _ in stage.buffers()), "nobody would fill a buffer"
    fill(parallel, directory)
    _begin(parallel, adapters, seed)
    return parallel


@torch.no_grad()
def fill(model: Named, directory: Path) -> None:
    """Reads a Hugging Face directory into a model that lies on many processes: its parts only, on each. Adapters stay
    as they are.

    Raises UserError as `Qwen3VL.from_pretrained` does, and for a directory of another model.
    """
    found = examine(directory)
    names = {name: p for name, p in model.named_parameters() if not is_adapter(name)}
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in Qwen3VL(found.config).named_parameters()}
    if unknown := [name for name, p in names.items() if shapes.get(name) != p.shape]:
        raise UserError(f"{directory}: is of another model than the one to be filled ({min(unknown)})")
    places = {name: region for name, p in names.items() if (region := _region(p)) is not None}
    for name, part in regions(found, places):
        _local(names[name]).copy_(part)
    to_twins(model, {})


@torch.no_grad()
def _begin(model: Named, shapes: Mapping[str, torch.Size], seed: int) -> None:
    """Adapters as `lora.add` leaves them. shapes: of all that the whole model has, in its order."""
    own = {name: p for name, p in model.named_parameters() if is_adapter(name)}
    for parameter in own.values():
        _local(parameter).zero_()
    for name, value in beginnings(shapes, seed) if own else ():
        if name in own and (region := _region(own[name])) is not None:
            _local(own[name]).copy_(value[region])


def _region(parameter: Tensor) -> Region | None:
    """Where this rank's part lies in the whole; None: it has nothing of it."""
    if not isinstance(parameter, DTensor):
        return (slice(None),) * parameter.ndim
    (chunk,) = parameter.__create_chunk_list__()  # as torch.distributed.checkpoint asks for it
    if 0 in chunk.sizes:
        return None
    return tuple(
        slice(None) if length == whole else slice(first, first + length)
        for first, length, whole in zip(chunk.offsets, chunk.sizes, parameter.shape, strict=True)
    )


def _local(parameter: Tensor) -> Tensor:
    """This rank's part, the very memory."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter.detach()


def export(path: Path, config: Config, directory: Path, dtype: torch.dtype | None = None) -> None:
    """Writes the weights of the checkpoint `path` (a `step-N`) as a Hugging Face directory, in `dtype` (as held when
    None). In one process, whose memory holds the whole model.

    Raises UserError for files that are not those that were written, for another model's, and for adapters.
    """
    checkpoint_files.verify(path)
    with torch.device("meta"):
        model = Qwen3VL(config)
    held = checkpoint_files.shapes(path)
    adapters = [name for name in held if is_adapter(name)]
    if adapters:
        raise UserError(f"{path}: has adapters ({adapters[0]}): merge them in the training's own model (lora.merge)")
    wanted = {checkpoint_files.disk_name(name): (name, list(p.shape)) for name, p in model.named_parameters()}
    if {name: shape for name, (_, shape) in wanted.items()} != {name: shape for name, (shape, _) in held.items()}:
        raise UserError(f"{path}: is of another model than the configuration that was given")
    state = {key: torch.empty(shape, dtype=getattr(torch, kind)) for key, (shape, kind) in held.items()}
    checkpoint_files.read(path / checkpoint_files.MODEL, state)
    model.load_state_dict({wanted[key][0]: tensor for key, tensor in state.items()}, assign=True)
    model.save_pretrained(directory, dtype)
