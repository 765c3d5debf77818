"""Documents ready for the model: one (`Encoded`), and many laid end to end without padding (`Pack`).

Shapes: T tokens, B documents, L longest document, N images, P patches of all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from .attention import Documents
from .prefix import Prefix, Shared


@dataclass
class Encoded:
    """One conversation as the model reads it."""

    input_ids: Tensor
    """Long [T]"""
    positions: Tensor
    """Long [3, T]: M-RoPE time, height, width"""
    targets: Tensor
    """Bool [T]: assistant content and its closing <|im_end|>, the tokens to be predicted"""
    pixels: Tensor
    """Float [P, channels * frames * patch²], in merge-block order"""
    grids: Tensor
    """Long [N, 3]: frames, rows and columns of patches"""
    next_position: int
    """M-RoPE position of the next generated token"""
    name: str = ""
    """What errors call it: the id of its sample"""

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass
class Pack:
    """Documents end to end. `cu_seqlens` [B + 1] are their borders; the rest as in `Encoded`, concatenated."""

    input_ids: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    targets: Tensor
    pixels: Tensor
    grids: Tensor
    names: tuple[str, ...] = ()
    images: tuple[int, ...] = ()
    """Images and videos of each document"""
    places: Tensor | None = None
    """Long [M]: the tokens that visual tokens stand for; None: every placeholder"""
    prefixes: tuple[Prefix, ...] = ()
    """Beginnings that several documents share: all but one of these are there without it (`sharing.py`)"""

    @property
    def lengths(self) -> Tensor:
        """Long [B]"""
        return self.cu_seqlens.diff()

    @cached_property
    def documents(self) -> Documents | Shared:
        """The documents as attention takes them, worked out once for all layers."""
        with torch.inference_mode(False):
            return Shared.of(self.cu_seqlens, self.prefixes) if self.prefixes else Documents.of(self.cu_seqlens)

    @cached_property
    def predicted(self) -> Tensor:
        """Long: the tokens whose probability is asked for: targets, save the first of a document."""
        with torch.inference_mode(False):
            wanted = self.targets.clone()
            wanted[self.cu_seqlens[:-1]] = False
            return wanted.nonzero()[:, 0]

    def to(self, device: torch.device | str) -> Pack:
        if self.input_ids.device == torch.device(device):
            return self
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: x.to(device) for name, x in held.items() if isinstance(x, Tensor)})

    def misfit(self, visual: Tensor, merge: int) -> str:
        """Which document's placeholders are not those of its images and videos: why a forward pass cannot be.

        visual: Bool [T], the placeholders; merge: side of the patches that make a token.
        """
        tokens = (self.grids.prod(1) // merge**2).split(list(self.images))
        for number, (part, given) in enumerate(zip(visual.split(self.lengths.tolist()), tokens, strict=False)):
            if int(part.sum()) != int(given.sum()):
                name = f" ({self.names[number]})" if self.names[number] else ""
                return (
                    f"document {number}{name}: {int(part.sum())} placeholders, but its images and videos have "
                    f"{int(given.sum())} tokens"
                )
        return f"{int(visual.sum())} placeholders, but the features given are of other images or videos"


def pack(documents: Sequence[Encoded]) -> Pack:
    """Lays documents end to end (at least one, none empty)."""
    if not documents or any(len(d) == 0 for d in documents):
        raise ValueError("pack needs at least one document, and no empty ones")
    lengths = torch.tensor([0, *(len(d) for d in documents)])
    pixels = [d.pixels for d in documents if len(d.pixels)]
    return Pack(
        input_ids=torch.cat([d.input_ids for d in documents]),
        positions=torch.cat([d.positions for d in documents], dim=1),
        cu_seqlens=lengths.cumsum(0),
        targets=torch.cat([d.targets for d in documents]),
        pixels=torch.cat(pixels) if pixels else documents[0].pixels,
        grids=torch.cat([d.grids for d in documents]),
        names=tuple(d.name for d in documents),
        images=tuple(len(d.grids) for d in documents),
    )
