"""Between a model on a mesh and Hugging Face's layout of one: each rank reads only what it holds, and a checkpoint of
many processes becomes a directory that everyone reads."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from open4ov.errors import UserError
from open4ov.model import Config, Qwen3VL
from open4ov.model.checkpoint import examine, on_disk
from open4ov.model.lora import is_adapter
from open4ov.parallel import checkpoint_files
from open4ov.parallel.checkpoint_files import Named


def fill(model: Named, directory: Path) -> None:
    """Reads a Hugging Face directory into a model that lies on many processes: its shards only, on each. All of them
    call it.

    Raises UserError as `Qwen3VL.from_pretrained` does, and for a directory of another model.
    """
    found = examine(directory)
    names = {name: p for name, p in model.named_parameters() if not is_adapter(name)}
    unknown = sorted(set(names) - set(found.wanted.values()))
    by_ours = {ours: theirs for theirs, ours in found.wanted.items()}
    state: dict[str, Tensor] = {}
    for name, parameter in names.items():
        if name in by_ours:
            view = on_disk(name, parameter.detach(), found.config, found.hub)
            state[by_ours[name]] = view
            if list(view.shape) != found.shapes[by_ours[name]]:
                unknown.append(name)
    if unknown:
        raise UserError(f"{directory}: is of another model than the one to be filled ({unknown[0]})")
    checkpoint_files.read(directory, state)


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
