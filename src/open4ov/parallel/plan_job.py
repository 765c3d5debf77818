"""What is to be planned: a model, what one of its packs holds, and how many packs a step has."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from open4ov.errors import UserError, nearest
from open4ov.model.config import Config
from open4ov.model.sizes import SIZES

from .recompute import Mode

StageKind = Literal["sft", "rl", "dpo"]
PREFIX = "qwen3-vl-"


@dataclass(frozen=True)
class Work:
    """One pack, which is one microbatch of a dp rank: its tokens as documents, and its pictures.

    `documents`: tokens of each, image tokens included. `grids`: frames, rows and columns of patches of each picture.
    `predicted`: tokens that the head computes. `across`: pairs of a token and a key in a prefix that is part of another
    document (RL's groups).
    """

    documents: tuple[int, ...]
    grids: tuple[tuple[int, int, int], ...] = ()
    predicted: int = 0
    across: int = 0

    @property
    def tokens(self) -> int:
        return sum(self.documents)

    @property
    def patches(self) -> int:
        return sum(frames * rows * columns for frames, rows, columns in self.grids)

    def visual(self, config: Config) -> int:
        """Tokens that stand for pictures."""
        return self.patches // config.vision.spatial_merge_size**2

    @staticmethod
    def usual(
        config: Config, tokens: int, document: int, visual: float, picture: tuple[int, int], predicted: float
    ) -> Work:
        """A pack of equal documents: `tokens` in all, `document` in each, `visual` and `predicted` shares of them.

        `picture`: its rows and columns of patches. Raises UserError for shares that no pack can have.
        """
        if not 0 <= visual < 1 or not 0 < predicted <= 1 or visual + predicted > 1 + 1e-9:
            raise UserError(
                f"a pack of {visual:.0%} visual tokens and {predicted:.0%} predicted ones cannot be: pictures are not "
                "predicted; lower --visual or --predicted"
            )
        whole, rest = divmod(tokens, min(document, tokens))
        documents = (min(document, tokens),) * whole + ((rest,) if rest else ())
        each = picture[0] * picture[1] // config.vision.spatial_merge_size**2
        pictures = round(tokens * visual / each)
        grids = ((1, *picture),) * pictures
        return Work(documents, grids, max(1, min(round(tokens * predicted), tokens - pictures * each)))


@dataclass(frozen=True)
class Job:
    """A training of one stage, whatever it is spread over."""

    model: str
    config: Config
    work: Work
    packs: int
    """of one optimizer step, over all ranks"""
    kind: StageKind = "sft"
    frozen_vision: bool = False
    held_vision: bool = False
    """features of a frozen tower are held, so that it does not compute at all"""
    recompute: Mode = "none"
    recompute_vision: Mode = "none"
    half: bool = True
    """products in bf16 (weights, gradients and the optimizer are float32 all the same)"""
    imbalance: float = 1.2
    """tokens of the busiest rank of experts, over the mean"""
    engine: Literal["own", "other"] = "own"
    """of RL: who generates, on the GPUs that train"""
    engine_half: bool = False
    """its weights that are read by products only are bf16"""
    copies: int = 0
    """of the weights that the engine has beyond the one that it needs on many processes"""
    cached: int = 0
    """tokens whose keys and values the engine keeps during an update"""
    whole: bool = True
    """the first process of many has the whole model on its device before or after, to grade, filter or make pairs"""
    offload: bool = False
    """the optimizer's moments are on the host while responses are generated"""
    notes: tuple[str, ...] = field(default=())

    @property
    def step_tokens(self) -> int:
        return self.work.tokens * self.packs


class UnknownModelError(UserError):
    """A model that is not here and whose name says nothing of its shapes."""


def model_of(name: str) -> tuple[str, Config, str]:
    """A released size by name (`qwen3-vl-8b`, `8B`), or a folder with `config.json`: (name, configuration, note).

    A folder that is not there yet is known by its name, such as `models/Qwen3-VL-8B-Instruct`, and the note says so.
    Raises UnknownModelError, with the nearest name, for any other, and UserError for a configuration that is none.
    """
    folder = Path(name)
    if (folder / "config.json").is_file():
        path = folder / "config.json"
        try:
            raw = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: not valid JSON: {error}") from None
        return folder.name, Config.from_dict(raw, str(path)), ""
    if folder.is_dir():
        raise UnknownModelError(
            f"{name}: a folder without config.json; give a model's folder, or a name such as qwen3-vl-8b"
        )
    if name in ("nano", "nano-moe"):
        from open4ov.assets import base_dir

        raw = json.loads((base_dir(name) / "config.json").read_text())
        return name, Config.from_dict(raw, f"{name}/config.json"), ""
    sizes = {f"{PREFIX}{size}".lower(): size for size in SIZES}
    wanted = folder.name.lower()
    for ending in ("-instruct", "-thinking", "-fp8"):
        wanted = wanted.removesuffix(ending)
    wanted = wanted if wanted.startswith(PREFIX) else PREFIX + wanted
    if wanted not in sizes:
        known = [*sizes, "nano", "nano-moe"]
        raise UnknownModelError(f"{name}: no model of that name, and no folder{nearest(wanted, known)}")
    note = f"{name} is not here: shapes are those of {wanted}, by its name" if "/" in name else ""
    return wanted, SIZES[sizes[wanted]], note
