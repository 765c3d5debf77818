"""From nothing to a nano base: tokenizer, random weights, training, model card."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from open4ov.corpora import dense, fonts
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, make_tokenizer_files

from . import nano_config
from .tokenizer import english_prose, train_tokenizer
from .train import NanoTraining, train

MAX_PIXELS = 160 * 160
TOKENIZER_ITEMS = 12_000


def build(
    out: Path, training: NanoTraining, on_step: Callable[[dict[str, float]], None], start: Path | None = None
) -> None:
    """Write the nano base into `out`, in Hugging Face layout; an interrupted build goes on from its checkpoint.

    The tokenizer sees the text of the first training items, English prose, and the corpus font's characters. `start`:
    train the model of that directory further, with its tokenizer (choose another seed: items are a function of it).
    Raises UserError when `out` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}; give another --out") from None
    if start is not None:
        processor = Processor.from_pretrained(start)
    elif (out / "tokenizer.json").exists():
        processor = Processor.from_pretrained(out)
    else:
        tokenizer = train_tokenizer(_texts(training.seed), _chinese())
        processor = make_tokenizer_files(out, tokenizer, min_pixels=32 * 32, max_pixels=MAX_PIXELS)
    if start is None:
        model = Qwen3VL(nano_config(processor.tokenizer), seed=training.seed)
    else:
        model = Qwen3VL.from_pretrained(start)
    train(model, processor, out, training, on_step)
    record = json.loads((out / "training.json").read_text())
    record |= {"hardware": platform.processor() or platform.machine(), "torch": torch.__version__.split("+")[0]}
    if start is not None and (start / "training.json").is_file():
        record["start"] = json.loads((start / "training.json").read_text())
    (out / "training.json").write_text(json.dumps(record, indent=1))
    (out / "README.md").write_text(_card(model, training, started=start is not None))


def _chinese() -> str:
    return "".join(sorted(c for c in fonts.characters() if ord(c) > 0x2E80))


def _texts(seed: int) -> Iterator[str]:
    yield from english_prose()
    for index in range(TOKENIZER_ITEMS):
        for message in dense("train", index, seed).sample.messages:
            yield message.text


def _card(model: Qwen3VL, training: NanoTraining, started: bool) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    origin = "from an earlier base (`start` in `training.json`)" if started else "from random weights"
    options = "\n".join(f"| {key} | {value} |" for key, value in asdict(training).items())
    return f"""---
license: apache-2.0
pipeline_tag: image-text-to-text
---
# open4ov-nano

A Qwen3-VL architecture of {parameters / 1e6:.1f} M parameters, pretrained {origin} by open4ov on **general**
tasks over annotated drawings: naming symbols, colours, counting, reading, positions, comparing two pictures, charts,
arithmetic with and without a picture, following instructions; English, and some Chinese. It exists so that
post-training can be tried on a laptop. It knows nothing else, and has seen no symbol, name or fact of the in-car or
medical verticals.

It was taught almost nothing about missing pictures: asked about one that is not there, it guesses. Post-training
mends that.

## Training

First the vision tower alone, on {training.pictures:,} pictures labelled token by token (6,700 icons, drawings,
characters, text; none of a vertical); then the whole model, on {training.items:,} conversations. `curve.json`: the
losses; `training.json`: these options.

| option | value |
|---|---|
{options}

Anew: `open4ov nano train --out DIR --pictures {training.pictures} --items {training.items} --seed {training.seed}`.

Pictures seen in training: Material Design Icons (Apache-2.0), Open Clip Art (public domain), text in a subset of Noto
Sans CJK (OFL 1.1).
"""
