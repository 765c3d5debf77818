"""Finds a model what was told or shown far back? Accuracy by depth and length.

    python -m bench.needle MODEL [--lengths 256 512 1024] [--pictures 2 4 8] [--depths 0 0.25 0.5 0.75 1]
        [--languages en zh] [--count 20] [--seed 0] [--threads N] [--quick]

MODEL: a folder of a Qwen3-VL in Hugging Face layout, or `nano`. --lengths are tokens of a text haystack, --pictures the
pictures of a picture haystack (0: none). The last columns say how long and how deep it really was: turns are whole.
--quick: a smoke run, two needles a cell, one length and one depth. What is hidden is of the corpora's test split
(`evaluate/needle.py`).
"""

from __future__ import annotations

import argparse
import sys

import torch

from bench.measure import machine
from open4ov import assets
from open4ov.engine import Engine
from open4ov.evaluate import needle
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import Message


def measure(
    model: Qwen3VL,
    processor: Processor,
    lengths: list[int],
    pictures: list[int],
    depths: list[float],
    languages: list[str],
    count: int,
    seed: int,
) -> list[needle.Probe]:
    """The answered probes of both kinds."""

    def size(messages: list[Message]) -> int:
        return len(processor.encode(messages, [], pixels=False))

    probes = needle.texts(size, lengths, depths, languages, count, seed) if lengths else []
    probes += needle.pictures([n for n in pictures if n], depths, languages, count, seed)
    return needle.ask(Engine(model, processor, autocast=torch.bfloat16), probes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--lengths", type=int, nargs="*", default=[256, 512, 1024])
    parser.add_argument("--pictures", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--depths", type=float, nargs="+", default=[0, 0.25, 0.5, 0.75, 1])
    parser.add_argument("--languages", nargs="+", choices=["en", "zh"], default=["en", "zh"])
    parser.add_argument("--count", type=int, default=20, help="needles a cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    given = parser.parse_args()
    if given.quick:
        given.lengths, given.pictures, given.depths, given.count = given.lengths[:1], given.pictures[:1], [0.5], 2
    if given.threads:
        torch.set_num_threads(given.threads)
    folder = assets.base_dir(given.model)
    model, processor = Qwen3VL.from_pretrained(folder), Processor.from_pretrained(folder)
    longest, wanted = model.config.text.max_position_embeddings, max([0, *given.lengths])
    if longest and wanted > longest:
        print(f"--lengths: {wanted} is more than the model's {longest} positions", file=sys.stderr)
    probes = measure(
        model, processor, given.lengths, given.pictures, given.depths, given.languages, given.count, given.seed
    )
    print(needle.markdown(probes))
    print()
    print(machine())


if __name__ == "__main__":
    main()
