"""Recomputation: what a layer keeps for its backward pass, and what it works out again (paper §5.1).

`none` keeps everything. `op` keeps the results of matrix products and of attention, which are dear, and works out
norms, activations, rotations and sums again, which are cheap. `full` keeps a layer's input only.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from open4ov.errors import UserError
from open4ov.model import Qwen3VL
from open4ov.model.text import DecoderLayer
from open4ov.model.vision import VisionBlock

Mode = Literal["none", "op", "full"]

KEPT = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_grouped_mm",
    "_scaled_mm",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_varlen_attn",
    "flex_attention",
    "all_to_all_single",
)
"""Operators whose results `op` keeps, by name; those of CUDA have not been tried. The last one is what experts on other
ranks are sent and send back (`dispatch.py`)."""


def apply(model: Qwen3VL, language: Mode = "none", vision: Mode = "none") -> None:
    """From now on the decoder's layers and the vision tower's blocks recompute as told. Values and gradients stay.

    Replaces what an earlier call asked for. Raises UserError for an unknown mode.
    """
    parts: tuple[tuple[str, Iterable[nn.Module], Mode], ...] = (
        ("language", model.text.layers, language),
        ("vision", model.vision.blocks, vision),
    )
    for part, layers, mode in parts:
        if mode not in get_args(Mode):
            raise UserError(f"recompute: {part} is {mode!r}; it can be {', '.join(get_args(Mode))}")
        for layer in layers:
            plain = PLAIN.get(type(layer), type(layer))
            layer.__class__ = plain if mode == "none" else RECOMPUTING[plain]
            if mode != "none":
                cast(_Recomputing, layer).recompute = mode


def saved_bytes(compute: Callable[[], Tensor]) -> int:
    """Bytes that `compute` has allocated and not freed when it gives its result: what is kept for the backward pass.

    On a CPU. Computed twice, so that what is made once and for all does not count; garbage of before goes before, as
    what is freed while it is measured would be taken off.
    """
    compute()
    gc.collect()
    with torch.profiler.profile(profile_memory=True) as profiler:
        result = compute()
    del result
    return sum(event.self_cpu_memory_usage for event in profiler.key_averages())


class _Recomputing(nn.Module):
    """What a layer's class becomes: it calls the plain one through a checkpoint. A copy of a layer is on its own."""

    recompute: Mode

    def forward(self, *arguments: Any) -> Tensor:
        return self._run(super().forward, *arguments)

    def _run(self, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return function(*arguments)
        contexts = noop_context_fn
        if self.recompute == "op":
            contexts = partial(create_selective_checkpoint_contexts, _policy)
        # A list is filled by the layer, and would be filled once more when the layer is computed again.
        own = [list[Any]() if isinstance(argument, list) else argument for argument in arguments]
        out: Tensor = checkpoint(function, *own, use_reentrant=False, context_fn=contexts)  # pyright: ignore[reportAssignmentType]
        for given, filled in zip(arguments, own, strict=True):
            if isinstance(given, list):
                given.extend(filled)
        return out


class _RecomputingDecoderLayer(_Recomputing, DecoderLayer):  # pyright: ignore[reportIncompatibleMethodOverride]
    def continued(self, *arguments: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._run(super().continued, *arguments)


class _RecomputingVisionBlock(_Recomputing, VisionBlock):  # pyright: ignore[reportIncompatibleMethodOverride]
    pass


RECOMPUTING: dict[type[nn.Module], type[nn.Module]] = {
    DecoderLayer: _RecomputingDecoderLayer,
    VisionBlock: _RecomputingVisionBlock,
}
PLAIN = {recomputing: plain for plain, recomputing in RECOMPUTING.items()}


def _policy(context: Any, operator: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
    name = getattr(operator, "overloadpacket", operator).__name__
    return CheckpointPolicy.MUST_SAVE if name in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
