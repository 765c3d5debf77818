"""From nothing to a nano base: tokenizer, random weights, training, model card; and from that to one with experts."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from open4ov.corpora import dense, fonts
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, make_tokenizer_files
from open4ov.model.upcycle import upcycle

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
    _writable(out)
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
    _record(out, start)
    anew = f"--pictures {training.pictures} --items {training.items} --seed {training.seed}"
    origin = "from an earlier base (`start` in `training.json`)" if start else "from random weights"
    how = f"""First the vision tower alone, on {training.pictures:,} pictures labelled token by token (6,700 icons,
drawings, characters, text; none of a vertical); then the whole model, on {training.items:,} conversations."""
    card = _card("open4ov-nano", f"A Qwen3-VL architecture of {_millions(model)} M parameters, pretrained {origin}")
    (out / "README.md").write_text(card + _training(how, training, f"open4ov nano train --out DIR {anew}"))


@dataclass(frozen=True)
class Upcycling:
    """How the base with experts is made: its feed-forwards are cut into `experts`, of which a token uses `top_k`."""

    experts: int = 8
    top_k: int = 4
    aux_loss: float = 0.01


def build_moe(
    out: Path,
    start: Path,
    upcycling: Upcycling,
    training: NanoTraining,
    on_step: Callable[[dict[str, float]], None],
    compile_blocks: bool = True,
) -> None:
    """Write the nano base with experts into `out`: that of `start` upcycled (`model.upcycle`), and trained on.

    Raises UserError when `out` cannot be written, and for a base that cannot be cut so.
    """
    _writable(out)
    processor, dense_model = Processor.from_pretrained(start), Qwen3VL.from_pretrained(start)
    model = upcycle(dense_model, upcycling.experts, upcycling.top_k, upcycling.aux_loss, training.seed)
    train(model, processor, out, training, on_step, compile_blocks)
    _record(out, start, asdict(upcycling))
    about = (
        f"A Qwen3-VL-MoE architecture of {_millions(model)} M parameters (in each layer a token meets "
        f"{upcycling.top_k} of {upcycling.experts} experts), made from open4ov-nano and trained further"
    )
    how = f"""Each feed-forward of open4ov-nano was cut into {upcycling.experts} experts; then all but the vision
tower was trained on {training.items:,} conversations."""
    command = f"open4ov nano upcycle --out DIR --items {training.items} --seed {training.seed}"
    command += f" --experts {upcycling.experts} --top-k {upcycling.top_k}"
    (out / "README.md").write_text(_card("open4ov-nano-moe", about) + _training(how, training, command))


def _writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}; give another --out") from None


def _record(out: Path, start: Path | None, more: dict[str, object] | None = None) -> None:
    """Adds to training.json where it ran, from what, and `more`."""
    record = json.loads((out / "training.json").read_text()) | (more or {})
    record |= {"hardware": platform.processor() or platform.machine(), "torch": torch.__version__.split("+")[0]}
    if start is not None and (start / "training.json").is_file():
        record["start"] = json.loads((start / "training.json").read_text())
    (out / "training.json").write_text(json.dumps(record, indent=1))


def _chinese() -> str:
    return "".join(sorted(c for c in fonts.characters() if ord(c) > 0x2E80))


def _texts(seed: int) -> Iterator[str]:
    yield from english_prose()
    for index in range(TOKENIZER_ITEMS):
        for message in dense("train", index, seed).sample.messages:
            yield message.text


def _millions(model: Qwen3VL) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}"


def _card(title: str, about: str) -> str:
    return f"""---
license: apache-2.0
pipeline_tag: image-text-to-text
---
# {title}

{about} by open4ov on **general** tasks over annotated drawings:
naming symbols, colours, counting, reading, positions, comparing two pictures, charts, arithmetic with and without a
picture, following instructions; English, and some Chinese. It exists so that post-training can be tried on a laptop. It
knows nothing else, and has seen no symbol, name or fact of the in-car or medical verticals.

It was taught almost nothing about missing pictures: asked about one that is not there, it guesses. Post-training
mends that.
"""


def _training(how: str, training: NanoTraining, command: str) -> str:
    options = "\n".join(f"| {key} | {value} |" for key, value in asdict(training).items())
    return f"""
## Training

{how}
`curve.json`: the losses; `training.json`: these options.

| option | value |
|---|---|
{options}

Anew: `{command}`.

Pictures seen in training: Material Design Icons (Apache-2.0), Open Clip Art (public domain), text in a subset of Noto
Sans CJK (OFL 1.1).
"""
