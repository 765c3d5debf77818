"""How a pack lies on the ranks that compute it together: which of its tokens this one holds.

The ranks of context parallel and, inside each of these, of tensor parallel share a pack. Its T tokens are filled up
to a multiple of their number and cut in equal runs: a rank of `cp` has a *chunk* of C tokens, and of that a rank of
`tp` its *shard* of S. Tokens that fill up stand in no document: attention never sees them, and nothing reads them.

Every stage of a pipeline lays a pack out for itself, from the pack alone.

Shapes: T tokens of the pack, C of the chunk, S of the shard, M visual tokens of the pack, W of the shard, d head dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from open4ov.model import Config, Memory, Pack
from open4ov.model.attention import Documents
from open4ov.model.rope import text_angles
from open4ov.model.text import Laid

from .sequence import Chunk, ChunkMemory


class Axes(Protocol):
    """What is asked of a mesh (`mesh.Mesh` has it)."""

    def size(self, axis: str) -> int: ...

    def rank(self, axis: str) -> int: ...

    def group(self, axis: str) -> ProcessGroup | None: ...


class Alone:
    """A single process: every axis has size 1."""

    def size(self, axis: str) -> int:
        return 1

    def rank(self, axis: str) -> int:
        return 0

    def group(self, axis: str) -> ProcessGroup | None:
        return None


ALONE = Alone()


@dataclass(frozen=True)
class Layout:
    """One pack as one rank has it; see `of`."""

    pack: Pack
    ids: Tensor
    """Long [C]: the chunk's tokens"""
    cos: Tensor
    """[C, d]"""
    sin: Tensor
    """[C, d]"""
    start: int
    """The shard's first token among all, and the one after its last: `stop` - `start` = S"""
    stop: int
    documents: Laid
    """How attention sees the chunk's tokens"""
    cp: ProcessGroup | None
    whole: bool
    """Whether the shard is the whole pack"""
    all_places: Tensor
    """Long [M]: where the visual tokens stand in the pack"""
    visual: Tensor
    """Long [W]: which of the pack's visual tokens stand in the shard"""
    places: Tensor
    """Long [W]: where they stand in it, 0..S-1"""
    room: int
    """Rows of the taps that go from stage to stage, at least W; the same for every pack of a pipeline"""

    @property
    def visuals(self) -> int:
        """M"""
        return len(self.all_places)

    def over(self, memory: Memory | None) -> Memory | None:
        """A memory of the whole pack as the layers take it."""
        if memory is None or self.whole:
            return memory
        return ChunkMemory(memory, len(self.pack.input_ids), self.cp)

    @staticmethod
    def of(pack: Pack, config: Config, axes: Axes = ALONE, room: int | None = None) -> Layout:
        """pack: on the device of the computation. room: None: as many as the shard needs."""
        tokens = len(pack.input_ids)
        ranks = axes.size("cp") * axes.size("tp")
        size = -(-tokens // ranks)
        chunk = size * axes.size("tp")
        first = axes.rank("cp") * chunk
        start = first + axes.rank("tp") * size
        fill = size * ranks - tokens
        ids = F.pad(pack.input_ids, (0, fill))[first : first + chunk]
        cos, sin = text_angles(config.text, F.pad(pack.positions, (0, fill))[:, first : first + chunk])
        places = visual_places(pack, config)
        documents = pack.documents
        if ranks > 1:
            times = torch.ones(tokens, device=ids.device) if isinstance(documents, Documents) else documents.times
            own = F.pad(times, (0, fill))[start : start + size]
            documents = Chunk(documents, tokens, axes.group("cp"), own)
        visual = ((places >= start) & (places < start + size)).nonzero()[:, 0]
        if room is not None and room < len(visual):
            raise ValueError(f"taps of {room} rows, but {len(visual)} visual tokens in a shard")
        return Layout(
            pack=pack,
            ids=ids,
            cos=cos,
            sin=sin,
            start=start,
            stop=start + size,
            documents=documents,
            cp=axes.group("cp"),
            whole=ranks == 1,
            all_places=places,
            visual=visual,
            places=places[visual] - start,
            room=len(visual) if room is None else room,
        )

    def misfit(self, merge: int) -> str:
        """As `Pack.misfit`."""
        visual = torch.zeros_like(self.pack.input_ids, dtype=torch.bool)
        return self.pack.misfit(visual.index_fill(0, self.all_places, True), merge)


def visual_places(pack: Pack, config: Config) -> Tensor:
    """Long [M]: the tokens of the pack that visual tokens stand for."""
    if pack.places is not None:
        return pack.places
    ids = pack.input_ids
    return ((ids == config.image_token_id) | (ids == config.video_token_id)).nonzero()[:, 0]
