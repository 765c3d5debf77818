"""Asking a model questions and saying which of its answers are right: one way for the rapid assessment, for rationing
and for the deficit of stage 2.

Answers are greedy. A verdict is the recipe's verifier's (`verifier.py`), which has so many seconds for each. Where it
gives none, the answer is neither right nor wrong: whoever asks leaves it out or counts it, and tells how many there
are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from open4ov import training
from open4ov.engine import Engine, Request
from open4ov.engine.half import in_half
from open4ov.engine.quantize import load
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import Message, Sample
from open4ov.verifier import Verdict, Verifier

Progress = Callable[[int, int], None]


def model_of(folder: Path, precision: str, device: torch.device | str) -> Qwen3VL:
    """A model that is asked and not trained, on a device: what products alone read is held in what they compute in, and
    says the same as in float32. `precision`: as `sft.precision`. Raises UserError as `Qwen3VL.from_pretrained`."""
    return load(folder, half=training.autocast(precision, device), device=device)


def made_ready(model: Qwen3VL, precision: str, device: torch.device | str) -> Qwen3VL:
    """A model that is not trained any more, in place: as `model_of` gives it."""
    half = training.autocast(precision, device)
    if half is not None:
        in_half(model, half)
    return model.to(device)


def prompt(sample: Sample) -> list[Message]:
    """The conversation up to the last question."""
    return sample.messages[:-1]


def answers(
    model: Qwen3VL,
    processor: Processor,
    samples: Sequence[Sample],
    picture: Callable[[str], Image.Image],
    precision: Literal["auto", "bf16", "fp32"],
    longest: Callable[[Sample], int],
    progress: Progress | None = None,
) -> list[str]:
    """The model's greedy answer to the last question of each sample, computed where the model lies.

    `picture`: a picture by its digest; `precision`: as `sft.precision`; `longest`: most tokens of an answer.
    """
    autocast = torch.bfloat16 if training.kind(precision, model.device) == "bf16" else None
    engine = Engine(model, processor, autocast=autocast)
    requests = [
        Request(prompt(sample), [picture(sha) for sha in sample.images], max_tokens=longest(sample))
        for sample in samples
    ]
    return [completions[0].text for completions in engine.generate(requests, progress)]


def verdicts(said: Sequence[str], samples: Sequence[Sample], verifier: Verifier) -> list[Verdict]:
    """Whether each answer is right by the sample's reference. Raises UserError for a verifier that says nothing of any:
    it is at fault then, not the answers."""
    found = [
        verifier.verdict(text, sample.answer or "", sample.aliases) for text, sample in zip(said, samples, strict=True)
    ]
    if found and all(one.right is None for one in found):
        raise UserError(
            f"{verifier.key}: gave no verdict on any of {len(found)} answers ({found[0].reason}); mend it or name "
            "another"
        )
    return found


def unjudged(count: int, of: int, reason: str, what: str) -> str:
    """What is told of answers without a verdict. `what`: what becomes of them."""
    return f"sft.verifier gave no verdict on {count} of {of} answers ({reason}); {what}"
