"""What `python -m bench.rl` and `python -m bench.dpo` have in common: a model, a shape of work, and how its two sides
are started and asked for on the command line."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import rl_work, sft_work
from bench.sft_job import faster
from bench.sft_pace import ROOT, Worker
from open4ov.model import Config, Processor, Qwen3VL

NEAR = {"fp32": 2e-3, "bf16": 5e-2}
"""How far apart the figures of the two sides' first update may be, relative"""


@dataclass
class Job:
    """One model (nano, 60M) and one length of prompts (in responses), in a folder with the model and work.json."""

    kind: str
    ratio: str
    folder: Path
    python: Path
    options: argparse.Namespace
    precision: str = "fp32"

    @classmethod
    def prepare(cls, kind: str, ratio: str, folder: Path, python: Path, options: argparse.Namespace) -> Job:
        folder.mkdir()
        sft_work.build(kind, folder)
        precision = options.precision if options.precision != "auto" else faster()
        return cls(kind, ratio, folder, python, options, precision)

    @property
    def shape(self) -> rl_work.Shape:
        return rl_work.SHAPES[self.ratio]

    @property
    def processor(self) -> Processor:
        return Processor.from_pretrained(self.folder / self.kind)

    @property
    def config(self) -> Config:
        return Qwen3VL.from_pretrained(self.folder / self.kind).config

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of patches of a prompt's picture."""
        side = self.shape.side * self.config.vision.spatial_merge_size
        return (1, side, side)

    def start(self, module: str, side: str, told: dict[str, Any]) -> Worker:
        """Starts `bench.MODULE_SIDE` with the settings that both sides share and `told`."""
        number = len(list(self.folder.glob("told-*")))
        out = self.folder / f"{side}-{number}"
        out.mkdir()
        shared = {
            "model": str(self.folder / self.kind),
            "data": str(self.folder),
            "out": str(out),
            "precision": self.precision,
            "threads": self.options.threads,
        }
        file = self.folder / f"told-{number}.json"
        file.write_text(json.dumps(shared | told))
        python = sys.executable if side == "ours" else self.python
        return Worker(python, f"bench.{module}_{side}", [str(file)], out / "log", self.options.threads)


def alike(name: str, ours: float, peer: float, precision: str) -> None:
    """Raises AssertionError for figures that are not those of the same weights on the same tokens."""
    apart = abs(ours - peer) / max(abs(peer), 1e-9)
    assert apart < NEAR[precision], f"{name} is {apart:.1e} apart in {precision}: {ours} and {peer}"


def asked(about: str | None) -> argparse.Namespace:
    """The options of the command line. Ends the process for a model or length that there is not."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="nano,60M", help="of nano, 60M")
    parser.add_argument("--ratios", default="4,1", help="prompt lengths in responses, of 4, 1")
    parser.add_argument("--quick", action="store_true", help="a smoke run: one timed step, one setting of the peer")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine with other work beside"
    )
    parser.add_argument(
        "--precision", choices=("auto", "bf16", "fp32"), default="auto", help="auto: the faster one here"
    )
    parser.add_argument("--compile", action="store_true", help="try compiled blocks on the peer's side, too")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-trl", help="TRL's environment")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.only, options.ratios = options.only.split(","), options.ratios.split(",")
    for name, known in (("only", sft_work.MODELS), ("ratios", tuple(rl_work.SHAPES))):
        if unknown := sorted(set(getattr(options, name)) - set(known)):
            parser.error(f"--{name}: no {unknown[0]}; there are {', '.join(known)}")
    return options
