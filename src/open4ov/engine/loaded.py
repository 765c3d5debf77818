"""An engine over a model that is read from a folder to answer with, for `open4ov ask`, `serve` and others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from open4ov import machine
from open4ov.engine.generate import Engine
from open4ov.engine.quantize import load
from open4ov.model import Processor


def loaded(
    folder: Path, quantize: str | None = None, adapter: Path | None = None, device: str = "auto", **options: Any
) -> Engine:
    """Computes on `device` (auto, cpu, cuda; int8 on the CPU, fp8 on a GPU): on a CPU in float32, on a GPU in bfloat16.
    `options`: further ones of the engine. Raises UserError as `load`, and for a device that is not there."""
    place = machine.answering(quantize, device, "--device", "--quantize")
    half = torch.bfloat16 if place.type == "cuda" else None
    model = load(folder, quantize, adapter, half, place)
    return Engine(model, Processor.from_pretrained(folder), autocast=half, watch=False, **options)
