"""A training step of ours and of transformers' Qwen3-VL, on the same documents; part of `python -m bench.model`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from bench.measure import in_turn, ratio
from open4ov.assets import base_dir
from open4ov.model import Config, Encoded, Processor, Qwen3VL, pack
from open4ov.sample import assistant, user

NANO = base_dir("nano")


def middle(config: Config) -> Config:
    """About 60 million parameters in nano's shape."""
    text = replace(
        config.text,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    vision = replace(
        config.vision, hidden_size=384, intermediate_size=1024, num_heads=6, depth=8, out_hidden_size=512,
        deepstack_visual_indexes=(1, 3, 5),
    )  # fmt: skip
    return replace(config, text=text, vision=vision)


@dataclass
class Work:
    """The same documents for both: as encoded, and as the padded batch that transformers takes."""

    documents: list[Encoded]
    padded: dict[str, Tensor]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.documents))


def work(processor: Processor, lengths: list[int]) -> Work:
    """A document for each length (tokens, image included): a question about a 96 x 96 picture and a long answer."""
    rng = np.random.default_rng(0)
    documents: list[Encoded] = []
    for length in lengths:
        image = Image.fromarray(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8))
        document = processor.encode([user("What is this?", 1), assistant("one two three " * length)], [image])
        documents.append(processor.cut(document, length))
    longest = max(lengths)
    ids = torch.full((len(documents), longest), processor.pad_id)
    mask = torch.zeros(len(documents), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = document.input_ids
        mask[row, : len(document)] = 1
        labels[row, : len(document)][document.targets] = document.input_ids[document.targets]
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    batch |= {"mm_token_type_ids": (ids == processor.image_id).int()}
    batch |= {
        "pixel_values": torch.cat([d.pixels for d in documents]),
        "image_grid_thw": torch.cat([d.grids for d in documents]),
    }
    return Work(documents, batch)


def trainer(kind: str, directory: Path, job: Work) -> Callable[[], float]:
    """One training step of `ours` or `theirs` on the job, or of one of them `compiled`; gives the loss."""
    model: Qwen3VL | Qwen3VLForConditionalGeneration
    if kind.startswith("ours"):
        model = Qwen3VL.from_pretrained(directory)
        blocks = [*model.vision.blocks, *model.text.layers]
    else:
        model = Qwen3VLForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).train()
        blocks = [*model.model.visual.blocks, *model.model.language_model.layers]
    if kind.endswith("compiled"):
        for block in blocks:
            block.compile(dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = (
                model.loss(pack(job.documents))
                if isinstance(model, Qwen3VL)
                else model(**job.padded, use_cache=False).loss
            )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


LENGTHS = {"equal": [96] * 12, "spread 1:8": [32, 36, 40, 48, 56, 64, 80, 96, 112, 128, 192, 256]}


KINDS = ("ours", "theirs", "ours compiled", "theirs compiled")


def steps(rounds: int) -> str:
    """Both as they are, and both with every block compiled (`sft.compile`), all four in turn."""
    lines = [
        "| model | lengths | ours is times faster (quartiles) | both compiled | ours compiled, theirs not | "
        "ours, tokens/s | compiled | peak memory, ours / theirs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    processor = Processor.from_pretrained(NANO)
    with tempfile.TemporaryDirectory() as folder:
        larger = Path(folder) / "60M"
        Qwen3VL(middle(Qwen3VL.from_pretrained(NANO).config)).save_pretrained(larger)
        processor.save_pretrained(larger)
        for title, directory in (("nano, 10.8 M", NANO), ("60 M", larger)):
            for name, lengths in LENGTHS.items():
                job = work(processor, lengths)
                torch.compiler.reset()
                seconds = in_turn({kind: trainer(kind, directory, job) for kind in KINDS}, rounds)
                peaks = {kind: _peak(kind, directory, name) for kind in ("ours", "theirs")}
                speeds = [job.tokens / statistics.median(seconds[kind]) for kind in ("ours", "ours compiled")]
                ratios = [("theirs", "ours"), ("theirs compiled", "ours compiled"), ("theirs", "ours compiled")]
                lines.append(
                    f"| {title} | {name} | {' | '.join(ratio(seconds[a], seconds[b]) for a, b in ratios)} | "
                    f"{speeds[0]:.0f} | {speeds[1]:.0f} | "
                    f"{peaks['ours'] / 2**20:.0f} / {peaks['theirs'] / 2**20:.0f} MiB |"
                )
    return "\n".join(lines)


def _peak(kind: str, directory: Path, lengths: str) -> int:
    """Bytes by which three steps raise the resident memory of a fresh process that has loaded the model."""
    code = (
        "import sys; from pathlib import Path; from bench import steps; "
        "print(steps.measure_peak(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, kind, directory, lengths], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


def measure_peak(kind: str, directory: Path, lengths: str) -> int:
    step = trainer(kind, directory, work(Processor.from_pretrained(directory), LENGTHS[lengths]))
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    for _ in range(3):
        step()
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
