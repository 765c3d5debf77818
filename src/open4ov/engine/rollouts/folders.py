"""Weights that a trainer has written: out of the folders that a server was told to read, and from nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open4ov.engine.quantize import DTYPES
from open4ov.engine.serving.faults import Refused
from open4ov.errors import UserError
from open4ov.model import Config, Qwen3VL
from open4ov.model.checkpoint import weight_files

_PARAM = "kwargs.weights_path"
_FOR_TRAINING = ("initializer_range", "router_aux_loss_coef")
"""Keys of a configuration that change nothing of what is answered"""


def allowed(path: str, folders: Sequence[Path]) -> Path:
    """The folder of weights that a client names, with all its links followed. Raises Refused for one that is not there,
    that lies in none of `folders`, or that holds links which lead out of them; which of these is not told apart."""
    roots = [folder.resolve() for folder in folders]
    try:
        found = Path(path).resolve(strict=True)
        held = [found, *(one.resolve() for one in found.iterdir())]
        if all(any(one.is_relative_to(root) for root in roots) for one in held):
            return found
    except (OSError, ValueError, RuntimeError):
        pass
    raise Refused("no folder of weights in those that this server reads (--folder)", _PARAM)


def read(folder: Path, config: Config) -> Mapping[str, Tensor]:
    """The weights in a folder as a state dict of a model of `config`. As far as they are float32 or bfloat16 they lie
    in the files' memory maps: whoever takes them copies them, and there is no other copy. They may have a head of
    their own where `config` has none, as vLLM wants it. Raises Refused for another model's, and for what is no whole
    model."""
    try:
        if any(file.parent != folder for file in weight_files(folder).values()):
            raise Refused("the weights' index names files outside its folder", _PARAM)
        model = Qwen3VL.from_pretrained(folder, lambda _, weight: weight if weight.dtype in DTYPES else weight.float())
    except UserError as error:
        raise Refused(f"the weights cannot be read: {error}", _PARAM) from None
    own, theirs = _told(config), _told(model.config)
    if other := sorted(key for key in own if own[key] != theirs[key]):
        raise Refused(f"the weights are of another model than this server's: {', '.join(other)} differ", _PARAM)
    state = model.state_dict()
    head = state.pop("head.weight", None) if config.tie_word_embeddings else None
    if head is not None and not torch.equal(head.float(), state["text.embed.weight"].float()):
        raise Refused("the weights have a head of their own, and this server's model has none", _PARAM)
    return state


def _told(config: Config) -> dict[str, Any]:
    """What decides the answers, by key."""
    raw = asdict(config)
    found = {f"{part}.{key}": value for part in ("text", "vision") for key, value in raw[part].items()}
    found |= {key: value for key, value in raw.items() if key not in ("text", "vision", "extra", "tie_word_embeddings")}
    return {key: value for key, value in found.items() if key.rpartition(".")[2] not in _FOR_TRAINING}
