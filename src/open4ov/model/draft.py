"""A conversation on its way to tokens: pieces are appended left to right, with targets and M-RoPE positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from open4ov.errors import UserError

from .images import image_grid, video_grid
from .packing import Encoded

if TYPE_CHECKING:
    from .processing import Processor

Visual = Image.Image | Sequence[Image.Image]
"""A picture, or the frames of a video"""


class Draft:
    """An `Encoded` under construction: pieces are appended left to right, `position` is M-RoPE's next."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.ids: list[int] = []
        self.targets: list[bool] = []
        self.positions: list[Tensor] = []
        self.position = 0
        self.visuals: list[Visual] = []
        self.grids: list[tuple[int, int, int]] = []

    def special(self, token: str, predicted: bool = False) -> None:
        self._append([self.processor.special[token]], predicted)

    def text(self, text: str, predicted: bool = False) -> None:
        if text:
            self._append(self.processor.tokenize(text), predicted)

    def image(self, image: Image.Image) -> None:
        """<|vision_start|>, one placeholder for each merged token, <|vision_end|>. The image's tokens share one time,
        spread over height and width, and take max(height, width) positions (Qwen2-VL's M-RoPE)."""
        self.special("<|vision_start|>")
        self._picture(image)
        self.special("<|vision_end|>")

    def tokens(self, ids: Sequence[int], images: Sequence[Image.Image]) -> None:
        """Tokens that were read elsewhere, with one placeholder for each picture. Raises UserError for another number
        of them, and for one that does not stand between <|vision_start|> and <|vision_end|>."""
        special, start = self.processor.special, 0
        places = [place for place, token in enumerate(ids) if token == self.processor.image_id]
        if len(places) != len(images):
            raise UserError(f"{len(places)} placeholders of pictures in the prompt, and {len(images)} pictures")
        for place, image in zip(places, images, strict=True):
            around = [*ids[max(place - 1, 0) : place], *ids[place + 1 : place + 2]]
            if around != [special["<|vision_start|>"], special["<|vision_end|>"]]:
                raise UserError(
                    f"token {place} of the prompt: a picture stands between its opening and its closing token"
                )
            self._append(list(ids[start:place]), False)
            self._picture(image)
            start = place + 1
        self._append(list(ids[start:]), False)

    def video(self, opening: str, frames: Sequence[Image.Image], times: Sequence[float]) -> None:
        """Each pair of frames as an image of its own, after the time halfway between them: "<0.3 seconds>".

        Raises UserError for times that no video has: negative, infinite or nan ones, and those that go back.
        """
        if any(not 0 <= time < math.inf for time in times) or any(a > b for a, b in pairwise(times)):
            raise UserError(f"a video's times must be seconds from 0 on, in ascending order, not {list(times)}")
        grid = video_grid(frames, self.processor.images, self.processor.videos)
        self.visuals.append(frames)
        self.grids.append(grid)
        together = self.processor.images.temporal_patch_size
        padded = [*times, *[times[-1]] * (-len(times) % together)]
        for pair in range(grid[0]):
            first, last = padded[pair * together], padded[(pair + 1) * together - 1]
            self.text(f"{opening}<{(first + last) / 2:.1f} seconds>")
            opening = ""
            self.special("<|vision_start|>")
            self._placeholders(self.processor.video_id, grid)
            self.special("<|vision_end|>")

    def _picture(self, image: Image.Image) -> None:
        """What stands between the tokens that open and close it."""
        grid = image_grid(image, self.processor.images)
        self.visuals.append(image)
        self.grids.append(grid)
        self._placeholders(self.processor.image_id, grid)

    def _placeholders(self, token: int, grid: tuple[int, int, int]) -> None:
        """One for each merged token of one frame of a grid."""
        merge = self.processor.images.merge_size
        rows, columns = grid[1] // merge, grid[2] // merge
        self.ids += [token] * (rows * columns)
        self.targets += [False] * (rows * columns)
        height, width = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        self.positions.append(torch.stack((torch.zeros_like(height), height, width)).flatten(1) + self.position)
        self.position += max(rows, columns)

    def finish(self, pixels: bool) -> Encoded:
        return Encoded(
            input_ids=torch.tensor(self.ids, dtype=torch.long),
            positions=torch.cat(self.positions, dim=1) if self.positions else torch.empty(3, 0, dtype=torch.long),
            targets=torch.tensor(self.targets, dtype=torch.bool),
            pixels=self.processor.pixels(self.visuals if pixels else ()),
            grids=torch.tensor(self.grids, dtype=torch.long).view(-1, 3),
            next_position=self.position,
        )

    def _append(self, ids: list[int], predicted: bool) -> None:
        self.ids += ids
        self.targets += [predicted] * len(ids)
        self.positions.append(torch.arange(self.position, self.position + len(ids)).expand(3, -1))
        self.position += len(ids)
