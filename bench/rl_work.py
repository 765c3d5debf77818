"""The prompts, responses and pairs of `python -m bench.rl` and `python -m bench.dpo`: all of one length.

A prompt is a board of coloured squares (`bench/sft_work.py`) and a question, filled up with words until it has the
wanted number of tokens, picture included. Equal lengths leave padding out of the comparison: what remains is computed.
A folder holds pictures/ and work.json: {"prompts": [{"image", "question"}], "responses": [a list of token ids for each
response of each prompt]}.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench.sft_work import COLOURS, SIDE
from open4ov.model import Processor
from open4ov.rl.tasks import Task
from open4ov.sample import Sample, user

RIGHT = (1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0)
"""Rewards of a group's responses, whatever they say: no group is dead, both sides have the same to compute"""
WORDS = ("red", "green", "blue", "square", "row", "column", "the", "board", "and", "of", "which", "is")


@dataclass(frozen=True)
class Shape:
    """How long things are, in tokens; `side`: squares of the board, a square being one visual token."""

    prompt: int
    response: int
    side: int


SHAPES = {"4": Shape(192, 48, 12), "1": Shape(48, 48, 4)}
"""By prompt length in responses: three quarters of the long prompts are picture, a third of the short ones"""


def make(folder: Path, processor: Processor, shape: Shape, prompts: int, group: int, seed: int = 0) -> None:
    """Writes the pictures and work.json."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    rows, responses = [], []
    for number in range(prompts):
        file = f"pictures/{number}.png"
        colours = [[COLOURS[rng.choice(list(COLOURS))] for _ in range(shape.side)] for _ in range(shape.side)]
        board = np.array(colours, dtype=np.uint8).repeat(SIDE, axis=0).repeat(SIDE, axis=1)
        Image.fromarray(board).save(folder / file)
        rows.append({"image": file, "question": _question(processor, Image.fromarray(board), shape.prompt, rng)})
        responses += [[rng.randrange(300, 6000) for _ in range(shape.response)] for _ in range(group)]
    (folder / "work.json").write_text(json.dumps({"prompts": rows, "responses": responses}))


def _question(processor: Processor, board: Image.Image, tokens: int, rng: random.Random) -> str:
    """Words until prompt and picture have so many tokens. Raises ValueError when the picture alone has more."""

    def length() -> int:
        return len(processor.encode([user(" ".join(words), 1)], [board], generate=True, pixels=False))

    words = ["Describe"]
    if length() > tokens:
        raise ValueError(f"a prompt of {tokens} tokens has no room for the picture: {length()} with one word")
    while (found := length()) != tokens:
        words = [*words, rng.choice(WORDS)] if found < tokens else words[: 1 + len(words) // 2]
    return " ".join(words)


def read(folder: Path) -> tuple[list[Task], list[list[int]]]:
    """The prompts as our trainer takes them, and the responses of all of them."""
    work = json.loads((folder / "work.json").read_text())
    tasks: list[Task] = []
    for number, row in enumerate(work["prompts"]):
        with Image.open(folder / row["image"]) as image:
            picture = image.convert("RGB")
        sample = Sample(id=f"bench-{number}", source="bench", task="vqa", answer="none")
        tasks.append(Task(sample, [user(row["question"], 1)], [picture]))
    return tasks, work["responses"]


def make_pairs(folder: Path, processor: Processor, shape: Shape, pairs: int, seed: int = 0) -> None:
    """Writes the pictures and work.json with "pairs": [{"chosen", "rejected"}] in place of responses: texts that have,
    with the closing token, as many tokens as a response."""
    make(folder, processor, shape, pairs, 0, seed)
    rng = random.Random(f"pairs {seed}")
    work = json.loads((folder / "work.json").read_text())
    names = ("chosen", "rejected")
    work["pairs"] = [{name: _answer(processor, shape.response - 1, rng) for name in names} for _ in range(pairs)]
    (folder / "work.json").write_text(json.dumps(work))


def _answer(processor: Processor, tokens: int, rng: random.Random) -> str:
    words: list[str] = []
    while (length := len(processor.tokenize(" ".join(words)))) != tokens:
        words = [*words, rng.choice(WORDS)] if length < tokens else words[: len(words) // 2]
    return " ".join(words)


def read_pairs(folder: Path) -> list[tuple[str, str]]:
    """The chosen and the rejected response to each prompt."""
    pairs = json.loads((folder / "work.json").read_text())["pairs"]
    return [(pair["chosen"], pair["rejected"]) for pair in pairs]
